"""Whether this machine and this checkout have what `params.yaml` needs."""
