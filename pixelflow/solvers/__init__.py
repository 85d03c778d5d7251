from pixelflow.solvers.adaptive import AdaptiveRungeKutta, FixedRungeKutta
from pixelflow.solvers.fixed import AdamsBashforth, Euler, Heun

__all__ = ["AdamsBashforth", "AdaptiveRungeKutta", "Euler", "FixedRungeKutta", "Heun"]
