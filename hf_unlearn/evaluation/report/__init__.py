"""The report of a run: original, unlearned and retrained model side by side."""
