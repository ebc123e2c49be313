"""From a request to the rows that a step reads: columns, forget and retain sets, sampling, pairs."""
