"""The search engine: Optuna asks, samplers propose, nothing is evaluated twice or lost."""
