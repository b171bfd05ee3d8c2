"""The history in MLflow: written by stages, read by commands. Nothing else imports mlflow."""
