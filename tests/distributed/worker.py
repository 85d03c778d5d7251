"""Runs one process of a tiny training run: `python -m tests.distributed.worker FOLDER '{"max_steps": 4, ...}'`.

With RANK and WORLD_SIZE in the environment it is one of several. Prints the logged metrics as JSON lines (rank 0), and
exits as run.py does.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from pixelflow.conditioning import ClassLabel
from pixelflow.data.in_memory import MemoryLoader
from pixelflow.errors import Interrupted, WorkFailed
from pixelflow.flow import Cascade, UniformTimesteps, VelocityPrediction
from pixelflow.losses import AdaptiveWeight, FlowMatching, Objective, PDino, Repa
from pixelflow.processes import World, processes
from pixelflow.signals import CONTINUE, stop_on_signals, stop_signal
from pixelflow.training import saver
from pixelflow.training.checkpoint import CheckpointStore, write_tensors
from pixelflow.training.distributed import Network
from pixelflow.training.draw import FlowParts
from pixelflow.training.ema import EMA
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.training.trainer import Trainer, TrainerHooks
from pixelflow.training.watchdog import Watchdog
from pixelflow.types import Batch
from tests.tiny import tiny_pixelflow
from tests.unit.losses.stand_ins import PatchEncoder

BATCH = 8
CPU = torch.device("cpu")


class Faulty:
    """A loader that hangs, fails or is killed at given steps."""

    def __init__(self, loader: MemoryLoader, faults: dict[int, str]) -> None:
        self.loader, self.faults = loader, faults
        self.state_dict, self.load_state_dict = loader.state_dict, loader.load_state_dict

    def __iter__(self) -> Iterator[Batch]:
        for batch in self.loader:
            match self.faults.get(self.loader.position // BATCH):
                case "hang":
                    time.sleep(1000)
                case "fail":
                    raise ValueError("the data are gone")
                case "kill":
                    os.kill(os.getpid(), signal.SIGKILL)
                case "kill in the next save":
                    saver.write_tensors = _write_and_die
                case "stop":
                    os.kill(os.getpid(), signal.SIGUSR2)
                case "nan":
                    batch = Batch(batch.x * float("nan"), batch.condition, batch.sample_id)
                case "slow":
                    time.sleep(0.3)
            yield batch


def _write_and_die(folder: Path, tensors: Any, **settings: Any) -> Any:
    """Writes the tensor files of this process; one that writes a checkpoint is killed before it can report them."""
    files = write_tensors(folder, tensors, **settings)
    if folder.parent.name == "checkpoints":  # snapshots are saved before it
        os.kill(os.getpid(), signal.SIGKILL)
    return files


def trained_objective(*, adaptive: bool) -> Objective:
    """Returns an objective with trained weights (REPA) and a gate; the adaptive weight changes in every step."""
    weight = AdaptiveWeight(terms=["p_dino"], start_step=0, every=1)
    objective = Objective(
        terms={
            "flow_matching": FlowMatching(),
            "repa": Repa(encoder="patches", layer=1, hidden=6),
            "p_dino": PDino(encoder="patches", weight=0.1, min_t=0.3),
        },
        encoders={"patches": PatchEncoder()},
        adaptive=weight if adaptive else None,
    )
    objective.prepare(width=16, assets=Path(), device="cpu")
    return objective


def trainer_of(folder: Path, options: dict[str, Any], world: World, mark: Any, device: torch.device = CPU) -> Trainer:
    torch.manual_seed(0)
    faults = {int(step): what for step, what in options.pop("faults", {}).get(str(world.rank), {}).items()}
    stages, image_size = options.pop("num_stages", 2), 8
    losses = options.pop("losses", None)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 1, image_size, image_size), dtype=torch.uint8, generator=generator)
    settings = TrainerSettings(**{"max_steps": 6, "batch_size": BATCH, "save_every": 2, "log_every": 1} | options)
    backbone = tiny_pixelflow(depth=2).to(device)
    network = Network(backbone, world=world, parallel=settings.parallel, shard_size=settings.shard_size)
    objective = Objective(terms={"flow_matching": FlowMatching()})
    optimizer: Any = torch.optim.AdamW(network.parameters, lr=2e-3, weight_decay=0.1, fused=True)
    if losses is not None:  # plain descent, whose weights show the size of a gradient; Adam's do not
        objective = trained_objective(adaptive=losses == "adaptive")
        optimizer = torch.optim.SGD([*network.parameters, *objective.parameters()], lr=0.1)
    loader = MemoryLoader(
        images=images, labels=torch.arange(20) % 5, batch_size=BATCH, seed=1, rank=world.rank, world_size=world.size
    )
    return Trainer(
        state=TrainingState(
            network=network,
            optimizer=optimizer,
            objective=objective,
            ema=EMA(decay=0.9, power=[0.1], snapshot_every=2),
        ),
        flow=FlowParts(
            cascade=Cascade(image_size=image_size, num_stages=stages),
            timesteps=UniformTimesteps(),
            prediction=VelocityPrediction(),
            conditioning=ClassLabel(num_classes=5, drop_prob=0.4),
        ),
        loader=Faulty(loader, faults),
        checkpoints=CheckpointStore(folder / "checkpoints", keep=settings.keep_checkpoints),
        settings=settings,
        seed=7,
        config={},
        hooks=TrainerHooks(
            log=lambda metrics, step: print(json.dumps(metrics | {"step": step}), flush=True),
            stop=lambda: stop_signal() is not None,
            mark=mark,
        ),
    )


def main(folder: Path, options: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    with stop_on_signals(), processes(CPU) as (world, _):
        if world.size == 1:
            trainer = trainer_of(folder, options, world, lambda what: None)
            trainer.resume()
            trainer.fit()
            return
        seconds = options.get("stall_seconds", 60.0)
        with Watchdog(rank=world.rank, size=world.size, store=world.store, seconds=seconds) as watchdog:
            trainer = trainer_of(folder, options, world, watchdog.mark)
            trainer.resume()
            trainer.fit()


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except Interrupted as error:
        print(error, file=sys.stderr)
        sys.exit(CONTINUE)
    except (ValueError, OSError, WorkFailed) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
