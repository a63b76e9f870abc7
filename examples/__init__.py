"""Runnable examples of the toolkit."""
