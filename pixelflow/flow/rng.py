"""Random numbers that depend on the image and not on the order in which images are drawn.

Every draw is keyed by (seed, purpose, image, step) and made by the counter-based generator Philox 4x64
(Salmon et al. 2011, through NumPy): the first two give the key, the last two the counter, so no two draws
overlap. The numbers do not depend on batch size, number of processes, restarts or order.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

THREADED_SIZE = 1_000_000
"""Number of values above which a draw is divided among threads."""


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)


@dataclass(frozen=True)
class KeyedRandom:
    """Random numbers keyed by name.

    Every method takes a purpose ("noise", "drop", ...), the ids of the images (non-negative integers) and, if an
    image is drawn more than once, a step.

    Args:
        seed: Any integer.

    Examples:
        >>> random = KeyedRandom(seed=0)
        >>> both, alone = random.normal("noise", [3, 7], (2,)), random.normal("noise", [7], (2,))
        >>> bool((both[1] == alone[0]).all())
        True
    """

    seed: int

    def generator(self, purpose: str, image: int = 0, step: int = 0) -> np.random.Generator:
        """Returns the generator of one draw."""
        key = _key(self.seed, purpose)
        # Philox advances the low half of its counter; the high half holds the image and the step.
        counter = np.array([0, 0, image, step], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(counter=counter, key=key))

    def normal(
        self,
        purpose: str,
        images: Iterable[int],
        shape: Sequence[int],
        *,
        step: int = 0,
        device: torch.device | str = "cpu",
    ) -> Tensor:
        """Draws (B, *shape) float32 standard normal numbers, one stream per image, and moves them to `device`."""
        images = [int(i) for i in images]
        values = np.empty((len(images), *shape), dtype=np.float32)

        def draw(index: int) -> None:
            self.generator(purpose, images[index], step).standard_normal(out=values[index], dtype=np.float32)

        if values.size < THREADED_SIZE:
            for index in range(len(images)):
                draw(index)
        else:  # NumPy releases the interpreter's lock while it draws.
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(draw, range(len(images))))
        return torch.from_numpy(values).to(device, non_blocking=True)

    def normal_on(self, device: torch.device, purpose: str, images: Iterable[int], shape: Sequence[int]) -> Tensor:
        """Draws like `normal` on a CPU; on a GPU by the device's own Philox, with other numbers and the same keys."""
        if device.type != "cuda":
            return self.normal(purpose, images, shape)
        drawn = []
        for image in images:
            name = f"{self.seed}/{purpose}/{int(image)}".encode()
            generator = torch.Generator(device)
            generator.manual_seed(int.from_bytes(hashlib.blake2b(name, digest_size=8).digest(), "big"))
            drawn.append(torch.randn(*shape, generator=generator, device=device))
        return torch.stack(drawn)

    def uniform(self, purpose: str, images: Iterable[int], *, step: int = 0) -> Tensor:
        """Draws (B,) float64 numbers, uniform in [0, 1)."""
        return torch.tensor([self.generator(purpose, int(i), step).random() for i in images], dtype=torch.float64)

    def permutation(self, purpose: str, n: int, *, step: int = 0) -> np.ndarray:
        """Draws a random order of 0..n-1, (n,) int64."""
        return self.generator(purpose, 0, step).permutation(n)
