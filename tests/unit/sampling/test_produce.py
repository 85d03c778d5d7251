from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from pixelflow.flow import StageWiseGuidance
from pixelflow.sampling import Sampler
from pixelflow.sampling.produce import Planned, parse_classes, plan_batches, produce, share
from pixelflow.sampling.settings import SamplerSettings, SampleSet
from pixelflow.solvers import AdaptiveRungeKutta
from tests.tiny import tiny_pixelflow
from tests.unit.sampling.test_sampler import make_sampler

N = 64
SET = SampleSet(N, [0, 1, 2, 3, 4], seed=3)


class Spy(Sampler):
    """Keeps the states behind the images."""

    def sample(self, condition: Any, noise: Any, observe: Any = None) -> Any:
        samples = super().sample(condition, noise, observe)
        self.states = [*getattr(self, "states", []), (condition.class_label, samples.x)]
        return samples


def made(ids: Sequence[int], **settings: Any) -> tuple[Tensor, Tensor, Sampler]:
    """Images by number, in the order of ids, and the order in which they came."""
    sampler = make_sampler(tiny_pixelflow().eval(), StageWiseGuidance(scale=1.5, num_stages=3))
    images: dict[int, Tensor] = {}

    def write(numbers: Sequence[int], batch: Tensor) -> None:
        assert batch.dtype == torch.uint8
        images.update(zip(numbers, batch, strict=True))

    result = produce(sampler, write, ids, images=SET, settings=SamplerSettings(**settings))
    assert result.images == len(ids) and result.seconds > 0
    assert result.nfe == 7 * len(ids) and result.passes == 12 * len(ids)
    assert sorted(images) == sorted(ids)
    return torch.stack([images[i] for i in ids]), torch.tensor(list(images)), sampler


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_same_images_in_any_batch(batch_size: int) -> None:
    whole, _, _ = made(range(N), batch_size=64)
    part, _, _ = made(range(0, 20), batch_size=batch_size)
    assert (part.int() - whole[:20].int()).abs().max() <= 1  # states agree to 1e-5, so rounding may differ


def states(ids: Sequence[int], batch_size: int) -> Tensor:
    """What the images are rounded from, and their classes as another channel."""
    spy = Spy(**vars(make_sampler(tiny_pixelflow().eval(), StageWiseGuidance(scale=1.5, num_stages=3))))
    produce(spy, lambda n, x: None, ids, images=SET, settings=SamplerSettings(batch_size=batch_size))
    return torch.cat([torch.cat([x, labels.view(-1, 1, 1, 1).expand_as(x)], dim=1) for labels, x in spy.states])


def test_states_agree_in_any_batch_shared_by_two_processes_and_after_a_kill() -> None:
    whole = states(range(N), 64)
    assert whole[:, :1].std() > 0.1
    shared = torch.cat([states(share(range(N), rank=rank, size=2), 7) for rank in range(2)])
    killed = torch.cat([states(range(20), 10), states(range(20, N), 10)])
    for other in (states(range(N), 1), states(range(N), 5), shared, killed):
        torch.testing.assert_close(other, whole, atol=1e-5, rtol=0)


def test_bit_for_bit_with_fixed_batches_whatever_is_missing() -> None:
    whole, _, _ = made(range(N), batch_size=64, fixed_batch=8)
    two = [made(share(range(N), rank=rank, size=2), batch_size=5, fixed_batch=8)[0] for rank in range(2)]
    assert torch.equal(torch.cat(two), whole)
    lost = [3, 8, 9, 30, 63]
    assert torch.equal(made(lost, batch_size=1, fixed_batch=8)[0], whole[lost])
    sampler = make_sampler(tiny_pixelflow().eval(), solver=AdaptiveRungeKutta(method="bosh3"))
    runs: list[dict[int, Tensor]] = [{}, {}]
    settings = SamplerSettings(batch_size=1, fixed_batch=8)
    for ids, kept in zip((range(8), [2, 5]), runs, strict=True):

        def keep(numbers: Sequence[int], batch: Tensor, kept: dict[int, Tensor] = kept) -> None:
            kept.update(zip(numbers, batch, strict=True))

        produce(sampler, keep, ids, images=SampleSet(8, [0]), settings=settings)
    assert torch.equal(runs[1][5], runs[0][5])  # error control over the batch: the batch is the same


def test_states_are_the_same_bits_with_fixed_batches() -> None:
    results = []
    for ids in (range(16), [5], [1, 2, 12]):
        spy = Spy(**vars(make_sampler(tiny_pixelflow().eval())))
        settings = SamplerSettings(batch_size=3, fixed_batch=8)
        produce(spy, lambda n, x: None, ids, images=SampleSet(16, [0, 1]), settings=settings)
        results.append(spy.states)
    assert torch.equal(results[1][0][1], results[0][0][1])
    assert all(torch.equal(a[1], b[1]) for a, b in zip(results[2], results[0], strict=True))


def test_a_stop_keeps_what_was_made() -> None:
    kept: list[int] = []
    answers = iter([False, True])
    made = produce(
        make_sampler(tiny_pixelflow().eval()),
        lambda n, x: kept.extend(n),
        range(9),
        images=SampleSet(9, [0]),
        settings=SamplerSettings(batch_size=3),
        stop=lambda: next(answers),
    )
    assert kept == list(range(6)) and made.images == 6


def test_plans() -> None:
    assert [p.sample_ids for p in plan_batches([1, 2, 5, 7, 9], batch_size=2)] == [[1, 2], [5, 7], [9]]
    assert list(plan_batches([1, 2, 9], batch_size=1, fixed_batch=4)) == [
        Planned([0, 1, 2, 3], [1, 2]),
        Planned([8, 9, 10, 11], [1]),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
@pytest.mark.parametrize("fixed_batch", [None, 4])
def test_shares_are_disjoint_whole_and_cut_between_blocks(size: int, fixed_batch: int | None) -> None:
    ids = [i for i in range(50) if i % 7]
    shares = [share(ids, rank=rank, size=size, fixed_batch=fixed_batch) for rank in range(size)]
    assert [i for part in shares for i in part] == ids
    assert max(map(len, shares)) - min(map(len, shares)) <= 2 * (fixed_batch or 1)
    if fixed_batch:
        blocks = [{i // fixed_batch for i in part} for part in shares]
        assert sum(map(len, blocks)) == len(set.union(*blocks))


def test_classes() -> None:
    assert parse_classes("balanced", 4) == [0, 1, 2, 3]
    assert parse_classes("1-3", 4) == [1, 2, 3]
    assert parse_classes([3, 0], 4) == [3, 0]
    assert SampleSet(5, [3, 0]).labels.tolist() == [3, 0, 3, 0, 3]
    assert SampleSet(5, [3, 0]).labels_of([2, 5]).tolist() == [3, 0]
    assert torch.bincount(SampleSet(50_000, range(1000)).labels).unique().tolist() == [50]


@pytest.mark.parametrize("setting", ["all", "3-1", "2-9", [4], [], [-1], "5", "-1-2"])
def test_other_classes_are_refused(setting: Any) -> None:
    with pytest.raises(ValueError, match=r"^classes=.*balanced, a range like 0-3, or a list"):
        parse_classes(setting, 4)
