"""What every room uses, and what knows nothing of models or data: files, safe text, checks of arguments, processes, the Hub's names."""
