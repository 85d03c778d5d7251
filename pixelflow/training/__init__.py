"""Training: the loop, the optimizer step, averages, checkpoints and several processes."""
