"""Cost and accuracy predictors with honest errors (floor 3)."""
