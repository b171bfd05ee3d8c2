"""Tools around the pipeline: the shared server and maintenance scripts."""
