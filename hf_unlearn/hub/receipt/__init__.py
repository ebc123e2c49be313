"""The deletion receipt: what was forgotten, from which model, how, with what result, and in which files."""

from ..layout import RECEIPT
from .forgotten_rows import PRIVATE_FILE, PRIVATE_FOLDER, ForgottenRows, verify_inclusion
from .receipt import Receipt, build_receipt
from .sealing import RECEIPT_SCHEMA, read_receipt, seal, verify_folder, write_receipt

# Former names.
RECEIPT_FILE = RECEIPT
SCHEMA = RECEIPT_SCHEMA

__all__ = [
    "PRIVATE_FILE",
    "PRIVATE_FOLDER",
    "RECEIPT",
    "RECEIPT_FILE",
    "RECEIPT_SCHEMA",
    "SCHEMA",
    "ForgottenRows",
    "Receipt",
    "build_receipt",
    "read_receipt",
    "seal",
    "verify_folder",
    "verify_inclusion",
    "write_receipt",
]
