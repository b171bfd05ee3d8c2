"""Training: the loop, optimisers and schedules, early stopping. Knows neither DVC nor MLflow."""
