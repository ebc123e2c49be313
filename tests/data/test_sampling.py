import gc
from pathlib import Path

import datasets
import pytest

from hf_unlearn.data.sampling import EpochSampler, draw


def rows(start, count):
    return [{"value": i} for i in range(start, start + count)]


def test_sampler_order_depends_on_seed_and_epoch_only():
    sampler = EpochSampler(50, seed=3)
    orders = []
    for epoch in (0, 1, 0):
        sampler.epoch = epoch
        keys = list(sampler)
        assert [k[:2] for k in keys] == [(epoch, position) for position in range(50)]
        orders.append([k[2] for k in keys])
        assert sorted(orders[-1]) == list(range(50))
    assert orders[0] == orders[2] != orders[1]
    assert [k[2] for k in EpochSampler(50, seed=4)] != orders[0]
    assert [k[2] for k in EpochSampler(5, shuffle=False)] == [0, 1, 2, 3, 4]


class Counting:
    """A data set that counts what is read of it."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read += 1
        return self.rows[index]


def test_drawn_rows_are_read_when_they_are_used():
    data = Counting(list(range(100)))
    rows = draw(data, 10, seed=0)
    assert (len(rows), data.read) == (10, 0)
    assert sorted(rows) == list(rows)
    assert list(rows[2:4]) == list(rows)[2:4]
    data.read = 0
    assert rows[-1] in range(100)
    assert data.read == 1
    assert list(draw(iter(range(100)), 3, seed=0)) == [0, 1, 2]


def test_a_draw_from_a_stream_is_that_of_its_first_epoch_and_leaves_it_where_it_is():
    stream = datasets.Dataset.from_list(rows(0, 40)).to_iterable_dataset(num_shards=4).shuffle(seed=0, buffer_size=8)
    first = draw(stream, 10, seed=0)
    assert first == list(stream.take(10))
    stream.set_epoch(3)
    reader, want = iter(stream), list(stream)
    got = [next(reader) for _ in range(5)]
    assert draw(stream, 10, seed=0) == first != want[:10]
    assert [*got, *reader] == want == list(stream)


def own_memory():
    """Memory that only this process uses, in bytes."""
    gc.collect()
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])


@pytest.mark.slow
def test_an_epoch_of_a_million_rows_takes_eight_bytes_a_row():
    sampler, before, highest = EpochSampler(1_000_000), own_memory(), 0
    for _, position, _ in sampler:
        if position % 250_000 == 0:
            highest = max(highest, own_memory())
    assert position == 999_999
    assert highest - before < 16 * 1_000_000
