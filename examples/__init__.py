"""Runnable examples of the toolkit."""

from lcm.console import quiet_libraries

quiet_libraries()  # an example shows its own lines
