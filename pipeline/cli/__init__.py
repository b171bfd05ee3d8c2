"""What a person runs beside `dvc repro`: the `ptune` command. Thin, as the stages are."""
