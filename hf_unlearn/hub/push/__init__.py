"""Publishing on the Hub: one commit for one unlearned model, never over the original by accident."""
