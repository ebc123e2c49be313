import datasets
import pytest

from tests.support.data import image_data


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """The same images twice: as two parquet files for each split, and as a folder of images. Both are sorted by class."""
    root = tmp_path_factory.mktemp("disk")
    (root / "parquet").mkdir()
    for split, seed in (("train", 0), ("test", 9)):
        data = image_data(96, seed).sort("label")
        for part in range(2):
            data.shard(2, part, contiguous=True).to_parquet(root / "parquet" / f"{split}-{part}.parquet")
        for i, row in enumerate(data):
            folder = root / "images" / split / f"class-{row['label']}"
            folder.mkdir(parents=True, exist_ok=True)
            row["image"].save(folder / f"{i:03}.png")
    return root


@pytest.fixture(autouse=True)
def data_cache(monkeypatch, tmp_path_factory):
    """`load_dataset` caches in a folder of these tests, and a stream that is not read to its end does not sleep."""
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
