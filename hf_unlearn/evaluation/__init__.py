"""Evidence: what original, unlearned and retrained models do, side by side."""
