"""Improved precision and recall (Kynkäänniemi et al. 2019, section 2).

A set's manifold is the union of balls around its points, each reaching to the point's k-th nearest neighbour,
itself not counted. Precision is the share of samples inside the reference manifold, recall the share of
references inside the manifold of the samples.

Shape legend: N points, M other points, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Slack on squared distances, as a share of the squared norms: |x|^2 - 2x.y + |y|^2 of equal points is not quite 0."""


def precision_recall(
    samples: Tensor,
    reference: Tensor,
    *,
    k: int = 3,
    block: int = 2048,
    device: torch.device | str | None = None,
) -> tuple[float, float]:
    """Precision and recall, in float64.

    samples: (N, D). reference: (M, D). block: rows whose distances are held at once; beyond the features themselves
    memory is O(block (block + D)). device: where to compute; by default where the features are.
    Raises ValueError for k < 1 or where a set has no more than k points.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    for name, points in (("samples", samples), ("reference", reference)):
        if len(points) <= k:
            raise ValueError(f"{name} has {len(points)} points; k={k} neighbours need at least {k + 1}")
    # Distances do not change with the origin, and near the data their expansion cancels less.
    origin = reference.double().mean(dim=0)
    ours, theirs = (Blocks(points, block, origin, device) for points in (samples, reference))
    return (
        _share_inside(ours, theirs, squared_radii(theirs, k=k)),
        _share_inside(theirs, ours, squared_radii(ours, k=k)),
    )


class Blocks:
    """Rows in float64 about an origin, a block at a time: the features stay in the form they came in."""

    def __init__(self, points: Tensor, block: int, origin: Tensor, device: torch.device | str | None) -> None:
        self.points, self.block, self.origin = points, block, origin
        self.device = points.device if device is None else torch.device(device)

    def __iter__(self) -> Iterator[tuple[int, Tensor]]:
        for start in range(0, len(self.points), self.block):
            rows = self.points[start : start + self.block].double() - self.origin
            yield start, rows.to(self.device)

    def __len__(self) -> int:
        return len(self.points)


def squared_radii(points: Blocks, *, k: int) -> Tensor:
    """(N,) squared distance of each point to its k-th nearest other point."""
    radii = []
    for row, x in points:
        nearest = x.new_full((len(x), k), torch.inf)
        for column, y in points:
            distances = _squared_distances(x, y)
            if row == column:
                distances.fill_diagonal_(torch.inf)
            closest = distances.topk(min(k, len(y)), largest=False).values
            nearest = torch.cat([nearest, closest], dim=1).topk(k, largest=False).values
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)


def _share_inside(points: Blocks, centres: Blocks, radii: Tensor) -> float:
    """Share of points within any ball around centres of squared radii (M,)."""
    count = 0
    for _, x in points:
        inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        norms = x.square().sum(dim=1)[:, None]
        for column, y in centres:
            slack = (norms + y.square().sum(dim=1)).mul_(ROUNDING)
            inside |= (_squared_distances(x, y).sub_(slack) <= radii[column : column + len(y)]).any(dim=1)
        count += int(inside.sum())
    return count / len(points)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return norms.sub_(x @ y.T, alpha=2).clamp_(min=0)
