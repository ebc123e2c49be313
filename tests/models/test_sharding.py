"""Tensors that two processes hold in parts, against the whole tensors."""

import pytest
import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from hf_unlearn.models.sharding import as_held, is_sharded, local, norms, whole, whole_state
from tests.support.fresh_processes import exit_codes, start


def check_in_a_process_of_two(rank, meeting_point):
    dist.init_process_group("gloo", init_method=f"file://{meeting_point}", rank=rank, world_size=2)
    mesh, values = init_device_mesh("cpu", (2,)), torch.arange(12.0).view(6, 2)
    model = torch.nn.Linear(2, 6, bias=False)
    assert not is_sharded(model)
    model.weight = torch.nn.Parameter(distribute_tensor(torch.zeros(6, 2), mesh, [Shard(0)]))
    assert is_sharded(model)
    with torch.no_grad():
        model.weight.copy_(as_held(values, model.weight))
    assert torch.equal(local(model.weight), values[3 * rank : 3 * rank + 3])
    assert torch.equal(whole(model.weight), values)
    assert not whole(model.weight).requires_grad
    assert torch.equal(whole_state(model)["weight"], values)
    assert norms([model.weight.detach()])[0].item() == pytest.approx(values.norm().item())
    local(model.weight.detach()).zero_()
    assert not whole(model.weight).any()


@pytest.mark.slow
def test_parts_of_two_processes_are_read_and_written_as_a_whole(tmp_path, fork_server):
    log, meeting_point = tmp_path / "log", tmp_path / "meeting-point"
    processes = [start(check_in_a_process_of_two, rank, meeting_point, log=log) for rank in range(2)]
    assert exit_codes(processes, 60) == [0, 0], log.read_text()


def test_tensors_in_one_piece_pass_through():
    model, values = torch.nn.Linear(3, 2), torch.randn(2, 3)
    assert not is_sharded(model)
    assert local(model.weight) is model.weight
    assert as_held(values, model.weight) is values
    assert whole(model.weight).data_ptr() == model.weight.data_ptr()
    assert whole_state(model).keys() == {"weight", "bias"}
    torch.testing.assert_close(norms([values]), [values.square().sum().sqrt()])
