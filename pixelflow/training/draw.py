"""What training draws for a batch: stage, time, noise, and which images lose their condition."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, FlowSample, Timesteps, on


def draw_stages(*, num_stages: int, batch_size: int, random: KeyedRandom, step: int) -> Tensor:
    """(batch_size,) int64: the stage of every image of a step.

    Each block of num_stages images has every stage once, in an order of its own. So all parts of a step, of processes
    or of accumulation, have equally many images of each stage wherever num_stages divides them: every forward pass
    has the same shapes, and nobody waits for a larger part. A batch that num_stages does not divide is balanced as a
    whole alone, with the first stages once more.
    """
    generator = random.generator("stage order", 0, step)
    if batch_size % num_stages:
        return torch.from_numpy(generator.permutation(np.arange(batch_size) % num_stages))
    blocks = np.tile(np.arange(num_stages), (batch_size // num_stages, 1))
    return torch.from_numpy(generator.permuted(blocks, axis=1).ravel())


def draw_times(sample_id: Tensor, *, timesteps: Timesteps, random: KeyedRandom) -> Tensor:
    """(B,) float64, the tau of each image, keyed by its sample id: the same however a step is split."""
    return timesteps(random.uniform("tau", sample_id.tolist()))


def draw_flow_samples(
    batch: Batch, stages: Tensor, tau: Tensor, *, cascade: Cascade, random: KeyedRandom
) -> list[FlowSample]:
    """The batch as one FlowSample per stage that occurs in it, coarsest first. stages, tau: (B,).

    Noise is keyed by the image's sample id, so it does not depend on how a step is split.
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
