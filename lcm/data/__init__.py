"""Images or prompts become batches whose random numbers depend on (seed, epoch, sample) alone."""
