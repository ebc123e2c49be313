"""Exact unlearning by design: adapters on separate shards of the rows, so that a deletion retrains one shard from before the row."""
