"""What methods are built of: losses, steps, anchors, pooled statistics, influence functions."""
