"""Layers shared by the backbones, packs of several resolutions, and attention kernels."""
