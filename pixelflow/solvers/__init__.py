"""Solvers of the ordinary differential equation of a stage."""

from pixelflow.solvers.error_controlled import AdaptiveRungeKutta, FixedRungeKutta
from pixelflow.solvers.fixed import AdamsBashforth, Euler, Heun
from pixelflow.solvers.presets import few_steps

__all__ = ["AdamsBashforth", "AdaptiveRungeKutta", "Euler", "FixedRungeKutta", "Heun", "few_steps"]
