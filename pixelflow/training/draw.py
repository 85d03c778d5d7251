"""What training draws for a batch: stage, time, noise, and which images lose their condition."""

from __future__ import annotations

import torch
from torch import Tensor

from pixelflow.flow.cascade import Cascade, deal_stages
from pixelflow.flow.rng import KeyedRandom
from pixelflow.types import Batch, FlowSample, Timesteps


def draw_stages(*, num_stages: int, batch_size: int, random: KeyedRandom, step: int) -> Tensor:
    """(batch_size,) int64: a balanced, shuffled stage for every image of a step."""
    order = torch.from_numpy(random.permutation("stage order", batch_size, step=step))
    return deal_stages(num_stages, order)


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
        x = batch.x[index.to(batch.x.device)]
        shape = (x.shape[1], cascade.resolution(stage), cascade.resolution(stage))
        noise = random.normal("noise", batch.sample_id[index].tolist(), shape, device=x.device)
        samples.append(cascade.flow_sample(x, stage=stage, tau=tau[index].to(x.device), noise=noise, index=index))
    return samples
