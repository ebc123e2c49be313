import subprocess
import sys
from itertools import count

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from hf_unlearn.data.pairs import PairCollator, PreparedRows, UnlearningDataset, sample_seed, share_out
from hf_unlearn.data.sampling import EpochSampler, draw


def rows(start, count):
    return [{"value": i} for i in range(start, start + count)]


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


@pytest.mark.slow
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


@pytest.mark.slow
def test_workers_are_not_sent_the_rows_kept_in_memory():
    rows = PreparedRows([torch.zeros(1000)] * 50, lambda x: {"pixel_values": x}, cache_bytes=10**6)
    list(rows)
    assert len(rows._cache) == 50
    copy = PreparedRows.__new__(PreparedRows)
    copy.__dict__.update(rows.__getstate__())
    assert not copy._cache
    list(copy)
    assert len(copy._cache) == 50
    assert len(rows._cache) == 50


COUNTED = """
import torch
from pathlib import Path
from hf_unlearn.data.pairs import PreparedRows

def own_memory():
    line = next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("RssAnon"))
    return 1024 * int(line.split()[1])

def prepare(i):
    return {"input_ids": torch.zeros(4, dtype=torch.long), "labels": torch.tensor(0)}

rows = PreparedRows(range(60_000), prepare, cache_bytes=2**24)
before = own_memory()
for _ in rows:
    pass
print((own_memory() - before) / 2**24)
"""


@pytest.mark.slow
def test_rows_kept_in_memory_are_counted_as_they_are():
    done = subprocess.run([sys.executable, "-c", COUNTED], capture_output=True, text=True, check=True, timeout=120)
    assert 0.6 < float(done.stdout) < 1.5


def collate(rows):
    """Values padded to the longest row of the batch, and the labels that all rows have."""
    width = max(len(row["x"]) for row in rows)
    batch = {"x": torch.tensor([row["x"] + [0] * (width - len(row["x"])) for row in rows])}
    return batch | ({"labels": torch.tensor([row["labels"] for row in rows])} if "labels" in rows[-1] else {})


def test_both_sides_of_a_batch_are_padded_to_one_length():
    forget = [{"x": [1], "labels": 4}, {"x": [2, 2], "labels": 5}]
    retain = [{"x": [3] * 4}, {"x": [4]}, {"x": [5]}]
    data = UnlearningDataset(forget, retain, dict, retain_per_forget=2, groups=np.array([7, 8, 9]))
    items = [data[0, position, index] for position, index in ((0, 1), (1, 0))]
    batch = PairCollator(collate, dict)(items)
    drawn = [row["x"][0] - 3 for item in items for row in item["retain"]]
    assert batch["forget"]["x"].shape == (2, batch["retain"]["x"].shape[1])
    assert batch["forget"]["x"][:, :2].tolist() == [[2, 2], [1, 0]]
    assert batch["retain"]["x"][:, 0].tolist() == [n + 3 for n in drawn]
    assert batch["group"].tolist() == [n + 7 for n in drawn]
    assert batch["forget"]["labels"].tolist() == [5, 4], "labels that only one side has"
    assert "labels" not in batch["retain"]
    assert batch["index"].tolist() == [1, 0]
    assert batch["positions"] == [0, 1]
    assert batch["seed"].tolist() == [sample_seed(0, 0, i) for i in (1, 0)]


def test_rows_of_an_evaluation_are_prepared_and_collated():
    batch = PairCollator(collate, lambda row: {"x": [row["value"]]})(rows(3, 2))
    assert batch["x"].tolist() == [[3], [4]]


@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize("accumulated", [1, 2, 3])
def test_the_shares_of_a_step_add_up_to_one_and_follow_its_rows(processes, accumulated):
    size, rows_of_batch = 23, 10
    sampler = EpochSampler(size, seed=1)
    sampler.cut(rows_of_batch, processes)
    positions = [position for _, position, _ in sampler]
    slots = -(-rows_of_batch // processes)
    parts = [{"positions": positions[i : i + slots]} for i in range(0, len(positions), slots)]
    for first in range(0, 3, accumulated):
        step = range(first, min(first + accumulated, 3))
        held, places, shares = min(rows_of_batch * len(step), size - first * rows_of_batch), [], 0.0
        for process in range(processes):
            batches = [parts[batch * processes + process] for batch in step]
            share_out(batches, size, rows_of_batch)
            for batch in batches:
                assert batch["share"] == sum(p >= 0 for p in batch["positions"]) / held
                shares += batch["share"]
                places += batch["places"].tolist()
        assert shares == pytest.approx(1)
        assert sorted(places) == list(range(held))


def test_a_row_of_a_stream_that_cannot_be_read_or_prepared_is_named():
    def damaged():
        yield from rows(0, 2)
        raise OSError("cut off")

    stream = datasets.IterableDataset.from_generator(damaged)
    data = UnlearningDataset(rows(0, 8), stream, dict)
    with pytest.raises(ValueError, match=r"^`retain_dataset`, row 2: it cannot be read: cut off"):
        data.__getitems__([(0, p, p) for p in range(3)])
    data = UnlearningDataset(rows(0, 8), stream, lambda row: {"x": row["text"]})
    with pytest.raises(ValueError, match=r"^`forget_dataset`, row 1: KeyError 'text'$"):
        data[0, 0, 1]
