"""Experiments with pixel-space generative models."""

import os

# Idle OpenMP threads sleep instead of spinning: on a machine that others use too, spinning made a training step on two
# threads more than three times slower. Takes effect where this is imported before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
