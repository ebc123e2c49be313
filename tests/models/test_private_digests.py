"""The secret of a cache, and what the digest of rows depends on."""

import stat
from concurrent.futures import ThreadPoolExecutor

from hf_unlearn.data.pairs import PreparedRows
from hf_unlearn.models.private_digests import SECRET_FILE, digest_of_inputs, read_secret
from hf_unlearn.models.processor import Processor
from tests.support.data import data_for, processing_class
from tests.support.models import trained


def test_the_secret_is_made_once_and_its_owner_alone_can_read_it(tmp_path):
    folder = tmp_path / "cache"
    with ThreadPoolExecutor(8) as pool:
        found = set(pool.map(read_secret, [folder] * 16))
    assert found == {(folder / SECRET_FILE).read_bytes()}
    assert len(found.pop()) == 32
    assert stat.S_IMODE((folder / SECRET_FILE).stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert [p.name for p in folder.iterdir()] == [SECRET_FILE]


def test_a_digest_tells_rows_their_order_and_labels_apart_and_needs_the_secret():
    processor, data = Processor(trained("vit"), processing_class("vit")), data_for("vit", 12)
    changed = data.map(lambda row, i: {"label": (row["label"] + (i == 5)) % 4}, with_indices=True)
    given = [data, data.select(range(11, -1, -1)), data.select(range(11)), changed]
    digests = [digest_of_inputs(PreparedRows(rows, processor), processor, b"secret") for rows in given]
    assert len(set(digests)) == len(given)
    assert digest_of_inputs(PreparedRows(data, processor), processor, b"secret") == digests[0]
    assert digest_of_inputs(PreparedRows(data, processor), processor, b"another") not in digests
