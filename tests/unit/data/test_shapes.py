from __future__ import annotations

import itertools

import pytest
import torch

from pixelflow.data import Reading, Shapes


def test_batches_have_class_caption_and_truth() -> None:
    data = Shapes(image_size=32)
    batch = next(iter(data.loader(batch_size=8, seed=0)))
    assert batch.x.shape == (8, 3, 32, 32)
    source = data.open("train")
    scenes = [source.scene(i) for i in range(8)]
    assert batch.condition.caption == tuple(scene.caption for scene in scenes)
    assert batch.condition.class_label.tolist() == [scene.label for scene in scenes]


def test_the_sequence_never_repeats_and_resumes_with_workers() -> None:
    plain = [b.x for b in itertools.islice(Shapes(image_size=16).loader(batch_size=8, seed=0), 6)]
    assert len({tuple(x.flatten().tolist()) for x in torch.cat(plain)}) == 48
    working = Shapes(image_size=16, reading=Reading(workers=2)).loader(batch_size=8, seed=0)
    working.load_state_dict({"position": 16, "samples": None})
    resumed = [b.x for b in itertools.islice(working, 4)]
    assert torch.equal(torch.cat(resumed), torch.cat(plain[2:]))
    working.close()


def test_splits_are_different_and_images_follow_their_scenes() -> None:
    data = Shapes(image_size=16, reference_images=20)
    (train, _), (held_out, labels) = data.images("train"), data.images("held_out")
    assert train.shape == held_out.shape == (20, 3, 16, 16)
    assert not torch.equal(train, held_out)
    assert labels.tolist() == [scene.label for scene in data.scenes("held_out")]


def test_grey() -> None:
    assert next(iter(Shapes(image_size=16, channels=1).loader(batch_size=2, seed=0))).x.shape == (2, 1, 16, 16)


def test_conditions_keep_captions_with_their_images() -> None:
    condition = next(iter(Shapes(image_size=16).loader(batch_size=4, seed=0))).condition
    assert condition.caption is not None
    order = torch.tensor([2, 0])
    assert condition[order].caption == (condition.caption[2], condition.caption[0])
    assert condition[1:3].caption == condition.caption[1:3]
    assert type(condition).cat([condition[:1], condition[1:]]).caption == condition.caption


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 8}, "image_size=8 must be at least 16"),
        ({"num_classes": 10}, "num_classes=10 must be 6"),
        ({"reference_images": 0}, "reference_images=0"),
        ({"channels": 2}, "channels=2 must be 1 or 3"),
    ],
)
def test_errors(settings: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Shapes(**settings)
