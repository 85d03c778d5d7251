"""Procedural images of shapes with a class, a caption and their ground truth: no download, no end, any resolution."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from pixelflow.data.images import ImageData, Split
from pixelflow.data.loader import Reading
from pixelflow.data.order import EndlessOrder, Order
from pixelflow.data.records import Record
from pixelflow.data.scenes import SHAPES, Scene, draw_scene, render
from pixelflow.data.transforms import Preprocess
from pixelflow.flow.rng import KeyedRandom


class Shapes(ImageData):
    """Image i is a function of (content_seed, split, i), at every resolution the same scene.

    Training never repeats: position i of the sequence shows image i. reference_images: how many of either split
    `images()` draws. Raises ValueError for an image_size below 16 or num_classes other than 6 (the shapes).
    """

    def __init__(
        self,
        *,
        image_size: int = 64,
        channels: int = 3,
        num_classes: int = 6,
        name: str = "shapes",
        content_seed: int = 0,
        reading: Reading | None = None,
        reference_images: int = 2000,
    ) -> None:
        if image_size < 16:
            raise ValueError(f"image_size={image_size} must be at least 16 for the shapes to be told apart")
        if num_classes != len(SHAPES):
            raise ValueError(f"num_classes={num_classes} must be {len(SHAPES)} for the shapes")
        if reference_images < 1:
            raise ValueError(f"reference_images={reference_images} must be at least 1: the shapes have no end")
        super().__init__(
            image_size=image_size, channels=channels, num_classes=num_classes, name=name, preprocess=Preprocess(),
            reading=reading or Reading(workers=0), reference_images=reference_images,
        )  # fmt: skip
        self.content_seed = content_seed
        self.captions = {"caption": 1.0}

    def check(self) -> None:
        """Nothing to find."""

    def class_names(self) -> Sequence[str]:
        return SHAPES

    def open(self, split: Split) -> SceneSource:
        return SceneSource(self.content_seed, split, self.image_size, self.reference_images)

    def order(self, seed: int) -> Order:
        return EndlessOrder()

    def scenes(self, split: Split) -> Iterator[Scene]:
        """The ground truth of `images(split)`, in its order."""
        source = self.open(split)
        return (source.scene(index) for index in range(self.reference_images))


class SceneSource:
    """Draws what is asked for; `group_sizes` says how many serve as reference, any index can be read."""

    def __init__(self, content_seed: int, split: Split, image_size: int, count: int) -> None:
        self.random, self.purpose, self.image_size = KeyedRandom(content_seed), f"scene {split}", image_size
        self.group_sizes = [count]

    def scene(self, index: int) -> Scene:
        return draw_scene(self.random.generator(self.purpose, index))

    def read(self, index: int) -> Record:
        scene = self.scene(index)
        pixels: np.ndarray = render(scene, self.image_size)
        return Record(key=f"{index:09}", image=pixels, label=scene.label, captions={"caption": scene.caption})

    def where(self, index: int) -> str:
        return f"{self.purpose} {index}"
