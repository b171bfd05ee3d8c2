"""What keeps the project going, beside the pipeline itself."""
