"""What names an entry of a cache: digests of rows, by which nobody without its secret can test a guess, and configurations."""

import hmac
import os
import secrets
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from ..data.pairs import PreparedRows
from ..data.sampling import READ_AT_ONCE
from .processor import Processor
from .snapshot import raw_bytes

SECRET_FILE = "secret"
# What a configuration says of the place and the program that wrote it, and not of the model.
ORIGIN = ("_name_or_path", "transformers_version")


def read_secret(folder: Path) -> bytes:
    """Return the secret of the cache in `folder`. The first run makes both, and only their owner can read them."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = folder / SECRET_FILE
    if not path.exists():
        with NamedTemporaryFile(dir=folder) as new:  # with the mode 600
            new.write(secrets.token_bytes(32))
            new.flush()
            with suppress(FileExistsError):  # another process was first
                os.link(new.name, path)
    return path.read_bytes()


def settings_of(config: Any) -> dict[str, Any]:
    """Return what the configuration of a model says of the model itself."""
    return {name: value for name, value in config.to_dict().items() if name not in ORIGIN}


def digest_of_inputs(rows: PreparedRows, processor: Processor, secret: bytes) -> str:
    """Return an HMAC-SHA256, under `secret`, of what the model reads of all `rows` in their order, labels among it.

    It also depends on columns, tokenizer or image processor, and on the number of each label, and not on how a file is stored.
    """
    digest = hmac.new(secret, digestmod="sha256")
    for first in range(0, len(rows), READ_AT_ONCE):
        batch = processor.collate(rows.many(range(first, min(first + READ_AT_ONCE, len(rows)))))
        for name, tensor in sorted(batch.items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(raw_bytes(tensor))
    return digest.hexdigest()
