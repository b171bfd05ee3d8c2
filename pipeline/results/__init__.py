"""Results of several runs: records that the project keeps, their pages, and comparisons."""
