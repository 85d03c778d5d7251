"""The mathematics of the flow without networks: cascade, paths, predictions, times, guidance and random numbers."""

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.guidance import (
    ConstantGuidance,
    IntervalGuidance,
    NoGuidance,
    StageIntervalGuidance,
    StageWiseGuidance,
)
from pixelflow.flow.path import StagePath
from pixelflow.flow.prediction import VelocityPrediction, XPrediction
from pixelflow.flow.rng import KeyedRandom
from pixelflow.flow.timesteps import FlowLogitNormalTimesteps, LogitNormalTimesteps, UniformTimesteps, time_grid

__all__ = [
    "Cascade",
    "ConstantGuidance",
    "FlowLogitNormalTimesteps",
    "IntervalGuidance",
    "KeyedRandom",
    "LogitNormalTimesteps",
    "NoGuidance",
    "StageIntervalGuidance",
    "StagePath",
    "StageWiseGuidance",
    "UniformTimesteps",
    "VelocityPrediction",
    "XPrediction",
    "time_grid",
]
