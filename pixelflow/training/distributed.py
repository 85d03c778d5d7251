"""One run on several processes: who takes which part of a step, and who holds which part of the weights.

A single process is a world of one, and goes the same way; what it needs no company for costs it nothing.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from pixelflow.nn.blocks import blocks_of
from pixelflow.processes import World
from pixelflow.training.settings import Parallel
from pixelflow.types import BackboneOutput

# Buffers of a backbone are constants. torch 2.15 warns of the older name of the same option.
_NEWER = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEWER else "broadcast_buffers": False}


class Network:
    """The backbone as a training step sees it: alone, replicated (DDP) or sharded (FSDP2).

    What optimizes, averages and saves works on `parameters`, this process's own plain tensors: under FSDP the local
    shards, sharing memory with the backbone's. So those passes are the same code, and as fast, in each form.
    shard_size: processes that share one set of weights under FSDP; fewer than all is hybrid sharding, where the sets
    are replicas of each other.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        world: World | None = None,
        parallel: Parallel = "none",
        shard_size: int | None = None,
    ) -> None:
        self.backbone, self.world = backbone, world or World()
        self.device = next(backbone.parameters()).device
        self.sharded = parallel == "fsdp" and self.world.size > 1
        self._shards: dist.ProcessGroup | None = None
        if self.sharded:
            self._shard(shard_size or self.world.size)
        self._owners = [p for p in backbone.parameters() if p.requires_grad]
        self.names = [name for name, p in backbone.named_parameters() if p.requires_grad]
        self.parameters = [nn.Parameter(local(p.detach())) if isinstance(p, DTensor) else p for p in self._owners]
        self.module: nn.Module = backbone
        if self.world.size > 1 and not self.sharded:
            self.module = DistributedDataParallel(backbone, gradient_as_bucket_view=True, **_KEEP_BUFFERS)

    def _shard(self, shard_size: int) -> None:
        torch.export.register_dataclass(BackboneOutput)  # FSDP looks into it for what will have gradients
        device, size = next(self.backbone.parameters()).device.type, self.world.size
        if shard_size == size:
            mesh = init_device_mesh(device, (size,), mesh_dim_names=("shard",))
        else:
            mesh = init_device_mesh(device, (size // shard_size, shard_size), mesh_dim_names=("replicate", "shard"))
        self._shards = mesh.get_group("shard")
        for block in blocks_of(self.backbone):
            fully_shard(block, mesh=mesh)
        fully_shard(self.backbone, mesh=mesh)

    @contextmanager
    def part(self, *, last: bool) -> Iterator[None]:
        """One part of an accumulated step: gradients travel at the last one alone."""
        if self.sharded:
            module = cast(FSDPModule, self.backbone)
            module.set_requires_gradient_sync(last)
            module.set_is_last_backward(last)
        quiet = isinstance(self.module, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, self.module).no_sync() if quiet else nullcontext():
            yield

    def collect_gradients(self, others: Sequence[nn.Parameter]) -> None:
        """After the last backward pass: gradients of `parameters`, and the sum of those that no wrapper knows."""
        for owner, parameter in zip(self._owners, self.parameters, strict=True):
            if owner is not parameter:
                parameter.grad = None if owner.grad is None else local(owner.grad)
        if self.world.size > 1 and others:
            for parameter in others:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            self.world.add(*(p.grad for p in others if p.grad is not None))

    def drop_gradients(self) -> None:
        for parameter in (*self._owners, *self.parameters):
            parameter.grad = None

    def gradient_norm(self, others: Sequence[nn.Parameter]) -> Tensor:
        """Of all gradients of the run, wherever they lie."""
        mine = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self._shards is not None:
            square = mine.square()
            dist.all_reduce(square, group=self._shards)
            mine = square.sqrt()
        rest = [p.grad for p in others if p.grad is not None]
        return torch.stack([mine, nn.utils.get_total_norm(rest)]).norm() if rest else mine

    def whole(self, index: int, value: Tensor) -> Tensor:
        """`value`, of the shape of parameters[index], as one tensor of the backbone. All processes must ask."""
        owner = self._owners[index]
        if not isinstance(owner, DTensor) or value.shape != self.parameters[index].shape or value.ndim == 0:
            return value
        shape, stride = owner.shape, owner.stride()
        return DTensor.from_local(
            value, owner.device_mesh, owner.placements, run_check=False, shape=shape, stride=stride
        ).full_tensor()

    def own(self, index: int, value: Tensor) -> Tensor:
        """The other way: this process's part of a whole tensor."""
        owner = self._owners[index]
        if not isinstance(owner, DTensor) or value.ndim == 0:
            return value
        value = value.to(owner.device)
        return local(distribute_tensor(value, owner.device_mesh, owner.placements, src_data_rank=None))

    def whole_state(self) -> dict[str, Tensor]:
        """The backbone's state dict in whole tensors, one after the other. All processes must ask."""
        return {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in self.backbone.state_dict().items()
        }

    def whole_average(self, averaged: Sequence[Tensor]) -> dict[str, Tensor]:
        """A state dict with other values of the parameters. All processes must ask."""
        kept = {n: v for n, v in self.backbone.state_dict().items() if not isinstance(v, DTensor)}
        return kept | {name: self.whole(i, averaged[i]) for i, name in enumerate(self.names)}

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Raises ValueError for a state dict that is not this backbone's."""
        mine = self.backbone.state_dict()
        wrong = sorted({*mine} ^ {*state}) or [n for n in mine if mine[n].shape != state[n].shape]
        if wrong:
            raise ValueError(f"the weights do not fit this backbone: {', '.join(wrong[:3])}")
        number = {name: i for i, name in enumerate(self.names)}
        for name, value in mine.items():
            if name in number:
                self.parameters[number[name]].copy_(self.own(number[name], state[name]))
            else:
                local(value).copy_(state[name])


def local(tensor: Tensor) -> Tensor:
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
