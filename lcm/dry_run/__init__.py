"""--dry_run: what a run takes of time, memory and disk, measured before it."""
