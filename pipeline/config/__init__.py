"""params.yaml: its schema, its checks, the settings to try, and presets."""
