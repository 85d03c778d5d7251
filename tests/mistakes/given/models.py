"""Models of a few thousand weights, made once and copied for each line."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path

import pixelflow


class Models:
    """A model that was built and one that was trained.

    Args:
        folder: Folder in which they are kept.
        canary: File that hostile code makes.
    """

    def __init__(self, folder: Path, canary: Path) -> None:
        self.folder, self.canary = folder, canary
        folder.mkdir(parents=True)

    @property
    def runs(self) -> Path:
        """The folder of runs with one finished run, `example`, of two steps; the runner trains it."""
        return self.folder / "runs"

    @property
    def trained(self) -> Path:
        """The checkpoint of the trained model."""
        return next(self.runs.glob("*/*/checkpoints/step_00000002"))

    @cached_property
    def built(self) -> Path:
        """A checkpoint of a model that was built, not trained: it names no data."""
        model = pixelflow.build(
            "pixelflow_tiny", image_size=16, num_stages=2, num_classes=10, channels=1, depth=1, num_heads=1, head_dim=8
        )
        return model.save(self.folder / "built")
