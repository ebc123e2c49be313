"""What goes to the Hub with an unlearned model."""
