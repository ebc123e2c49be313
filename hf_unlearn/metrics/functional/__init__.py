"""The measures as plain functions of arrays, tensors or lists."""
