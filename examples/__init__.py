"""Runnable examples of the toolkit."""

from lcm.system.console import quiet_libraries

quiet_libraries()  # an example shows its own lines
