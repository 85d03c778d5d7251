"""Random draws of a training step: the stage, the time and the noise of each image."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, Conditioning, FlowSample, Prediction, Timesteps, on


@dataclass(frozen=True)
class FlowParts:
    """The parts that make training samples of clean images, and predictions of the backbone's output.

    Args:
        cascade: The stages and their paths.
        timesteps: Distribution of the time within a stage.
        prediction: Meaning of the backbone's output.
        conditioning: Makes the condition of a batch, and drops it for some images.
    """

    cascade: Cascade
    timesteps: Timesteps
    prediction: Prediction
    conditioning: Conditioning


def draw_stages(*, num_stages: int, batch_size: int, random: KeyedRandom, step: int) -> Tensor:
    """Draws the stage of every image of a step.

    Each block of `num_stages` images has every stage once, in random order. So all parts of a step, of processes or of
    accumulation, have the same number of images of each stage if `num_stages` divides them: every forward pass has
    the same shapes, and no process waits for a larger part. If `num_stages` does not divide the batch, only the whole
    batch is balanced, and the first stages occur once more.

    Args:
        num_stages: Number of stages of the cascade.
        batch_size: Images of the step, of all processes.
        random: Source of random numbers.
        step: Number of steps taken before; it keys the draw.

    Returns:
        (batch_size,) int64.
    """
    generator = random.generator("stage order", 0, step)
    if batch_size % num_stages:
        return torch.from_numpy(generator.permutation(np.arange(batch_size) % num_stages))
    blocks = np.tile(np.arange(num_stages), (batch_size // num_stages, 1))
    return torch.from_numpy(generator.permuted(blocks, axis=1).ravel())


def draw_times(
    sample_id: Tensor, stages: Tensor, *, cascade: Cascade, timesteps: Timesteps, random: KeyedRandom
) -> Tensor:
    """Returns tau of each image, (B,) float64, keyed by its sample id (so splitting a step does not change it).

    Args:
        sample_id: (B,) int64, the sample id of each image.
        stages: (B,) int64, the stage of each image.
        cascade: The cascade.
        timesteps: Distribution of the time within a stage.
        random: Source of random numbers.
    """
    return timesteps(random.uniform("tau", sample_id.tolist()), *cascade.windows(stages))


def draw_flow_samples(
    batch: Batch, stages: Tensor, tau: Tensor, *, cascade: Cascade, random: KeyedRandom
) -> list[FlowSample]:
    """Makes the training samples of a batch, with noise that is keyed by the sample id of each image.

    Args:
        batch: (B, C, H, W) clean images.
        stages: (B,) int64, the stage of each image.
        tau: (B,) float64 in [0, 1], the time of each image within its stage.
        cascade: The cascade.
        random: Source of random numbers.

    Returns:
        One FlowSample for each stage that occurs, coarsest first.
    """
    samples = []
    for stage in range(cascade.num_stages):
        index = (stages == stage).nonzero()[:, 0]
        if len(index) == 0:
            continue
        x = batch.x[on(index, batch.x.device)]
        shape = (x.shape[1], cascade.resolution(stage), cascade.resolution(stage))
        noise = random.normal_on(x.device, "noise", batch.sample_id[index].tolist(), shape)
        samples.append(cascade.flow_sample(x, stage=stage, tau=on(tau[index], x.device), noise=noise, index=index))
    return samples
