from __future__ import annotations

import pytest
import torch

from pixelflow.flow import Cascade, FlowLogitNormalTimesteps, KeyedRandom, UniformTimesteps
from pixelflow.training.draw import draw_flow_samples, draw_stages, draw_times
from pixelflow.types import Batch, Condition, FlowSample

CASCADE = Cascade(image_size=16, num_stages=3)
BATCH = Batch(torch.randn(9, 1, 16, 16), Condition(torch.arange(9)), torch.arange(100, 109))


def draw(batch: Batch, stages: torch.Tensor, seed: int = 0) -> list[FlowSample]:
    random = KeyedRandom(seed)
    tau = draw_times(batch.sample_id, stages, cascade=CASCADE, timesteps=UniformTimesteps(), random=random)
    return draw_flow_samples(batch, stages, tau, cascade=CASCADE, random=random)


def test_stages_are_balanced_and_shuffled_by_step() -> None:
    drawn = [draw_stages(num_stages=3, batch_size=64, random=KeyedRandom(0), step=step) for step in range(20)]
    assert all(sorted(stages.bincount().tolist()) == [21, 21, 22] for stages in drawn)
    assert len({tuple(stages.tolist()) for stages in drawn}) == 20
    share = torch.stack(drawn).eq(0).double().mean(dim=0)  # no place of the batch belongs to a stage
    assert share.max() < 0.9
    assert torch.equal(drawn[3], draw_stages(num_stages=3, batch_size=64, random=KeyedRandom(0), step=3))


@pytest.mark.parametrize("parts", [1, 2, 4, 8])
def test_every_part_of_a_step_has_as_many_of_each_stage(parts: int) -> None:
    """However many processes and parts there are, shapes are the same in all of them and in every step."""
    for step in range(5):
        stages = draw_stages(num_stages=4, batch_size=64, random=KeyedRandom(0), step=step)
        assert all(part.bincount().tolist() == [64 // parts // 4] * 4 for part in stages.chunk(parts))
        assert torch.equal(stages.view(-1, 4).sort(dim=1).values, torch.arange(4).expand(16, 4))


def test_one_sample_per_stage_coarsest_first() -> None:
    stages = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    samples = draw(BATCH, stages)
    assert [sample.path.stage for sample in samples] == [0, 1, 2]
    for stage, sample in enumerate(samples):
        assert torch.equal(sample.index, (stages == stage).nonzero()[:, 0])
        assert torch.equal(sample.x, CASCADE.image_at(BATCH.x[sample.index], stage))
        assert sample.noise.shape == sample.x.shape
        torch.testing.assert_close(sample.x_t, sample.path.interpolate(sample.x, sample.noise, sample.tau))
        assert torch.equal((sample.tau * 1000).round() / 1000, sample.tau)
    assert torch.cat([sample.index for sample in samples]).sort().values.tolist() == list(range(9))


def test_a_stage_without_images_is_left_out() -> None:
    samples = draw(BATCH, torch.tensor([2, 0] * 4 + [2]))
    assert [sample.path.stage for sample in samples] == [0, 2]


@pytest.mark.parametrize("split", [[9], [1, 8], [3, 3, 3]])
def test_time_and_noise_belong_to_the_image(split: list[int]) -> None:
    """However a step is split, an image meets the same time and noise."""
    stages = torch.tensor([2, 0, 1, 1, 0, 2, 2, 0, 1])
    expected = {int(i): (s.x_t[n], s.timestep[n]) for s in draw(BATCH, stages) for n, i in enumerate(s.index)}
    for part in torch.arange(9).split(split):
        for sample in draw(BATCH[part], stages[part]):
            for n, i in enumerate(part[sample.index].tolist()):
                assert torch.equal(sample.x_t[n], expected[i][0])
                assert torch.equal(sample.timestep[n], expected[i][1])


def test_another_seed_or_place_in_the_sequence_gives_other_numbers() -> None:
    stages = torch.zeros(9, dtype=torch.int64)
    first = draw(BATCH, stages)[0]
    later = draw(Batch(BATCH.x, BATCH.condition, BATCH.sample_id + 1500), stages)[0]
    for other in (draw(BATCH, stages, seed=1)[0], later):
        assert not torch.equal(first.noise, other.noise)
        assert not torch.equal(first.tau, other.tau)


def test_times_follow_the_window_of_each_stage() -> None:
    """The shares of the clean image are in the window of the stage, and tau is that of the image alone."""
    timesteps, random = FlowLogitNormalTimesteps(), KeyedRandom(0)
    stages, ids = torch.arange(300) % 3, torch.arange(300)
    tau = draw_times(ids, stages, cascade=CASCADE, timesteps=timesteps, random=random)
    for stage in range(3):
        path, rows = CASCADE.path(stage), stages == stage
        one = torch.ones(int(rows.sum()), dtype=torch.float64)
        alone = draw_times(ids[rows], stages[rows], cascade=CASCADE, timesteps=timesteps, random=random)
        uniform = random.uniform("tau", ids[rows].tolist())
        assert torch.equal(tau[rows], alone)
        assert torch.equal(alone, timesteps(uniform, path.start * one, path.end * one))
    assert tau[stages == 0].mean() > 0.5 > tau[stages == 2].mean()  # towards the median share, 0.31
