"""The machine: files, locks, signals, memory, processes."""
