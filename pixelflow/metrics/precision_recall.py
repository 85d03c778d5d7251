"""Improved precision and recall (Kynkäänniemi et al. 2019, arXiv 1904.06991, section 2, equations 1 and 2).

The manifold of a set is the union of balls around its points; the radius of each ball is the distance from the point to
its k-th nearest other point. With f(p, S) = 1 if the point p is in the manifold of the set S, and 0 otherwise:

    precision = mean over samples s of f(s, reference),    recall = mean over references r of f(r, samples)

Shape legend: N points, M other points, D features.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

ROUNDING = 1e-12
"""Tolerance of squared distances, relative to the squared norms: |x|^2 - 2x.y + |y|^2 of equal points is not exact."""


def precision_recall(
    samples: Tensor,
    reference: Tensor,
    *,
    k: int = 3,
    block: int = 2048,
    device: torch.device | str | None = None,
) -> tuple[float, float]:
    """Returns precision and recall, computed in float64.

    Args:
        samples: (N, D) features of the samples.
        reference: (M, D) features of the reference.
        k: Neighbours that determine the radius.
        block: Rows whose distances are computed together. Beside the features, memory is O(block (block + D)).
        device: Device of the computation; by default that of the features.

    Raises:
        ValueError: `k` is below 1, or a set has at most k points.
    """
    if k < 1:
        raise ValueError(f"k={k} must be at least 1")
    for name, points in (("samples", samples), ("reference", reference)):
        if len(points) <= k:
            raise ValueError(f"{name} has {len(points)} points; k={k} neighbours need at least {k + 1}")
    # Distances do not depend on the origin, and with one near the data their expansion loses fewer digits.
    origin = reference.double().mean(dim=0)
    ours, theirs = (Blocks(points, block, origin, device) for points in (samples, reference))
    return shares_inside(ours, theirs, squared_radii(ours, k=k), squared_radii(theirs, k=k))


class Blocks:
    """Rows of features as blocks in float64 relative to an origin; the features themselves are not copied.

    Args:
        points: (N, D) features.
        block: Rows per block.
        origin: (D,) float64.
        device: Device of the blocks; by default that of the features.
    """

    def __init__(self, points: Tensor, block: int, origin: Tensor, device: torch.device | str | None) -> None:
        self.points, self.block, self.origin = points, block, origin
        self.device = points.device if device is None else torch.device(device)

    def __iter__(self) -> Iterator[tuple[slice, Tensor]]:
        yield from self.since(0)

    def since(self, first: int) -> Iterator[tuple[slice, Tensor]]:
        """Yields the position and the rows of each block, from the one that begins at row `first`."""
        for start in range(first, len(self.points), self.block):
            place = slice(start, min(start + self.block, len(self.points)))
            rows = self.points[place].double() - self.origin
            yield place, rows.to(self.device)

    def __len__(self) -> int:
        return len(self.points)


def squared_radii(points: Blocks, *, k: int) -> Tensor:
    """Returns the squared distance (N,) of each point to its k-th nearest other point."""
    nearest = torch.full((len(points), k), torch.inf, dtype=torch.float64, device=points.device)

    def update(place: slice, distances: Tensor) -> None:
        closest = distances.topk(min(k, distances.shape[1]), largest=False).values
        nearest[place] = torch.cat([nearest[place], closest], dim=1).topk(k, largest=False).values

    for row, x in points:
        for column, y in points.since(row.start):
            distances = _squared_distances(x, y)
            if row == column:
                distances.fill_diagonal_(torch.inf)
            else:
                update(column, distances.T.contiguous())
            update(row, distances)
    return nearest.amax(dim=1)


def shares_inside(a: Blocks, b: Blocks, radii_a: Tensor, radii_b: Tensor) -> tuple[float, float]:
    """Returns the fraction of points of `a` in the manifold of `b`, and the fraction of points of `b` in that of `a`.

    Args:
        a: N points.
        b: M points.
        radii_a: (N,) squared radii of the balls around the points of `a`.
        radii_b: (M,) squared radii of the balls around the points of `b`.
    """
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
    """Squared distances (N, M) of x (N, D) and y (M, D)."""
    norms = x.square().sum(dim=1)[:, None] + y.square().sum(dim=1)
    return norms.sub_(x @ y.T, alpha=2).clamp_(min=0)
