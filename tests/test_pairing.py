from itertools import count

import datasets
import pytest
from torch.utils.data import DataLoader

from hf_unlearn.data.pairs import PreparedRows, UnlearningDataset, sample_seed
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


def test_sample_seeds_differ_and_do_not_change():
    seeds = {sample_seed(s, e, i) for s in range(5) for e in range(5) for i in range(100)}
    assert len(seeds) == 2500
    assert all(0 <= s < 2**63 for s in seeds)
    assert sample_seed(0, 0, 0) == sample_seed(0, 0, 0)


def test_retain_draws_depend_on_the_key_only():
    def items(keys):
        data = UnlearningDataset(rows(0, 8), rows(100, 50), dict, retain_per_forget=3, seed=7)
        return {key: data[key] for key in keys}

    keys = [(e, p, (p * 5 + e) % 8) for e in range(3) for p in range(8)]
    forward, backward = items(keys), items(reversed(keys))
    assert forward == backward
    drawn = [r["value"] for item in forward.values() for r in item["retain"]]
    assert all(len(item["retain"]) == 3 for item in forward.values())
    assert len(set(drawn)) > 25
    assert min(drawn) >= 100
    for (_, _, index), item in forward.items():
        assert item["forget"] == [{"value": index}]
        assert item["index"] == index


def test_retain_stream_is_the_same_from_any_starting_point():
    def stream():
        return datasets.Dataset.from_list(rows(100, 20)).to_iterable_dataset().shuffle(seed=2, buffer_size=8)

    keys = [(e, p, p) for e in range(2) for p in range(8)]
    whole = UnlearningDataset(rows(0, 8), stream(), dict, retain_per_forget=2)
    reference = {key: whole[key] for key in keys}
    resumed = UnlearningDataset(rows(0, 8), stream(), dict, retain_per_forget=2)
    assert [resumed[key] for key in keys[5:]] == [reference[key] for key in keys[5:]]
    shards = [UnlearningDataset(rows(0, 8), stream(), dict, retain_per_forget=2) for _ in range(2)]
    assert {k: shards[k[1] % 2][k] for k in keys} == reference
    first = [r["value"] for k in keys[:8] for r in reference[k]["retain"]]
    assert len(set(first)) == 16, "one pass repeats no row"
    assert first != [r["value"] for k in keys[8:] for r in reference[k]["retain"]], "each epoch has its own order"


def test_short_retain_stream_wraps_around_and_an_empty_one_is_refused():
    short = datasets.Dataset.from_list(rows(100, 3)).to_iterable_dataset()
    data = UnlearningDataset(rows(0, 4), short, dict)
    assert [data[0, p, p]["retain"][0]["value"] for p in range(4)] == [100, 101, 102, 100]
    empty = datasets.IterableDataset.from_generator(lambda: iter(()))
    with pytest.raises(ValueError, match="`retain_dataset` is an empty stream"):
        UnlearningDataset(rows(0, 4), empty, dict)[0, 0, 0]


def test_a_set_is_needed_and_a_stream_cannot_drive():
    with pytest.raises(ValueError, match="`forget`, `retain`"):
        UnlearningDataset(None, None, dict)
    with pytest.raises(ValueError, match="`retain_dataset` is a stream"):
        UnlearningDataset(None, iter([]), dict)


def test_retain_set_drives_without_a_forget_set():
    data = UnlearningDataset(None, rows(100, 5), dict)
    assert len(data) == 5
    item = data[0, 0, 2]
    assert item["retain"] == [{"value": 102}]
    assert "forget" not in item


class Counting:
    """A data set that counts what is read of it."""

    def __init__(self, rows):
        self.rows, self.read = rows, 0

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        self.read += 1
        return self.rows[index]


def test_drawn_rows_are_read_when_they_are_asked_for():
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


@pytest.mark.parametrize("own_transform", [True, False])
def test_rows_of_a_transform_are_read_anew_and_others_once(own_transform):
    data, views = datasets.Dataset.from_list(rows(0, 6)), count()
    if own_transform:
        data = data.with_transform(lambda batch: {"value": [next(views) for _ in batch["value"]]})
    prepare = dict if own_transform else lambda row: row | {"value": next(views)}
    for given in (data, draw(data, 4, seed=0)):
        prepared = PreparedRows(given, prepare)
        seen = [row["value"] for _ in range(3) for row in prepared]
        assert len(set(seen)) == len(prepared) * (3 if own_transform else 1)


@pytest.mark.usefixtures("fork_server")
@pytest.mark.parametrize("shards", [1, 3])
def test_workers_read_the_whole_retain_stream(shards):
    rows = datasets.Dataset.from_dict({"v": list(range(30))})
    stream = rows.to_iterable_dataset(num_shards=shards)
    data = UnlearningDataset(rows, stream, dict, retain_per_forget=2)
    items = [(0, p, p) for p in range(8)]
    expected = [data[key]["retain"] for key in items]
    loader = DataLoader(data, batch_size=2, sampler=items, num_workers=2, collate_fn=list)
    assert [item["retain"] for batch in loader for item in batch] == expected
