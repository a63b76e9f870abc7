"""Adapter files of every layout: read, judged, written again."""
