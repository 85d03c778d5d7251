from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pixelflow.flow import KeyedRandom, rng

SHAPE = (3, 4, 4)


def test_independent_of_the_split_and_order_of_a_batch() -> None:
    random, ids = KeyedRandom(3), [5, 0, 17, 2, 99, 1]
    whole = random.normal("noise", ids, SHAPE, step=4)
    assert whole.shape == (6, *SHAPE)
    assert whole.dtype == torch.float32
    parts = [random.normal("noise", part, SHAPE, step=4) for part in (ids[:1], ids[1:5], ids[5:])]
    assert torch.equal(whole, torch.cat(parts))
    assert torch.equal(whole.flip(0), random.normal("noise", ids[::-1], SHAPE, step=4))
    uniform = random.uniform("drop", ids)
    assert torch.equal(uniform.flip(0), random.uniform("drop", ids[::-1]))
    assert torch.equal(uniform, torch.cat([random.uniform("drop", [i]) for i in ids]))


def test_the_same_in_another_object_and_for_tensor_ids() -> None:
    first = KeyedRandom(3).normal("noise", [1, 2], SHAPE)
    assert torch.equal(first, KeyedRandom(3).normal("noise", torch.tensor([1, 2]), SHAPE))


def test_a_longer_draw_starts_as_the_shorter_one() -> None:
    """The noise of an image does not depend on how many numbers others draw."""
    random = KeyedRandom(0)
    short, long = random.normal("noise", [7], (10,)), random.normal("noise", [7], (1000,))
    assert torch.equal(short, long[:, :10])


def test_different_keys_give_different_numbers() -> None:
    draws = {
        "reference": KeyedRandom(0).normal("noise", [0], (64,)),
        "seed": KeyedRandom(1).normal("noise", [0], (64,)),
        "purpose": KeyedRandom(0).normal("drop", [0], (64,)),
        "image": KeyedRandom(0).normal("noise", [1], (64,)),
        "step": KeyedRandom(0).normal("noise", [0], (64,), step=1),
        "high word of the image": KeyedRandom(0).normal("noise", [2**32], (64,)),
        "high word of the step": KeyedRandom(0).normal("noise", [0], (64,), step=2**32),
        "negative seed": KeyedRandom(-1).normal("noise", [0], (64,)),
    }
    for a in draws:
        for b in draws:
            if a < b:
                shared = np.intersect1d(draws[a].numpy(), draws[b].numpy())
                assert len(shared) == 0, f"{a} and {b} share numbers"


def test_seed_and_purpose_are_separate_in_the_key() -> None:
    a, b = KeyedRandom(1).uniform("1/noise", [0]), KeyedRandom(11).uniform("/noise", [0])
    assert not torch.equal(a, b)


@pytest.mark.parametrize("image", [2**32, 2**32 + 1, 2**40, 2**62])
def test_large_ids(image: int) -> None:
    random = KeyedRandom(0)
    got = random.normal("noise", [image], (16,))
    assert torch.equal(got, random.normal("noise", torch.tensor([image]), (16,)))
    assert not torch.equal(got, random.normal("noise", [image % 2**32], (16,)))


def test_normal_moments_over_images_and_within_one() -> None:
    values = KeyedRandom(0).normal("noise", range(20_000), (20,)).double()
    n = values.numel()
    assert values.mean().abs() < 5 / math.sqrt(n)
    assert (values.square().mean() - 1).abs() < 5 * math.sqrt(2 / n)
    assert (values.pow(3).mean()).abs() < 5 * math.sqrt(15 / n)
    assert (values.pow(4).mean() - 3).abs() < 5 * math.sqrt(96 / n)
    # Neighbouring ids and neighbouring places have nothing to do with each other.
    assert (values[1:] * values[:-1]).mean().abs() < 5 / math.sqrt(n)
    assert (values[:, 1:] * values[:, :-1]).mean().abs() < 5 / math.sqrt(n)


def test_uniform_is_uniform() -> None:
    values = KeyedRandom(0).uniform("tau", range(20_000))
    assert values.dtype == torch.float64
    assert values.min() >= 0
    assert values.max() < 1
    counts = (values * 10).floor().long().bincount(minlength=10)
    assert (counts - 2000).abs().max() < 5 * math.sqrt(2000)


def test_draws_do_not_depend_on_the_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    random, ids = KeyedRandom(0), range(40, 90)
    serial = random.normal("noise", ids, SHAPE)
    monkeypatch.setattr(rng, "THREADED_SIZE", 0)
    pools = []
    pool = rng.ThreadPoolExecutor
    monkeypatch.setattr(rng, "ThreadPoolExecutor", lambda _: pools.append(1) or pool(4))
    assert torch.equal(random.normal("noise", ids, SHAPE), serial)
    assert pools


def test_permutation() -> None:
    random = KeyedRandom(0)
    order = random.permutation("epoch order", 100, step=3)
    assert sorted(order) == list(range(100))
    assert (order == KeyedRandom(0).permutation("epoch order", 100, step=3)).all()
    assert (order != random.permutation("epoch order", 100, step=4)).any()


def test_nothing_to_draw() -> None:
    assert KeyedRandom(0).normal("noise", [], SHAPE).shape == (0, *SHAPE)
    assert KeyedRandom(0).uniform("drop", []).shape == (0,)
