"""What three processes compute together is what one process computes of all rows."""

from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist
from torch import nn

from hf_unlearn.utils import distributed, large_tensors
from tests.support import fresh_processes

PROCESSES, ROWS = 3, 7


def work(rank, folder):
    """What each process does: everything of the module once, saved for the test to compare."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    large_tensors.CHUNK = 8  # two rows of four columns
    own, logits = distributed.own_part(ROWS), table()
    part = logits[own.start : own.stop]
    model = nn.BatchNorm1d(2)
    model.running_mean += rank + 1
    distributed.share_statistics(model)
    state = SimpleNamespace(end_of_dataloader=True, remainder=7)
    found = {
        "own": list(own),
        "processes": distributed.processes(),
        "sum": distributed.sum_over_processes(torch.tensor([rank, 1.0])),
        "sums": distributed.sums_over_processes([0.1 * rank, 1.0]),
        "range": distributed.range_over_processes(-rank, 10 - rank),
        "any": [distributed.in_any_process(rank == 1), distributed.in_any_process(False)],
        "together": distributed.together([rank] * rank),
        "rows": distributed.rows_together(part.requires_grad_()),
        "joined": distributed.joined_outputs(part.detach(), torch.arange(ROWS)[own.start : own.stop], ROWS),
        "no labels": distributed.joined_outputs(part.detach(), None if rank == 2 else torch.tensor(list(own)), ROWS)[1],
        "mean": model.running_mean,
        "real": [distributed.real_rows(4, state), distributed.real_rows(4, SimpleNamespace(end_of_dataloader=False))],
    }
    distributed.wait_for_all()
    torch.save(found, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


def table():
    return torch.randn(ROWS, 4, generator=torch.Generator().manual_seed(1))


@pytest.mark.slow
def test_three_processes_divide_rows_and_agree(tmp_path):
    started = [fresh_processes.start(work, rank, tmp_path, log=tmp_path / "log") for rank in range(PROCESSES)]
    assert fresh_processes.exit_codes(started, 100) == [0] * PROCESSES, (tmp_path / "log").read_text()
    found = [torch.load(tmp_path / f"{rank}.pt") for rank in range(PROCESSES)]
    assert [n for f in found for n in f["own"]] == list(range(ROWS))
    assert [len(f["own"]) for f in found] == [2, 2, 3]
    assert [f["real"] for f in found] == [[4, 4], [3, 4], [0, 4]]
    for each in found:
        assert each["processes"] == PROCESSES
        assert each["sum"].tolist() == [3, 3]
        assert each["sums"] == pytest.approx([0.3, 3.0], abs=1e-15)
        assert each["range"] == (-2, 10)
        assert each["any"] == [True, False]
        assert each["together"] == [1, 2, 2]
        assert torch.equal(each["rows"][0], table())
        assert each["rows"][1] == each["own"][0]
        assert not each["rows"][0].requires_grad
        assert torch.equal(each["joined"][0], table())
        assert each["joined"][1].tolist() == list(range(ROWS))
        assert each["no labels"] is None
        assert each["mean"].tolist() == [1, 1]


def test_in_a_single_process_nothing_changes():
    tensor, labels = torch.randn(3, 2), torch.arange(3)
    assert not distributed.in_parallel()
    assert distributed.processes() == 1
    assert distributed.own_part(3) == range(3)
    assert distributed.sum_over_processes(tensor) is tensor
    assert distributed.sums_over_processes((1, 2.5)) == [1, 2.5]
    assert distributed.range_over_processes(-1.5, 2) == (-1.5, 2)
    assert [distributed.in_any_process(flag) for flag in (True, False)] == [True, False]
    joined = distributed.joined_outputs(tensor, labels, 3)
    assert joined[0] is tensor
    assert torch.equal(joined[1], labels)
    assert torch.equal(distributed.rows_together(tensor)[0], tensor)
    assert distributed.rows_together(tensor)[1] == 0
    assert distributed.together([1, "a"]) == [1, "a"]
    assert distributed.real_rows(4, None) == 4
