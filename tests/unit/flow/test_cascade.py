from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from pixelflow.flow import Cascade
from pixelflow.flow.cascade import COVARIANCE_RIDGE, stages_from_kickoff
from pixelflow.flow.path import project, up

GAMMAS = [-1 / 3, -0.2]


def cascade_of(num_stages: int, gamma: float = -1 / 3) -> Cascade:
    return Cascade(image_size=4 * 2 ** (num_stages - 1), num_stages=num_stages, gamma=gamma)


def block_covariance(gamma: float) -> Tensor:
    return (1 - gamma + COVARIANCE_RIDGE) * torch.eye(4, dtype=torch.float64) + gamma


def covariance(samples: Tensor) -> Tensor:
    """(N, D) -> (D, D) in float64."""
    return samples.double().T.cov()


def assert_within_sampling_error(got: Tensor, expected: Tensor, n: int) -> None:
    """Entries of a sample covariance of n Gaussian draws, to six standard deviations."""
    diagonal = expected.diagonal()
    deviation = ((diagonal[:, None] * diagonal + expected.square()) / n).sqrt()
    assert ((got - expected).abs() <= 6 * deviation).all()


@pytest.mark.parametrize("num_stages", range(1, 8))
def test_any_number_of_stages(num_stages: int) -> None:
    cascade = cascade_of(num_stages)
    assert [stage.resolution for stage in cascade.stages] == [4 * 2**s for s in range(num_stages)]
    assert cascade.kickoff == 4
    assert cascade.stages[0].path.start == 0
    assert cascade.stages[-1].path.end == 1
    assert [stage.path.stage for stage in cascade.stages] == list(range(num_stages))
    for stage, following in itertools.pairwise(cascade.stages):
        assert stage.path.end == following.original_start
        assert stage.last_timestep < following.first_timestep
        # Renoising goes back in time, and the window still covers something.
        assert stage.path.start < following.path.start < stage.path.end < following.path.end


def test_four_stages_as_in_the_paper() -> None:
    cascade = cascade_of(4)
    assert [stage.path.start for stage in cascade.stages] == pytest.approx([0, 1 / 7, 1 / 3, 0.6], abs=1e-12)
    assert [stage.path.end for stage in cascade.stages] == [0.25, 0.5, 0.75, 1]
    assert [stage.first_timestep for stage in cascade.stages] == [0, 175, 426, 719]


def test_starts_are_rounded_down_and_kept_as_float32() -> None:
    """The released checkpoints were trained with these values; 1/3 becomes 0.333."""
    starts = [stage.original_start for stage in cascade_of(3).stages]
    assert starts == [0, float(np.float32(0.333)), float(np.float32(0.666))]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"image_size": 256, "num_stages": 0}, "num_stages=0 must be at least 1"),
        ({"image_size": 16, "num_stages": 9}, "num_stages=9 needs image_size divisible by 256 (got 16)"),
        ({"image_size": 16, "num_stages": 9}, "at most num_stages=5"),
        ({"image_size": 60, "num_stages": 4}, "num_stages=4 needs image_size divisible by 8 (got 60)"),
        ({"image_size": 60, "num_stages": 4}, "at most num_stages=3"),
        ({"image_size": 60, "num_stages": 2, "kickoff": 20}, "kickoff=20 must be image_size=60"),
        ({"image_size": 60, "num_stages": 2, "kickoff": 20}, "one of [60, 30, 15]"),
        ({"image_size": 64, "num_stages": 3, "kickoff": 8}, "kickoff=8"),
        ({"image_size": 64, "num_stages": 2, "gamma": -0.4}, "gamma=-0.4 must be in [-1/3, 0)"),
        ({"image_size": 64, "num_stages": 2, "gamma": 0.0}, "gamma=0.0 must be in [-1/3, 0)"),
        ({"image_size": 64, "num_stages": 2, "t_eps": 0.0}, "t_eps=0.0 must be in (0, 1)"),
        ({"image_size": 64, "num_stages": 2, "t_eps": 1.0}, "t_eps=1.0 must be in (0, 1)"),
    ],
)
def test_errors_name_the_value_and_the_remedy(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        Cascade(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(("image_size", "kickoff", "stages"), [(64, 8, 4), (64, 64, 1), (256, 32, 4), (60, 15, 3)])
def test_stages_from_kickoff(image_size: int, kickoff: int, stages: int) -> None:
    assert stages_from_kickoff(image_size, kickoff) == stages
    assert Cascade(image_size=image_size, num_stages=stages, kickoff=kickoff).kickoff == kickoff


@pytest.mark.parametrize("kickoff", [3, 20, 100, 0, -8])
def test_a_kickoff_that_no_power_of_two_leads_to_is_refused(kickoff: int) -> None:
    with pytest.raises(ValueError, match=f"kickoff={kickoff}"):
        Cascade(image_size=64, num_stages=stages_from_kickoff(64, kickoff), kickoff=kickoff)


@pytest.mark.parametrize("num_stages", range(1, 7))
def test_timesteps_of_training(num_stages: int) -> None:
    """The release: lengths normalised, cut from 0..999, and a linspace of 1001 less its last value, or of 1000."""
    cascade = cascade_of(num_stages)
    lengths = np.array([stage.path.end - stage.path.start for stage in cascade.stages])
    cuts = [0, *(int(1000 * c) for c in np.cumsum(lengths / lengths.sum()))]
    tau = torch.arange(1000, dtype=torch.float64) / 1000
    for s in range(num_stages):
        if s == num_stages - 1:
            expected = np.linspace(cuts[s], 999, 1000)
        else:
            expected = np.linspace(cuts[s], cuts[s + 1], 1001)[:-1]
        np.testing.assert_allclose(cascade.timestep(s, tau).numpy(), expected, rtol=0, atol=1e-9)


def test_image_at_halves_as_often_as_needed() -> None:
    cascade, x = cascade_of(4), torch.randn(2, 3, 32, 32)
    assert torch.equal(cascade.image_at(x, 3), x)
    once = F.interpolate(x, scale_factor=0.5, mode="bilinear")
    torch.testing.assert_close(cascade.image_at(x, 1), F.interpolate(once, scale_factor=0.5, mode="bilinear"))
    assert cascade.image_at(x, 0).shape == (2, 3, 4, 4)


@pytest.mark.parametrize("stage", range(3))
def test_flow_sample(stage: int) -> None:
    cascade = cascade_of(3)
    x, noise = torch.randn(4, 1, 16, 16), torch.randn(4, 1, *[cascade.resolution(stage)] * 2)
    tau, index = torch.rand(4, dtype=torch.float64), torch.tensor([7, 1, 4, 2])
    sample = cascade.flow_sample(x, stage=stage, tau=tau, noise=noise, index=index)
    assert sample.path.stage == stage
    assert torch.equal(sample.index, index)
    assert torch.equal(sample.x, cascade.image_at(x, stage))
    assert torch.equal(sample.x_t, sample.path.interpolate(sample.x, noise, tau))
    assert torch.equal(sample.velocity, sample.path.velocity(sample.x, noise))
    assert sample.timestep.dtype == torch.float32
    torch.testing.assert_close(sample.timestep.double(), cascade.timestep(stage, tau), rtol=1e-6, atol=0)


@pytest.mark.parametrize("gamma", [*GAMMAS, -0.01])
def test_correlated_noise_equals_a_loop_over_blocks(gamma: float) -> None:
    values, vectors = torch.linalg.eigh(block_covariance(gamma))
    factor = vectors @ values.clamp(min=0).sqrt().diag() @ vectors.T
    white = torch.randn(2, 3, 6, 8, dtype=torch.float64)
    expected = torch.empty_like(white)
    for b, c, row, col in itertools.product(range(2), range(3), range(0, 6, 2), range(0, 8, 2)):
        block = white[b, c, row : row + 2, col : col + 2]
        expected[b, c, row : row + 2, col : col + 2] = (factor @ block.flatten()).view(2, 2)
    got = cascade_of(2, gamma).correlate(white)
    # At gamma = -1/3 the root along the mean is a thousandth: the root of the ridge.
    torch.testing.assert_close(got, expected, atol=1e-9, rtol=0)


@pytest.mark.parametrize("gamma", GAMMAS)
def test_covariance_of_the_correlated_noise(gamma: float) -> None:
    """Within a block as stated; none between blocks or channels."""
    white = torch.randn(128, 3, 32, 64, generator=torch.Generator().manual_seed(0))
    noise = cascade_of(2, gamma).correlate(white)
    # (image, channel, block row, row, pair of block columns, block in the pair, col) -> one row per pair of blocks
    pairs = noise.view(128, 3, 16, 2, 16, 2, 2).permute(0, 2, 4, 1, 5, 3, 6).reshape(-1, 24)
    expected = torch.block_diag(*[block_covariance(gamma)] * 6)
    assert_within_sampling_error(covariance(pairs), expected, len(pairs))
    assert pairs.mean(dim=0).abs().max() < 6 * (1 / len(pairs)) ** 0.5 * 1.2


@pytest.mark.parametrize("gamma", GAMMAS)
@pytest.mark.parametrize(("num_stages", "stage"), [(2, 1), (3, 1), (3, 2), (4, 3)])
def test_renoised_states_are_distributed_as_the_start_of_the_stage(num_stages: int, stage: int, gamma: float) -> None:
    """start = s*Px + (1-s)*eps with white eps: mean and covariance, for one clean image and many noises."""
    n, size, generator = 40_000, 4, torch.Generator().manual_seed(stage)
    cascade = cascade_of(num_stages, gamma)
    x = torch.randn(1, 1, size, size, generator=generator)
    coarse = F.avg_pool2d(x, 2)
    end = cascade.path(stage - 1).end
    noisy = end * coarse + (1 - end) * torch.randn(n, 1, size // 2, size // 2, generator=generator)
    white = torch.randn(n, 1, size, size, generator=generator)
    states = cascade.renoise(noisy, stage, cascade.correlate(white)).flatten(1)

    start = cascade.path(stage).start
    deviation = 1 - start
    mean = (states.mean(dim=0) - start * project(x).flatten()).abs().max().item()
    assert mean < 6 * deviation / n**0.5
    expected = deviation**2 * torch.eye(size * size, dtype=torch.float64)
    assert_within_sampling_error(covariance(states), expected, n)


def test_renoise_is_up_plus_noise() -> None:
    cascade = cascade_of(3)
    x, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 8, 8)
    alpha, beta = cascade.renoise_coefficients(1)
    torch.testing.assert_close(cascade.renoise(x, 1, noise), alpha * up(x) + beta * noise)


def test_the_timestep_of_one_stage_is_tau_itself_for_a_backbone_that_reads_0_to_1() -> None:
    """Bit for bit in float32, for times of training and for any that a sampler may visit."""
    cascade = Cascade(image_size=8, num_stages=1, max_timestep=1.0)
    taus = torch.cat([torch.arange(1000) / 1000, torch.rand(100_000), torch.tensor([0.999, 1.0])])
    assert torch.equal(cascade.timestep(0, taus).float(), taus)


def test_max_timestep_scales_the_timesteps_of_every_stage() -> None:
    tau = torch.rand(20, dtype=torch.float64)
    small, large = (Cascade(image_size=8, num_stages=3, max_timestep=m) for m in (1.0, 1000.0))
    for stage in range(3):
        torch.testing.assert_close(small.timestep(stage, tau) * 1000, large.timestep(stage, tau))
