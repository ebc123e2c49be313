"""Every request of a push fails in every way. The push completes or the repository keeps what it held; a second push completes it.

The client is real and talks HTTP. Only the clock is not real, so that nobody sleeps between two tries.
"""

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

from hf_unlearn.cli import main
from hf_unlearn.hub.push import push
from hf_unlearn.hub.push.retries import Patience
from tests.support.hub_runs import RUN_FILES, digests, run_folder
from tests.support.loopback_hub import ALWAYS, Fault, File

pytestmark = pytest.mark.slow


TARGET = "alice/model"


# Each request of a push: "METHOD path", and its number among those that match. The first test shows that the list is complete.
NEW = {
    "license": ("GET /api/models/alice/model$", 0),
    "main": ("GET /api/models/alice/model$", 1),
    "create": ("POST /api/repos/create", 0),
    "main again": ("GET /api/models/alice/model$", 2),
    "refs": ("GET .*/refs", 0),
    "preupload": ("POST .*/preupload/", 0),
    "batch": ("POST .*/objects/batch", 0),
    "first upload": ("PUT /_lfs/", 0),
    "second upload": ("PUT /_lfs/", 1),
    "first verify": ("POST .*/verify", 0),
    "second verify": ("POST .*/verify", 1),
    "card": ("POST /api/validate-yaml", 0),
    "commit": ("POST .*/commit/", 0),
    "tag": ("POST .*/tag/", 0),
}


BRANCH = {
    "license": NEW["license"],
    "main": NEW["main"],
    "refs": NEW["refs"],
    "history": ("GET .*/commits/main", 0),
    "first": ("GET .*/revision/[0-9a-f]{40}", 0),
    "branch": ("POST .*/branch/", 0),
    **{step: NEW[step] for step in list(NEW)[5:]},
}


XET = {"token": ("GET .*/xet-write-token/", 0), "commit": NEW["commit"]}


def revoke(hub):
    hub.users.clear()


def go_down(hub):
    hub.faults.append(Fault(503, times=ALWAYS))


def commit_elsewhere(hub):
    """Somebody else commits to every branch of the repository."""
    repository = hub.repository(TARGET)
    for branch in list(repository.branches if repository else ()):
        repository.commit(branch, "of somebody else", {"theirs.txt": File.small(b"theirs")}, [])


FAULTS = {
    "503": {"kind": 503},
    "503 always": {"kind": 503, "times": ALWAYS},
    "429": {"kind": 429, "headers": {"Retry-After": "3"}},
    "reset": {"kind": "reset"},
    "reset always": {"kind": "reset", "times": ALWAYS},
    "truncated": {"kind": "truncated"},
    "hang": {"kind": "hang"},
    "lost": {"kind": "lost"},
    "lost always": {"kind": "lost", "times": ALWAYS},
    "cut": {"kind": "cut"},
    "revoked": {"kind": revoke},
    "down from here": {"kind": go_down},
    "conflict": {"kind": commit_elsewhere},
}


PASSING = ("503", "429", "reset", "truncated", "hang", "lost", "cut")  # these faults are gone at the second try


OF_A_BODY = ("truncated", "lost", "lost always")  # a request without one, and without effect, is reset by them


def cases(steps, faults=tuple(FAULTS), passing=()):
    """Every fault at every step; with `passing`, those that pass only at these steps."""
    return pytest.mark.parametrize(
        ("step", "fault"),
        [
            pytest.param(step, fault, id=f"{name}-{fault}")
            for name, step in steps.items()
            for fault in faults
            if not (step[0].startswith("GET") and fault in OF_A_BODY)
            and not (passing and name not in passing and fault in PASSING)
        ],
    )


@pytest.fixture
def run(tmp_path):
    return run_folder(tmp_path / "run")


@pytest.fixture
def impatient(monkeypatch, waits):
    """Broken connections show at once."""
    monkeypatch.setattr(push, "Patience", lambda: Patience(timeout=0.25))


def make_original():
    """A repository whose main holds another model."""
    api = HfApi()
    api.create_repo(TARGET)
    files = {"model.safetensors": b"of the original", "pytorch_model.bin": b"the same", "config.json": b"{}"}
    api.create_commit(TARGET, [CommitOperationAdd(n, c) for n, c in files.items()], commit_message="original")


def words(run):
    return ["push", str(run), "--repo", TARGET, "--tag", "v1"]


def is_whole(hub, branch, run):
    """Whether the branch holds the run, all of it and byte for byte, and no other model."""
    found = hub.repository(TARGET).tree(branch)
    for name in (n for n in RUN_FILES if n != "README.md"):
        local = run / name if (run / name).is_file() else run / "model" / name
        if name not in found or hub.content(TARGET, name, branch) != local.read_bytes():
            return False
    return {*found} - {"theirs.txt"} == {*RUN_FILES, ".gitattributes"}


def check(hub, run, before, done, error, step):
    """What holds after a push, however it ended."""
    repository = hub.repository(TARGET)
    assert done in (0, 2)
    if done == 2:
        assert error.startswith("Error: ")
        assert "Traceback" not in error
        assert "hf_" not in error
        assert any(
            remedy in error for remedy in ("Run the same", "run the same", "hf auth login", "Check the name", "Choose")
        )
    if repository is None:
        assert done == 2
        return
    assert repository.private == (before is None)
    for branch, head in repository.branches.items():
        ours = [c["title"] for c in repository.commits.values()].count("Unlearned model")
        if before and branch in before["branches"]:
            titles = {repository.commits[c]["title"] for c in _since(repository, head, before["branches"][branch])}
            assert titles <= {"of somebody else"}
        elif is_whole(hub, branch, run):
            assert ours == 1
        else:  # a new, empty branch or repository may stay behind
            assert done == 2 or "theirs.txt" in repository.tree(branch)
            assert not any(name.endswith((".safetensors", ".bin")) for name in repository.tree(branch))
    if done == 0:
        assert repository.tags.keys() == {"v1"}
        assert is_whole(hub, "v1", run)


def _since(repository, head, old):
    while head != old:
        yield head
        head = repository.commits[head]["parent"]


def push_twice(hub, run, capsys, step, fault):
    """With the fault, then without; returns the exit code of the first."""
    local = digests(run)
    repository = hub.repository(TARGET)
    before = repository.state() if repository else None
    injected = Fault(match=step[0], at=step[1], **FAULTS[fault])
    hub.hang_seconds = 0.5
    hub.faults[:] = [injected]
    done = main(words(run))
    assert injected.hits >= 1, "the fault struck nothing"
    check(hub, run, before, done, capsys.readouterr().err, step)
    assert digests(run) == local
    hub.faults.clear()
    hub.token("alice")
    stored = {oid: hub.received[oid] for oid in hub.blobs}
    moved = step == NEW["tag"] and fault == "conflict"  # the branch has gone on, and the tag of the first push stays
    again = main(words(run))
    assert again == (2 if moved else 0)
    assert {oid: hub.received[oid] for oid in stored} == stored
    check(hub, run, before, again, capsys.readouterr().err, step)
    assert digests(run) == local
    return done


def test_the_steps_are_all_requests_of_a_push(hub, run, impatient):
    for steps in (NEW, BRANCH):
        hub.reset()
        hub.token("alice")
        if steps is BRANCH:
            make_original()
        hub.requests.clear()
        assert main(words(run)) == 0
        made = [f"{method} {path}".partition("?")[0] for method, path, _ in hub.requests if "agent" not in path]
        faults = [Fault(0, at, 1, match) for match, at in steps.values()]
        assert [sum(f.strikes(request) for f in faults) for request in made] == [1] * len(steps)


@cases(NEW)
def test_a_new_repository(hub, run, impatient, capsys, step, fault):
    done = push_twice(hub, run, capsys, step, fault)
    assert done == 0 or fault not in PASSING


@cases(BRANCH, passing=("history", "first", "branch", "commit"))
def test_a_new_branch_beside_the_original(hub, run, impatient, capsys, step, fault):
    make_original()
    done = push_twice(hub, run, capsys, step, fault)
    assert done == 0 or fault not in PASSING


@pytest.mark.parametrize("fault", ["503 always", "reset always"])
@pytest.mark.parametrize("step", ["preupload", "first upload", "card", "commit"])
def test_the_new_branch_of_a_failed_push_is_deleted(hub, run, impatient, step, fault):
    make_original()
    before = hub.repository(TARGET).state()
    hub.faults[:] = [Fault(match=BRANCH[step][0], at=BRANCH[step][1], **FAULTS[fault])]
    assert main(words(run)) == 2
    assert hub.repository(TARGET).state() == before


@pytest.mark.parametrize("step", ["preupload", "batch", "card", "commit"])
def test_a_commit_of_somebody_else_during_a_push_is_not_overwritten(hub, tmp_path, impatient, capsys, step):
    assert main(words(run_folder(tmp_path / "first"))) == 0
    other = run_folder(tmp_path / "second", seed=1)

    def improve(hub):
        hub.repository(TARGET).commit("main", "theirs", {"README.md": File.small(b"---\ntags: []\n---\ntheirs")}, [])

    hub.faults[:] = [Fault(improve, match=NEW[step][0])]
    command = ["push", str(other), "--repo", TARGET, "--revision", "main"]
    assert main(command) == 2
    assert "changed while the push was under way (412); nothing was overwritten" in capsys.readouterr().err
    assert hub.content(TARGET, "README.md").endswith(b"theirs")
    hub.faults.clear()
    assert main(command) == 2
    assert "README.md of it would be lost" in capsys.readouterr().err  # the branch is read again
    assert main([*command, "--overwrite-original", TARGET]) == 0
    assert is_whole(hub, "main", other)


def test_a_commit_that_arrives_during_the_second_try_is_recognized(hub, run, impatient):
    commit = NEW["commit"][0]
    hub.faults[:] = [Fault("late", match=commit), Fault(lambda hub: hub.late(), match=commit)]
    assert main(words(run)) == 0
    assert [f.hits for f in hub.faults] == [1, 1]
    check(hub, run, None, 0, "", None)
    assert len(hub.repository(TARGET).commits) == 2


@cases(XET, [f for f in FAULTS if f != "hang"])
def test_over_xet(hub, run, impatient, capsys, monkeypatch, step, fault):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", False)
    hub.faults[:] = [Fault(match=step[0], at=step[1], **FAULTS[fault])]
    done = main(words(run))
    assert done == 0 or fault not in PASSING
    assert done == 0 or capsys.readouterr().err.startswith("Error: ")
    assert {*RUN_FILES} & {*hub.repository(TARGET).tree()} in (set(), {*RUN_FILES})
    stored = {p: p.stat().st_mtime_ns for p in hub.cas.rglob("*.xorb")}
    hub.faults.clear()
    hub.token("alice")
    assert main(words(run)) == 0
    assert stored.items() <= {p: p.stat().st_mtime_ns for p in hub.cas.rglob("*.xorb")}.items()
    assert {*RUN_FILES} <= {*hub.repository(TARGET).tree("v1")}
