"""What the tests of pushes share."""

from huggingface_hub import CommitOperationAdd, HfApi

REPO = "alice/unlearned"


def tree(hub, repo, branch=None):
    return sorted(set(hub.repository(repo).tree(branch)) - {".gitattributes"})


def sent(hub):
    """Requests that change something on the Hub."""
    return [(method, path) for method, path, _ in hub.requests if method != "GET"]


def put(hub, files, repo=REPO, branch=None):
    """One commit of somebody else; returns the state of the repository after it."""
    HfApi().create_repo(repo, exist_ok=True)
    operations = [CommitOperationAdd(name, content) for name, content in files.items()]
    HfApi().create_commit(repo, operations, commit_message="theirs", revision=branch)
    hub.requests.clear()
    return hub.repository(repo).state()
