"""Experiments with pixel-space generative models: PixelFlow cascades and PixelGen, as a choice of parts.

`load` reads a trained model and `build` makes a new one; the parts are available by name. Every name is imported when
it is first used, so that `import pixelflow` does not import torch.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

# Idle OpenMP threads sleep instead of spinning: on a machine that others use too, spinning made a training step on two
# threads more than three times slower. It takes effect if this module is imported before torch.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

if TYPE_CHECKING:
    from pixelflow.backbones import JiT, PixelFlow
    from pixelflow.conditioning import ClassLabel
    from pixelflow.errors import Interrupted, UserError, WorkFailed
    from pixelflow.flow import (
        Cascade,
        ConstantGuidance,
        IntervalGuidance,
        NoGuidance,
        StageIntervalGuidance,
        StageWiseGuidance,
        VelocityPrediction,
        XPrediction,
    )
    from pixelflow.loading import build, load
    from pixelflow.model import Model
    from pixelflow.sampling import Sampler, SamplerSettings, SampleSet, to_uint8
    from pixelflow.solvers import AdamsBashforth, AdaptiveRungeKutta, Euler, FixedRungeKutta, Heun
    from pixelflow.types import Batch, Condition

__version__ = "0.1.0"

_MODULES = {
    "backbones": ["JiT", "PixelFlow"],
    "conditioning": ["ClassLabel"],
    "errors": ["Interrupted", "UserError", "WorkFailed"],
    "flow": [
        "Cascade", "ConstantGuidance", "IntervalGuidance", "NoGuidance", "StageIntervalGuidance", "StageWiseGuidance",
        "VelocityPrediction", "XPrediction",
    ],
    "loading": ["build", "load"],
    "model": ["Model"],
    "sampling": ["SampleSet", "Sampler", "SamplerSettings", "to_uint8"],
    "solvers": ["AdamsBashforth", "AdaptiveRungeKutta", "Euler", "FixedRungeKutta", "Heun"],
    "types": ["Batch", "Condition"],
}  # fmt: skip
"""Names of the public API by the module that defines them."""

__all__ = [
    "AdamsBashforth",
    "AdaptiveRungeKutta",
    "Batch",
    "Cascade",
    "ClassLabel",
    "Condition",
    "ConstantGuidance",
    "Euler",
    "FixedRungeKutta",
    "Heun",
    "Interrupted",
    "IntervalGuidance",
    "JiT",
    "Model",
    "NoGuidance",
    "PixelFlow",
    "SampleSet",
    "Sampler",
    "SamplerSettings",
    "StageIntervalGuidance",
    "StageWiseGuidance",
    "UserError",
    "VelocityPrediction",
    "WorkFailed",
    "XPrediction",
    "__version__",
    "build",
    "load",
    "to_uint8",
]


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(importlib.import_module(f"pixelflow.{module}"), name)
    raise AttributeError(f"module 'pixelflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
