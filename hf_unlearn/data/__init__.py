"""From a request to the rows of a training step: columns, forget and retain sets, sampling, pairs."""
