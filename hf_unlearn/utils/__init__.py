"""Tools that every room uses and that need no model and no data: files, text, argument checks, processes, Hub names."""

VERSION = "0.1.0"
