"""Where content comes from and what became of it: links by hash, from DVC's records and MLflow."""
