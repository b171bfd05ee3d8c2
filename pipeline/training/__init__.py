"""Training: the loop, optimizers and schedules, early stopping. Knows neither DVC nor MLflow."""
