"""Methods beside each other: the cells of a comparison, their statistics, and how they are shown."""
