"""Data sets that are read once, in order, and not stored."""
