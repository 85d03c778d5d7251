"""The terms of the training objective, and their weighted sum."""

from pixelflow.losses.adaptive_weight import AdaptiveWeight
from pixelflow.losses.clean_image import CleanImage
from pixelflow.losses.flow_matching import FlowMatching
from pixelflow.losses.frozen import DinoV2
from pixelflow.losses.gated import GatedLoss, TrainedLoss
from pixelflow.losses.lpips import Lpips, VGGDistance
from pixelflow.losses.objective import Objective, ObjectiveValue
from pixelflow.losses.p_dino import PDino
from pixelflow.losses.repa import Repa

__all__ = [
    "AdaptiveWeight",
    "CleanImage",
    "DinoV2",
    "FlowMatching",
    "GatedLoss",
    "Lpips",
    "Objective",
    "ObjectiveValue",
    "PDino",
    "Repa",
    "TrainedLoss",
    "VGGDistance",
]
