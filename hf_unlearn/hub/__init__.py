"""What goes to the Hub with an unlearned model: its card, its receipt, and the push of both beside the weights."""
