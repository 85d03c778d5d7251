"""Several metrics that receive the same images."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pixelflow.metrics.clip import ClipScore
from pixelflow.metrics.evaluator import Evaluator
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.reference import Reference

FEATURE_BATCH = 100
"""Images in one forward pass of an extractor: larger batches at 299 pixels need more memory and are not faster."""
WITH_FEATURES = ("kid", "fid_infinity")
"""Additional metrics that use the features of the main extractor."""


class Suite:
    """Evaluators that receive the same images. Its state can be saved, and added to the suite of another process.

    Args:
        evaluator: The main evaluator.
        more: Further evaluators.
    """

    def __init__(self, evaluator: Evaluator, more: Sequence[Evaluator | ClipScore] = ()) -> None:
        self.evaluator = evaluator
        self.members: list[Evaluator | ClipScore] = [evaluator, *more]
        self._ids: list[Tensor] = []

    @property
    def num_samples(self) -> int:
        """Images that were measured."""
        return self.evaluator.num_samples

    def update(self, images: Tensor, labels: Tensor | None, ids: Sequence[int]) -> None:
        """Measures images.

        Args:
            images: (B, C, H, W) uint8.
            labels: Their classes, (B,), or None.
            ids: Their B numbers.
        """
        for start in range(0, len(images), FEATURE_BATCH):
            part = slice(start, start + FEATURE_BATCH)
            for member in self.members:
                member.update(images[part], None if labels is None else labels[part], list(ids)[part])
        self._ids.append(torch.tensor(list(ids)))

    def state(self) -> dict[str, Tensor]:
        """Returns the ids of the images, and each member's state with the member's number as prefix of the keys."""
        states = {f"{n}.{key}": value for n, member in enumerate(self.members) for key, value in member.state().items()}
        return {"ids": torch.cat(self._ids), **{key: value.contiguous() for key, value in states.items()}}

    def add_state(self, state: Mapping[str, Tensor]) -> None:
        """Adds the images of another suite, by its state."""
        self._ids.append(state["ids"])
        for n, member in enumerate(self.members):
            prefix = f"{n}."
            member.add_state({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})

    def clear(self) -> None:
        """Removes all images."""
        self._ids = []
        for member in self.members:
            member.clear()

    def compute(self) -> dict[str, float]:
        """Returns the values of all metrics by name."""
        metrics: dict[str, float] = {}
        for member in self.members:
            metrics |= member.compute()
        return metrics

    def record(self) -> dict[str, Any]:
        """Returns how the images were measured: networks, weights, preprocessing and references."""
        first, *more = (member.record() for member in self.members)
        return first | ({"also": more} if more else {})


def build_suite(
    features: FeatureExtractor,
    also: Mapping[str, Any],
    *,
    reference: Callable[[FeatureExtractor], Reference],
    prompts: Callable[[], Sequence[str]],
) -> Suite:
    """Builds a suite.

    Args:
        features: The main extractor, with its weights loaded.
        also: Additional metrics by name. The value is the extractor, with its weights loaded, or None for the metrics
            of `WITH_FEATURES`. That of "clip_score" is a `pixelflow.metrics.clip.ClipEncoder`.
        reference: Returns the reference for an extractor.
        prompts: Returns the prompt of every image. It is called only if `also` has "clip_score".
    """
    wanted = [*features.metrics, *(name for name in WITH_FEATURES if name in also and name not in features.metrics)]
    first = Evaluator(features=features, reference=reference(features), metrics=wanted)
    more: list[Evaluator | ClipScore] = []
    for name, extractor in also.items():
        if name == "clip_score":
            more.append(ClipScore(encoder=extractor, prompts=prompts()))
        elif extractor is not None:
            more.append(Evaluator(features=extractor, reference=reference(extractor)))
    return Suite(first, more)
