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
    return shares_inside(ours, theirs, squared_radii(ours, k=k), squared_radii(theirs, k=k))


class Blocks:
    """Rows in float64 about an origin, a block at a time: the features stay in the form they came in."""

    def __init__(self, points: Tensor, block: int, origin: Tensor, device: torch.device | str | None) -> None:
        self.points, self.block, self.origin = points, block, origin
        self.device = points.device if device is None else torch.device(device)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        yield from self.since(0)

    def since(self, first: int) -> Iterator[tuple[slice, Tensor]]:
        """Places and rows of the blocks, from the one that begins at row `first`."""
        for start in range(first, len(self.points), self.block):
            place = slice(start, min(start + self.block, len(self.points)))
            rows = self.points[place].double() - self.origin
            yield place, rows.to(self.device)

    def __len__(self) -> int:
        return len(self.points)


def squared_radii(points: Blocks, *, k: int) -> Tensor:
    """(N,) squared distance of each point to its k-th nearest other point. Every pair is looked at once."""
    nearest = torch.full((len(points), k), torch.inf, dtype=torch.float64, device=points.device)

    def meet(place: slice, distances: Tensor) -> None:
        closest = distances.topk(min(k, distances.shape[1]), largest=False).values
        nearest[place] = torch.cat([nearest[place], closest], dim=1).topk(k, largest=False).values

    for row, x in points:
        for column, y in points.since(row.start):
            distances = _squared_distances(x, y)
            if row == column:
                distances.fill_diagonal_(torch.inf)
            else:
                meet(column, distances.T.contiguous())
            meet(row, distances)
    return nearest.amax(dim=1)


def shares_inside(a: Blocks, b: Blocks, radii_a: Tensor, radii_b: Tensor) -> tuple[float, float]:
    """Share of a's points within any ball around b's, of squared radii radii_b (M,); and the other way round."""
    a_inside, b_inside = (torch.zeros(len(r), dtype=torch.bool, device=r.device) for r in (radii_a, radii_b))
    for row, x in a:
        norms = x.square().sum(dim=1)[:, None]
        for column, y in b:
            slack = (norms + y.square().sum(dim=1)).mul_(ROUNDING)
            distances = _squared_distances(x, y).sub_(slack)
            a_inside[row] |= (distances <= radii_b[column]).any(dim=1)
            b_inside[column] |= (distances <= radii_a[row, None]).any(dim=0)
    return int(a_inside.sum()) / len(a), int(b_inside.sum()) / len(b)


def _squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """(N, D), (M, D) -> (N, M)."""
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return norms.sub_(x @ y.T, alpha=2).clamp_(min=0)
