"""What samples are compared with: statistics, and features of images, of the same network.

Shape legend: N images, D features, S spatial features.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pixelflow.metrics.features import FeatureExtractor
from pixelflow.metrics.frechet import GaussianStatistics, Statistics, StoredStatistics, require_finite

KEPT = 10_000
"""Images whose features serve precision, recall and KID, evenly spaced: as many as the ADM suite's references hold."""


@dataclass(frozen=True)
class Reference:
    """What samples are compared with.

    name: goes into the record, such as "digits train, 16 px, 1500 images". extractor, preprocessing: of the network.
    statistics: of pool features. spatial: of the spatial layer, or None. pool: (N, D) float32 on the CPU, in an order
    that does not depend on that of the images, or None where only statistics are known. resolution: of the images,
    None if unknown. num_images: behind the statistics, None if unknown. content: hash of the images or the file.
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
        """batches: (B, C, H, W) uint8 each; total: how many images they hold, if more than KEPT.

        Raises ValueError for other types, no images or non-finite features.
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
            # Image i is kept where i * KEPT / total passes a whole number.
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
        """Raises ValueError where it was made with another network or another preprocessing."""
        if self.extractor != extractor.name or self.statistics.num_features != extractor.num_features:
            raise ValueError(
                f"reference {self.name!r} holds {self.statistics.num_features} features of {self.extractor!r}, "
                f"but samples would be measured with {extractor.name!r} ({extractor.num_features}): "
                "make the reference anew, or use the metrics it is for"
            )
        if self.preprocessing not in (None, extractor.preprocessing):
            raise ValueError(
                f"reference {self.name!r} was preprocessed otherwise ({self.preprocessing}; "
                f"samples: {extractor.preprocessing}): make the reference anew"
            )

    def check_resolution(self, side: int) -> None:
        """Raises ValueError for samples of another side in pixels, where that of the reference is known."""
        if self.resolution not in (None, side):
            raise ValueError(
                f"the samples have {side} px, reference {self.name!r} has {self.resolution} px: "
                "their features are not comparable; use a reference of the samples' resolution"
            )

    def save(self, path: Path) -> None:
        """An .npz with the names of the ADM suite (mu, sigma, mu_s, sigma_s), written aside and renamed."""
        arrays: dict[str, Any] = {"mu": self.statistics.mean.numpy(), "sigma": self.statistics.covariance.numpy()}
        if self.spatial is not None:
            arrays |= {"mu_s": self.spatial.mean.numpy(), "sigma_s": self.spatial.covariance.numpy()}
        if self.pool is not None:
            arrays["pool"] = self.pool.numpy()
        facts = ("name", "extractor", "preprocessing", "resolution", "num_images", "content")
        arrays |= {key: np.array(value) for key in facts if (value := getattr(self, key)) is not None}
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(aside, "wb") as stream:
                np.savez(stream, **arrays)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)

    def with_images_of(self, other: Reference) -> Reference:
        """These statistics, and the images' features of `other`: what the ADM suite's .npz holds."""
        return replace(self, pool=other.pool, resolution=other.resolution)


INCEPTION = "inception-2015-12-05"
"""What the ADM suite's files hold statistics of; they do not say so themselves."""


def read_statistics(path: Path) -> Reference | None:
    """The statistics stored in an .npz, ours or the ADM suite's; None for one that holds images alone.

    Raises ValueError for a file that cannot be read or whose statistics do not fit each other.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "mu" not in archive or "sigma" not in archive:
                return None
            arrays = {name: archive[name] for name in archive.files if name not in ("arr_0", "arr_1")}
    except Exception as error:  # zipfile and numpy raise half a dozen kinds
        raise ValueError(f"{path} cannot be read as an .npz: {error}") from None
    facts: dict[str, Any] = {
        key: arrays[key].item() for key in ("name", "extractor", "preprocessing", "content") if key in arrays
    }
    facts |= {key: int(arrays[key]) for key in ("resolution", "num_images") if key in arrays}
    try:
        spatial = _stored(arrays["mu_s"], arrays["sigma_s"]) if "mu_s" in arrays and "sigma_s" in arrays else None
        statistics = _stored(arrays["mu"], arrays["sigma"])
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    pool = torch.from_numpy(arrays["pool"]) if "pool" in arrays else None
    facts = {"name": path.name, "extractor": INCEPTION} | facts
    return Reference(statistics=statistics, spatial=spatial, pool=pool, **facts)


def _stored(mean: np.ndarray, covariance: np.ndarray) -> StoredStatistics:
    return StoredStatistics(torch.from_numpy(mean).double(), torch.from_numpy(covariance).double())


def extract(extractor: FeatureExtractor, images: Tensor) -> Any:
    """The extractor's Features. Raises ValueError for images that are not uint8 and features that are not finite."""
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
    """pool (N, D) sorted by a weighted sum of each row: subsets are drawn by position, and images may come in any
    order. The weights are unequal, as plain sums of pixels or counts tie."""
    weights = 2 + torch.arange(pool.shape[1], dtype=torch.float64).cos()
    keys = [(part.double() * weights).sum(dim=1) for part in pool.split(4096)]
    return pool[torch.cat(keys).argsort(stable=True)]
