"""Procedural images of shapes with a class, a caption and their ground truth: endless, of any size, no download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from pixelflow.data.images import ImageData
from pixelflow.data.order import EndlessOrder, Order
from pixelflow.data.records import Record, Split
from pixelflow.data.scenes import SHAPES, Scene, draw_scene, render
from pixelflow.data.spec import Reading
from pixelflow.data.transforms import Preprocess
from pixelflow.flow.rng import KeyedRandom


class Shapes(ImageData):
    """Scenes of shapes; image i is a function of (content_seed, split, i) and shows the same scene at every resolution.

    Training never repeats an image: position i of the sequence shows image i.

    Args:
        image_size: Height and width in pixels, at least 16.
        channels: 1 (grey) or 3 (RGB).
        num_classes: 6, the number of shapes.
        name: Name of the data in records and reports.
        content_seed: Seed of the scenes; the run's seed does not change them.
        reading: Worker processes.
        reference_images: Number of images of each split that `images` draws.

    Raises:
        ValueError: An argument is out of range.
    """

    captions: Mapping[str, float] = {"caption": 1.0}

    def __init__(
        self,
        *,
        image_size: int = 64,
        channels: int = 3,
        num_classes: int = 6,
        name: str = "shapes",
        content_seed: int = 0,
        reading: Reading = Reading(workers=0),  # noqa: B008 - frozen
        reference_images: int = 2000,
    ) -> None:
        if image_size < 16:
            raise ValueError(f"image_size={image_size} must be at least 16 so that the shapes can be distinguished")
        if num_classes != len(SHAPES):
            raise ValueError(f"num_classes={num_classes} must be {len(SHAPES)} for the shapes")
        if reference_images < 1:
            raise ValueError(
                f"reference_images={reference_images} must be at least 1, because the number of scenes is unlimited"
            )
        super().__init__(
            {"image_size": image_size, "channels": channels, "num_classes": num_classes, "name": name,
             "reading": reading, "reference_images": reference_images},
            preprocess=Preprocess(crop="center", flip=False),
        )  # fmt: skip
        self.content_seed = content_seed

    def class_names(self) -> Sequence[str]:
        """Returns the names of the shapes."""
        return SHAPES

    def open(self, split: Split) -> SceneSource:
        """Returns the images of a split, drawn on demand."""
        return SceneSource(self.content_seed, split, self.spec.image_size, self.spec.reference_images)

    def order(self, seed: int) -> Order:
        """Returns the endless order: a new image at every position."""
        return EndlessOrder()

    def scenes(self, split: Split) -> Iterator[Scene]:
        """Yields the ground truth of `images(split)`, in its order."""
        source = self.open(split)
        return (source.scene(index) for index in range(self.spec.reference_images))


class SceneSource:
    """Draws scenes on demand; any index can be read.

    Args:
        content_seed: Seed of the scenes.
        split: "train" or "held_out"; their scenes differ.
        image_size: Height and width of the images in pixels.
        count: Number of images that serve as the reference of the metrics.
    """

    def __init__(self, content_seed: int, split: Split, image_size: int, count: int) -> None:
        self.random, self.purpose, self.image_size = KeyedRandom(content_seed), f"scene {split}", image_size
        self.group_sizes = [count]

    def scene(self, index: int) -> Scene:
        """Returns the ground truth of an image."""
        return draw_scene(self.random.generator(self.purpose, index))

    def read(self, index: int) -> Record:
        """Draws an image, with its class and its caption."""
        scene = self.scene(index)
        pixels: np.ndarray = render(scene, self.image_size)
        return Record(key=f"{index:09}", image=pixels, label=scene.label, captions={"caption": scene.caption})

    def where(self, index: int) -> str:
        """Returns the split and the index of an image."""
        return f"{self.purpose} {index}"
