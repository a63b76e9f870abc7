"""Whole runs on tensors without memory: what they ask of the host, and that they ask no more."""
