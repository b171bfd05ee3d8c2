"""Engines that run the units of a stage's work: this process, or the machines of a Ray cluster."""
