"""A training run: setup, step and loop."""
