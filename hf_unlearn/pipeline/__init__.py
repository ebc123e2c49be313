"""One run from a recipe: data, original, request, unlearning, yardstick, report and what is recorded of it."""
