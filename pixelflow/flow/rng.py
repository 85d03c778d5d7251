"""Random numbers that belong to an image, not to the order in which images are drawn.

Every draw is keyed by (seed, purpose, image, step) and made by the counter-based generator Philox 4x64
(Salmon et al. 2011, through NumPy): the first two give the key, the last two the counter, so no two draws
overlap. Batch size, number of processes, a restart or another order change nothing.
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
"""Values in a draw from which on threads are worth their start."""


@lru_cache(maxsize=256)
def _key(seed: int, purpose: str) -> np.ndarray:
    digest = hashlib.blake2b(f"{seed}/{purpose}".encode(), digest_size=16).digest()
    return np.frombuffer(digest, dtype=np.uint64)


@dataclass(frozen=True)
class KeyedRandom:
    """Random numbers by name.

    seed: any integer. Every method takes a purpose ("noise", "drop", ...), the ids of the images
    (non-negative integers) and, where an image is visited more than once, a step.
    """

    seed: int

    def generator(self, purpose: str, image: int = 0, step: int = 0) -> np.random.Generator:
        key = _key(self.seed, purpose)
        # Philox advances the low words of its counter by itself; the high ones name the image and the step.
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
        """(B, *shape) float32 standard normal, one independent stream per image, moved to `device`."""
        images = [int(i) for i in images]
        values = np.empty((len(images), *shape), dtype=np.float32)

        def draw(index: int) -> None:
            self.generator(purpose, images[index], step).standard_normal(out=values[index], dtype=np.float32)

        if values.size < THREADED_SIZE:
            for index in range(len(images)):
                draw(index)
        else:  # NumPy lets go of the interpreter's lock while it draws.
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                list(pool.map(draw, range(len(images))))
        return torch.from_numpy(values).to(device, non_blocking=True)

    def normal_on(self, device: torch.device, purpose: str, images: Iterable[int], shape: Sequence[int]) -> Tensor:
        """As `normal` on a CPU; on a GPU drawn there, by its own Philox: other numbers, keyed in the same way."""
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
        """(B,) float64 in [0, 1)."""
        return torch.tensor([self.generator(purpose, int(i), step).random() for i in images], dtype=torch.float64)

    def permutation(self, purpose: str, n: int, *, step: int = 0) -> np.ndarray:
        """(n,) int64, a random order of 0..n-1."""
        return self.generator(purpose, 0, step).permutation(n)
