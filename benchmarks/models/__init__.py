"""Predictors that only benchmarks judge: no profile has them, no search asks them."""
