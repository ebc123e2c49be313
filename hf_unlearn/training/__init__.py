"""The training loop of unlearning, from the first step to the outcome: arguments, checks, stopping, checkpoints, search."""
