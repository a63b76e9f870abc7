"""What a run reads instead of encoding it in every step: latents, prompts and trajectories."""
