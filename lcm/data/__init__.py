"""From images or prompts to batches whose random numbers depend on (seed, epoch, sample) alone."""
