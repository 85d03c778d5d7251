"""The backbone on several processes: replicated by DDP, sharded by FSDP2, or alone in one process."""

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

# Buffers of a backbone are constants, so they need no synchronisation. torch 2.15 renamed the option.
_NEWER = "forward_sync_buffers" in inspect.signature(DistributedDataParallel).parameters
_KEEP_BUFFERS: dict[str, Any] = {"forward_sync_buffers" if _NEWER else "broadcast_buffers": False}


class Network:
    """A backbone alone, replicated (DDP) or sharded (FSDP2).

    The optimizer, the averages and the checkpoints use `parameters`, which are plain tensors of this process. Under
    FSDP they are the local shards and share memory with those of the backbone, so the same code serves every form.

    Args:
        backbone: The backbone on its device; FSDP changes it in place.
        world: The processes of the job; by default this one.
        parallel: Use of several processes.
        shard_size: Number of processes that share one set of weights under FSDP; None for all. With fewer than all
            (hybrid sharding) the sets are replicas of each other.
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
        torch.export.register_dataclass(BackboneOutput)  # FSDP searches it for tensors that need gradients
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
        """Encloses one part of an accumulated step. Processes exchange gradients in the last part only."""
        if self.sharded:
            module = cast(FSDPModule, self.backbone)
            module.set_requires_gradient_sync(last)
            module.set_is_last_backward(last)
        quiet = isinstance(self.module, DistributedDataParallel) and not last
        with cast(DistributedDataParallel, self.module).no_sync() if quiet else nullcontext():
            yield

    def collect_gradients(self, others: Sequence[nn.Parameter]) -> None:
        """Completes the gradients after the last backward pass.

        Args:
            others: Trained parameters outside the backbone. Their gradients are averaged over the processes here, as
                DDP and FSDP average those of the backbone.
        """
        for owner, parameter in zip(self._owners, self.parameters, strict=True):
            if owner is not parameter:
                parameter.grad = None if owner.grad is None else local(owner.grad)
        if self.world.size > 1 and others:
            for parameter in others:
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients = [p.grad for p in others if p.grad is not None]
            self.world.add(*gradients)
            torch._foreach_div_(gradients, self.world.size)

    def drop_gradients(self) -> None:
        """Frees the gradients of the backbone."""
        for parameter in (*self._owners, *self.parameters):
            parameter.grad = None

    def gradient_norm(self, others: Sequence[nn.Parameter]) -> Tensor:
        """Returns the norm of the gradients of the backbone, in all shards, and of `others`."""
        mine = nn.utils.get_total_norm([p.grad for p in self.parameters if p.grad is not None])
        if self._shards is not None:
            square = mine.square()
            dist.all_reduce(square, group=self._shards)
            mine = square.sqrt()
        rest = [p.grad for p in others if p.grad is not None]
        return torch.stack([mine, nn.utils.get_total_norm(rest)]).norm() if rest else mine

    def whole(self, index: int, value: Tensor) -> Tensor:
        """Returns a value of the shape of parameters[index] as a whole tensor. All processes must call it."""
        owner = self._owners[index]
        if not isinstance(owner, DTensor) or value.shape != self.parameters[index].shape or value.ndim == 0:
            return value
        shape, stride = owner.shape, owner.stride()
        return DTensor.from_local(
            value, owner.device_mesh, owner.placements, run_check=False, shape=shape, stride=stride
        ).full_tensor()

    def own(self, index: int, value: Tensor) -> Tensor:
        """Returns this process's share of a whole tensor: the inverse of `whole`."""
        owner = self._owners[index]
        if not isinstance(owner, DTensor) or value.ndim == 0:
            return value
        value = value.to(owner.device)
        return local(distribute_tensor(value, owner.device_mesh, owner.placements, src_data_rank=None))

    def whole_state(self) -> dict[str, Tensor]:
        """Returns the state dict of the backbone in whole tensors. All processes must call it."""
        return {
            name: value.full_tensor() if isinstance(value, DTensor) else value
            for name, value in self.backbone.state_dict().items()
        }

    def whole_average(self, averaged: Sequence[Tensor]) -> dict[str, Tensor]:
        """Returns a state dict with these values of the parameters, whole. All processes must call it."""
        kept = {n: v for n, v in self.backbone.state_dict().items() if not isinstance(v, DTensor)}
        return kept | {name: self.whole(i, averaged[i]) for i, name in enumerate(self.names)}

    def trained(self) -> dict[str, Tensor]:
        """Returns the trained parameters by name; those that are sharded have their whole shape."""
        return dict(zip(self.names, self._owners, strict=True))

    @torch.no_grad()
    def load(self, state: Mapping[str, Tensor]) -> None:
        """Copies a state dict of whole tensors, with the names and shapes of this backbone, into it."""
        mine = self.backbone.state_dict()
        number = {name: i for i, name in enumerate(self.names)}
        for name, value in mine.items():
            if name in number:
                self.parameters[number[name]].copy_(self.own(number[name], state[name]))
            else:
                local(value).copy_(state[name])


def local(tensor: Tensor) -> Tensor:
    """Returns the local shard of a DTensor, and any other tensor as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
