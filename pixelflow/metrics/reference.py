"""References that samples are compared with: statistics and features of real images.

Shape legend: N images, D features, S spatial features.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelflow.errors import UserError
from pixelflow.files import written_aside
from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.frechet import GaussianStatistics, Statistics, StoredStatistics, require_finite

KEPT = 10_000
"""Maximum number of images whose features are kept for precision, recall and KID, as in the ADM suite."""


@dataclass(frozen=True)
class Reference:
    """Statistics and features of the images that samples are compared with.

    Args:
        name: Name in the records of evaluations, such as "digits train, 16 px, 1500 images".
        extractor: Name of the feature extractor.
        statistics: Statistics of the pool features.
        pool: (N, D) float32 on the CPU, in an order that does not depend on that of the images; None if only statistics
            are known.
        spatial: Statistics of the spatial features; None without them.
        preprocessing: Preprocessing of the extractor; None if unknown.
        resolution: Side of the images in pixels; None if unknown.
        num_images: Number of images of the statistics; None if unknown.
        content: Hash of the images or of the file.
    """

    name: str
    extractor: str
    statistics: Statistics
    pool: Tensor | None
    spatial: Statistics | None = None
    preprocessing: str | None = None
    resolution: int | None = None
    num_images: int | None = None
    content: str = ""

    @classmethod
    def from_images(
        cls,
        extractor: FeatureExtractor,
        batches: Iterable[Tensor],
        *,
        name: str,
        total: int | None = None,
        content: str = "",
    ) -> Reference:
        """Returns the reference of a set of images.

        Args:
            extractor: The feature extractor, with its weights loaded.
            batches: Batches (B, C, H, W) uint8.
            name: See the class.
            total: Number of images in all batches. It is needed if there are more than KEPT.
            content: See the class.

        Raises:
            ValueError: There are no images, they are not uint8, or a feature is not finite.
        """
        statistics = GaussianStatistics(num_features=extractor.num_features)
        spatial = GaussianStatistics(num_features=extractor.num_spatial) if extractor.num_spatial else None
        stride = max(1, (total or 0) / KEPT)
        pools, seen, side = [], 0, None
        for images in batches:
            features = extract(extractor, images)
            statistics.update(features.pool)
            if spatial is not None and features.spatial is not None:
                spatial.update(features.spatial)
            # Image i is kept if i * KEPT / total reaches a new integer.
            kept = [row for row in range(len(images)) if int((seen + row) / stride) > int((seen + row - 1) / stride)
                    or seen + row == 0]  # fmt: skip
            pools.append(features.pool.cpu()[kept])
            seen, side = seen + len(images), images.shape[-1]
        if not seen:
            raise ValueError(f"reference {name!r} has no images")
        return cls(
            name=name, extractor=extractor.name, statistics=statistics, pool=in_canonical_order(torch.cat(pools)),
            spatial=spatial, preprocessing=extractor.preprocessing, resolution=side, num_images=seen, content=content,
        )  # fmt: skip

    def check(self, extractor: FeatureExtractor) -> None:
        """Checks that the reference was made with this extractor.

        Raises:
            UserError: It was made with another network or another preprocessing.
        """
        if self.extractor != extractor.name or self.statistics.num_features != extractor.num_features:
            raise UserError(
                f"reference {self.name!r} holds {self.statistics.num_features} features of {self.extractor!r}, "
                f"but the samples are measured with {extractor.name!r} ({extractor.num_features}): "
                "make the reference again, or use the metrics of its network"
            )
        if self.preprocessing not in (None, extractor.preprocessing):
            raise UserError(
                f"reference {self.name!r} was preprocessed differently ({self.preprocessing}; "
                f"samples: {extractor.preprocessing}): make the reference again"
            )

    def check_resolution(self, side: int) -> None:
        """Checks that samples have the resolution of the reference, if that is known.

        Raises:
            UserError: The samples have another side in pixels.
        """
        if self.resolution not in (None, side):
            raise UserError(
                f"the samples have {side} px, reference {self.name!r} has {self.resolution} px: "
                "their features are not comparable; use a reference of the samples' resolution"
            )

    def save(self, path: Path) -> None:
        """Writes an .npz with the keys of the ADM suite (mu, sigma, mu_s, sigma_s)."""
        arrays: dict[str, Any] = {"mu": self.statistics.mean.numpy(), "sigma": self.statistics.covariance.numpy()}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean.numpy(), "sigma_s": self.spatial.covariance.numpy()}
        if self.pool is not None:
            arrays["pool"] = self.pool.numpy()
        facts = ("name", "extractor", "preprocessing", "resolution", "num_images", "content")
        arrays |= {key: np.array(value) for key in facts if (value := getattr(self, key)) is not None}
        with written_aside(path) as aside, open(aside, "wb") as stream:
            np.savez(stream, **arrays)

    def with_images_of(self, other: Reference) -> Reference:
        """Returns a reference with these statistics and the features of `other`, as the ADM suite combines the two."""
        return replace(self, pool=other.pool, resolution=other.resolution)


TEXTS, NUMBERS = ("name", "extractor", "preprocessing", "content"), ("resolution", "num_images")
STORED = (*TEXTS, *NUMBERS, "mu", "sigma", "mu_s", "sigma_s", "pool")
"""Arrays that are read from a file of statistics."""
LARGEST = 1 << 33
"""Largest size in bytes of the arrays of a file of statistics. A small file can unpack to any size."""
INCEPTION = "inception-2015-12-05"
"""The extractor of the ADM suite's statistics, which their files do not name."""


def read_statistics(path: Path) -> Reference | None:
    """Returns the statistics in an .npz of `Reference.save` or of the ADM suite; None if it only holds images.

    Raises:
        UserError: The file cannot be read, or its statistics are not valid.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "mu" not in archive or "sigma" not in archive:
                return None
            sizes = {info.filename.removesuffix(".npy"): info.file_size for info in archive.zip.infolist()}
            if sum(sizes.get(name, 0) for name in STORED) > LARGEST:
                raise ValueError("its statistics are larger than any that this package reads")
            arrays = {name: archive[name] for name in archive.files if name in STORED}
    except Exception as error:  # zipfile and numpy raise exceptions of many types.
        raise UserError(f"{path} cannot be read as an .npz: {error}") from None
    try:
        facts: dict[str, Any] = {key: arrays[key].item() for key in TEXTS if key in arrays}
        facts |= {key: int(arrays[key]) for key in NUMBERS if key in arrays}
        spatial = _stored(arrays["mu_s"], arrays["sigma_s"]) if "mu_s" in arrays and "sigma_s" in arrays else None
        statistics = _stored(arrays["mu"], arrays["sigma"])
    except (ValueError, TypeError) as error:
        raise UserError(f"{path}: {error}") from None
    pool = torch.from_numpy(arrays["pool"]) if "pool" in arrays else None
    facts = {"name": path.name, "extractor": INCEPTION} | facts
    return Reference(statistics=statistics, spatial=spatial, pool=pool, **facts)


def _stored(mean: np.ndarray, covariance: np.ndarray) -> StoredStatistics:
    return StoredStatistics(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())


def extract(extractor: FeatureExtractor, images: Tensor) -> Any:
    """Returns the features of images.

    Raises:
        ValueError: The images are not (B, C, H, W) uint8, or a feature is not finite.
    """
    if images.dtype != torch.uint8 or images.ndim != 4:
        raise ValueError(
            f"images must be uint8 (B, C, H, W), got {images.dtype} {tuple(images.shape)}; "
            "pixelflow.sampling.to_uint8 converts images in [-1, 1]"
        )
    features = extractor(images)
    require_finite(features.pool)
    if features.spatial is not None:
        require_finite(features.spatial)
    return features


def in_canonical_order(pool: Tensor) -> Tensor:
    """Returns features (N, D), sorted by a weighted sum of each row.

    Subsets are drawn by position, and the sorting makes them independent of the order of the images. The weights
    differ between the columns because plain sums of pixels or counts are often equal.
    """
    weights = 2 + torch.arange(pool.shape[1], dtype=torch.float64).cos()
    keys = [(part.double() * weights).sum(dim=1) for part in pool.split(4096)]
    return pool[torch.cat(keys).argsort(stable=True)]
