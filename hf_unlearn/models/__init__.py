"""All that reads or writes a model and knows no method: inputs, forward passes, structure, snapshots, adapters, files."""
