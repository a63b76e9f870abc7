"""Launches on several processes and machines."""
