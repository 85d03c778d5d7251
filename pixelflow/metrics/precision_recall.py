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


def precision_recall(samples: Tensor, reference: Tensor, *, k: int = 3, block: int = 4096) -> tuple[float, float]:
    """Precision and recall, in float64.

    samples: (N, D). reference: (M, D). block: rows whose distances are held at once; memory is O(block^2).
    Raises ValueError for k < 1 or where a set has no more than k points.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    for name, points in (("samples", samples), ("reference", reference)):
        if len(points) <= k:
            raise ValueError(f"{name} has {len(points)} points; k={k} neighbours need at least {k + 1}")
    # Distances do not change with the origin, and near the data their expansion cancels less.
    origin = reference.double().mean(dim=0)
    samples, reference = samples.double() - origin, reference.double() - origin
    precision = _share_inside(samples, reference, squared_radii(reference, k=k, block=block), block)
    recall = _share_inside(reference, samples, squared_radii(samples, k=k, block=block), block)
    return precision, recall


def squared_radii(points: Tensor, *, k: int, block: int) -> Tensor:
    """(N,) squared distance of each of points (N, D) to its k-th nearest other point."""
    radii = []
    for row, x in _blocks(points, block):
        nearest = x.new_full((len(x), k), torch.inf)
        for column, y in _blocks(points, block):
            distances = _squared_distances(x, y)
            if row == column:
                distances.fill_diagonal_(torch.inf)
            nearest = torch.cat([nearest, distances], dim=1).topk(k, largest=False).values
        radii.append(nearest.amax(dim=1))
    return torch.cat(radii)


def _share_inside(points: Tensor, centres: Tensor, radii: Tensor, block: int) -> float:
    """Share of points (N, D) within any ball around centres (M, D) of squared radii (M,)."""
    count = 0
    for _, x in _blocks(points, block):
        inside = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        for column, y in _blocks(centres, block):
            slack = ROUNDING * (x.square().sum(dim=1)[:, None] + y.square().sum(dim=1))
            inside |= (_squared_distances(x, y) <= radii[column : column + len(y)] + slack).any(dim=1)
        count += int(inside.sum())
    return count / len(points)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return norms.sub_(x @ y.T, alpha=2).clamp_(min=0)


def _blocks(points: Tensor, block: int) -> Iterator[tuple[int, Tensor]]:
    for start in range(0, len(points), block):
        yield start, points[start : start + block]
