"""The contract of a data source: shared options in one record, and a user-defined source."""

from __future__ import annotations

import dataclasses
import inspect
import itertools
from typing import Unpack, get_type_hints

import pytest
import torch

from pixelflow import data as package
from pixelflow.config.schema import check_group
from pixelflow.data import ImageData, ImageOptions, ImageSpec, ImageText, MemorySource, Preprocess, Reading, WebDataset
from pixelflow.data.records import Source, Split

SOURCES = [package.ImageFolder, package.WebDataset, package.ImageText, package.HuggingFace]


class Greys(ImageData):
    """A user's own source: image i is grey i, of class i mod 2."""

    def __init__(self, *, levels: int = 6, **options: Unpack[ImageOptions]) -> None:
        super().__init__(options, name="greys", image_size=4, num_classes=2)
        self.levels = levels

    def open(self, split: Split) -> Source:
        level = torch.arange(self.levels, dtype=torch.uint8)
        return MemorySource(level[:, None, None, None].expand(-1, 3, 4, 4), level.long() % 2, name="grey level")


def test_a_user_defined_source_gives_shuffled_batches_and_references() -> None:
    data = Greys(reading=Reading(workers=0), reference_images=3)
    batches = list(itertools.islice(data.loader(batch_size=3, seed=0), 2))
    levels = torch.cat([((b.x[:, 0, 0, 0] + 1) * 127.5).round().long() for b in batches])
    assert sorted(levels.tolist()) == list(range(6))
    assert torch.cat([b.condition.class_label for b in batches]).tolist() == (levels % 2).tolist()
    images, labels = data.images("train")
    assert (images[:, 0, 0, 0].tolist(), labels.tolist()) == ([0, 2, 4], [0, 0, 0])


def test_its_options_are_checked_like_those_of_the_package() -> None:
    node = {"_target_": f"{__name__}.Greys", "levels": 4, "image_size": 8}
    check_group(node, "data", trust=[__name__])
    with pytest.raises(ValueError, match=r"data\.image_size='large': must be a valid integer"):
        check_group(node | {"image_size": "large"}, "data", trust=[__name__])
    with pytest.raises(ValueError, match=r"data\.image_sizes is not an option of .*did you mean image_size"):
        check_group(node | {"image_sizes": 8}, "data", trust=[__name__])
    with pytest.raises(ValueError, match=r"data\.levels=0\.5"):
        check_group(node | {"levels": 0.5}, "data", trust=[__name__])


def test_the_keyword_arguments_are_the_fields_of_the_record() -> None:
    fields = {field.name for field in dataclasses.fields(ImageSpec)}
    assert get_type_hints(ImageOptions) == get_type_hints(ImageSpec)
    assert fields == set(get_type_hints(ImageSpec)) == ImageOptions.__optional_keys__


@pytest.mark.parametrize("source", SOURCES)
def test_shared_options_reach_the_record_and_are_checked_there(source: type[ImageData]) -> None:
    assert len(inspect.signature(source).parameters) <= 10
    spec = source(image_size=32, channels=1, preprocess=Preprocess(crop="center")).spec  # type: ignore[call-arg]
    assert (spec.image_size, spec.channels, spec.preprocess.crop) == (32, 1, "center")
    for wrong in ({"image_size": 0}, {"channels": 2}, {"reference_images": -1}):
        (argument, value) = next(iter(wrong.items()))
        with pytest.raises(ValueError, match=f"^{argument}={value} must be"):
            source(**wrong)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unknown"):
        source(unknown=1)  # type: ignore[call-arg]


def test_image_text_has_no_classes_and_is_not_a_webdataset() -> None:
    assert not issubclass(ImageText, WebDataset)
    assert ImageText().spec.num_classes == 1
    with pytest.raises(ValueError, match="num_classes=3 must be 1"):
        ImageText(num_classes=3)
