"""What a run writes: the output folder, checkpoints, metrics, progress, grids."""
