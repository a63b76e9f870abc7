"""The configuration of a run: sections, checks between them, flags and YAML."""
