from pixelflow.sampling.sampler import Sampler, Samples, to_uint8

__all__ = ["Sampler", "Samples", "to_uint8"]
