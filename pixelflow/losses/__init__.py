from pixelflow.losses.flow_matching import FlowMatching
from pixelflow.losses.objective import Objective, ObjectiveValue

__all__ = ["FlowMatching", "Objective", "ObjectiveValue"]
