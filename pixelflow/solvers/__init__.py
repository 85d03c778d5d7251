from pixelflow.solvers.fixed import Euler

__all__ = ["Euler"]
