"""The steps of one run from a recipe: data, original, request, unlearning, retraining, report, and what is recorded of it."""
