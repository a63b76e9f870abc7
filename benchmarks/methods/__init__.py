"""Every distillation method on the tiny world, under one budget."""
