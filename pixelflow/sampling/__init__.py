"""Draws images from a model: the stage loop, its batches, and the forms of output."""

from pixelflow.sampling.sampler import Sampler, Samples, to_uint8
from pixelflow.sampling.settings import SamplerSettings, SampleSet

__all__ = ["SampleSet", "Sampler", "SamplerSettings", "Samples", "to_uint8"]
