"""The training loop: draw, forward, objective, step, average, log, save.

A step is a function of (weights, optimizer, step number, position in the data): every random number is keyed by one
of them, so a run that stops and resumes is the run that did not, on whatever number of processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from pixelflow.errors import Interrupted
from pixelflow.flow.cascade import Cascade
from pixelflow.flow.rng import KeyedRandom
from pixelflow.losses.objective import Objective, ObjectiveValue
from pixelflow.progress import Progress
from pixelflow.training.checkpoint import Checkpoint, CheckpointStore, load_checkpoint
from pixelflow.training.distributed import Network
from pixelflow.training.draw import draw_flow_samples, draw_stages, draw_times
from pixelflow.training.ema import EMA
from pixelflow.training.guard import StepGuard, TrainingDiverged
from pixelflow.training.meter import Meter
from pixelflow.training.out_of_memory import explained_out_of_memory
from pixelflow.training.profile import profiler
from pixelflow.training.saver import Saver
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState
from pixelflow.types import Batch, Conditioning, Loader, Predicted, Prediction, Timesteps

__all__ = ["Trainer", "TrainerSettings", "TrainingDiverged"]

logger = logging.getLogger(__name__)


class Trainer:
    """Trains `network` to `settings.max_steps`. `resume` before `fit` goes on from the newest whole checkpoint.

    network: the backbone; a bare one is a network of one process. objective: prepared; what it trains itself is in the
    optimizer, behind the network's parameters, and in the checkpoints, but not in the averages. loader: yields this
    process's share. checkpoints: with `snapshots` beside it for power averages (see EMA), if they are wanted.
    config: stored in every checkpoint, as plain values.
    log: called as log(metrics, step), in the first process alone. on_grid: called as on_grid(averaged weights, step)
    every grid_every steps, there too. stop: asked after every step; true in any process ends `fit` of all with a
    checkpoint. mark: told what this process begins to do. meter: measures for the log.
    """

    def __init__(
        self,
        *,
        backbone: nn.Module | Network,
        cascade: Cascade,
        timesteps: Timesteps,
        prediction: Prediction,
        conditioning: Conditioning,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        ema: EMA,
        loader: Loader,
        checkpoints: CheckpointStore,
        settings: TrainerSettings,
        seed: int,
        device: torch.device,
        config: Mapping[str, Any],
        log: Callable[[dict[str, float], int], None],
        on_grid: Callable[[dict[str, Tensor], int], None] | None = None,
        stop: Callable[[], bool] = lambda: False,
        mark: Callable[[str], None] = lambda what: None,
        meter: Meter | None = None,
    ) -> None:
        self.network = backbone if isinstance(backbone, Network) else Network(backbone)
        self.backbone, self.world = self.network.backbone, self.network.world
        self.cascade, self.timesteps, self.prediction = cascade, timesteps, prediction
        self.conditioning, self.objective, self.optimizer, self.ema = conditioning, objective, optimizer, ema
        objective.check_backbone(self.backbone)
        self.loader, self.checkpoints, self.settings = loader, checkpoints, settings
        self.device, self.config, self.log, self.on_grid, self.stop = device, config, log, on_grid, stop
        self.mark, self.meter = mark, meter
        self.random, self.guard = KeyedRandom(seed), StepGuard()
        self.others = [p for p in objective.parameters() if p.requires_grad]
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.step = self.rollbacks = 0
        ema.attach(self.network.parameters)
        self.state = TrainingState(network=self.network, ema=ema, optimizer=optimizer, objective=objective)
        self.saver = Saver(checkpoints, world=self.world, background=settings.async_save)
        snapshots = CheckpointStore(checkpoints.folder.parent / "snapshots", keep=None)
        self.snapshots = Saver(snapshots, world=self.world, background=settings.async_save)
        # A step is judged on the device where the optimizer takes its word; elsewhere the host must ask first.
        self._skips_itself = getattr(optimizer, "_step_supports_amp_scaling", False)

    def fit(self) -> int:
        """Train to the end; returns the step reached.

        Raises Interrupted when it was asked to stop, TrainingDiverged, or OSError if a save fails.
        """
        s = self.settings
        first = self.world.rank == 0
        progress = Progress(total=s.max_steps, done=self.step)
        try:
            with profiler(
                self.checkpoints.folder.parent / "profile", steps=s.profile_steps, rank=self.world.rank
            ) as traced:
                batches = iter(self.loader)
                while self.step < s.max_steps:
                    if self._advance(batches, progress, first):
                        batches = iter(self.loader)
                    traced()
            self._wait_for_saves()
        except BaseException:  # whatever ends the run, what was begun is written
            self.saver.give_up()
            self.snapshots.give_up()
            raise
        finally:
            progress.close()
        return self.step

    def _advance(self, batches: Any, progress: Progress, first: bool) -> bool:
        """One step, and what is due after it. Returns whether the run went back to a checkpoint."""
        s = self.settings
        self.mark("waiting for data")
        if self.meter is None:
            batch = next(batches)
        else:
            with self.meter.waiting():
                batch = next(batches)
        value = self.train_step(batch)
        progress.advance(1, images=s.batch_size)
        if self.meter is not None:
            self.meter.step()
        if self._diverging():
            progress.advance(self._roll_back(), images=0)
            return True
        if self.step % s.log_every == 0 or self.step == s.max_steps:
            self._log(value, progress, first)
        if s.grid_every and self.step % s.grid_every == 0 and self.on_grid:
            self._draw_grid(first)
        self.mark("at the end of a step")
        self._save_if_due(self.world.any(self.stop()))
        return False

    def _save_if_due(self, stop: bool) -> None:
        s = self.settings
        last = self.step == s.max_steps
        due = s.save_every and self.step % s.save_every == 0
        if due and not last and not stop:
            self._settle()
            due = self.guard.in_a_row == 0  # weights that the next steps cannot go on from are no good checkpoint
        if self.ema.snapshot_every and (last or self.step % self.ema.snapshot_every == 0):
            self.save_snapshot()
        if stop or last or due:
            self.snapshots.wait()  # a run that resumes from this checkpoint does not make earlier snapshots again
            self.save()
        if stop and not last:
            self._wait_for_saves()
            raise Interrupted(f"saved at step {self.step} of {s.max_steps}")
        self.saver.check()
        self.snapshots.check()

    # --- a step -----------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> ObjectiveValue:
        """One optimizer step on this process's share of a batch; the value is of that share."""
        self._set_learning_rate()
        batch = batch.to(self.device)
        mine = self.world.slice(self.settings.batch_size)
        stages = draw_stages(
            num_stages=self.cascade.num_stages, batch_size=self.settings.batch_size, random=self.random, step=self.step
        )[mine]
        step_tau = draw_times(self._step_ids(batch), timesteps=self.timesteps, random=self.random)
        adaptive = self.objective.adaptive
        measured = adaptive if adaptive is not None and adaptive.due(self.step) else None
        self.backbone.train()
        values = []
        with explained_out_of_memory(self):
            for number, part in enumerate(self._parts(len(batch))):
                values.append(self._part(number, batch[part], stages[part], step_tau[mine][part], step_tau, measured))
            value = ObjectiveValue.merged(values)
            self._update(value.loss.clone(), measured)
        return value

    def _part(
        self, number: int, batch: Batch, stages: Tensor, tau: Tensor, step_tau: Tensor, measured: Any
    ) -> ObjectiveValue:
        """Forward and backward of one part of the step."""
        parts = self.settings.accumulate
        # Dropout draws from the global generator: a resumed step must find it as it was.
        place = self.world.rank * parts + number
        torch.manual_seed(self.random.generator("dropout", place, self.step).integers(2**62))
        with self.network.part(last=number == parts - 1):
            self.mark("computing forward")
            value = self.forward(batch, stages, tau, step_tau)
            if measured is not None:
                assert value.reference is not None and value.adapted is not None
                measured.observe(value.reference, value.adapted, self.backbone.last_layer.weight)  # type: ignore
            self.mark("computing backward")
            # Losses of the parts add up to the step's; what shares gradients among processes takes their mean.
            (value.loss * self.world.size).backward()
        # What is kept for the log must not keep the graph.
        return replace(value, loss=value.loss.detach(), reference=None, adapted=None)

    def _update(self, loss: Tensor, measured: Any) -> None:
        """From gradients to weights and averages, unless the step is not finite."""
        self.mark("updating")
        self.network.collect_gradients(self.others)
        self.world.add(loss)
        grad_norm = self.network.gradient_norm(self.others)
        self._settle()  # the step before, before its weights change
        bad = self.guard.judge(self.step + 1, loss, grad_norm)
        if self.settings.grad_clip is not None:
            clipped = [p for p in (*self.network.parameters, *self.others) if p.grad is not None]
            nn.utils.clip_grads_with_norm_(clipped, self.settings.grad_clip, grad_norm)
        if self._skips_itself:
            self.optimizer.found_inf = bad  # type: ignore[attr-defined]
        if self._skips_itself or not bad.item():
            self.optimizer.step()
        self.network.drop_gradients()
        self.optimizer.zero_grad(set_to_none=True)
        if measured is not None:
            measured.update(self.world.add)
        self.step += 1

    def _settle(self) -> None:
        """Average the weights of the last step, if it was taken."""
        if (verdict := self.guard.settle()) is not None:
            step, taken = verdict
            if taken:
                self.ema.update(self.network.parameters, step)
            else:
                loss, norm = self.guard.last
                logger.warning("step %d is skipped: loss %g, gradient norm %g", step, loss, norm)

    def forward(self, batch: Batch, stages: Tensor, tau: Tensor, step_tau: Tensor) -> ObjectiveValue:
        """batch, stages, tau: a part of the step. step_tau: tau of all images of the step, of all processes."""
        batch = batch.to(self.device)
        samples = draw_flow_samples(batch, stages, tau, cascade=self.cascade, random=self.random)
        uniform = self.random.uniform("drop", batch.sample_id.tolist())
        condition = self.conditioning.drop(self.conditioning.encode(batch), uniform)
        order = torch.cat([sample.index for sample in samples])
        timestep = torch.cat([sample.timestep for sample in samples])
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            images = [sample.x_t for sample in samples]
            output = self.network.module(images, timestep, condition[order], features=self.objective.layers)
        predicted = [
            Predicted(
                output.output[i].float(), sample, self.prediction,
                {layer: groups[i] for layer, groups in output.features.items()},
            )
            for i, sample in enumerate(samples)
        ]  # fmt: skip
        return self.objective(predicted, batch, step_tau, tau=tau)

    def _parts(self, images: int) -> list[slice]:
        size = images // self.settings.accumulate
        return [slice(start, start + size) for start in range(0, images, size)]

    def _step_ids(self, batch: Batch) -> Tensor:
        """Sample ids of all processes: loaders deal out consecutive pieces."""
        if self.world.size == 1:
            return batch.sample_id
        first = int(batch.sample_id[0]) - self.world.rank * len(batch)
        return torch.arange(first, first + self.settings.batch_size)

    def _set_learning_rate(self) -> None:
        warmup = self.settings.warmup_steps
        factor = min(1.0, (self.step + 1) / warmup) if warmup else 1.0
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    # --- steps that are not finite ----------------------------------------------------------------------------------

    def _diverging(self) -> bool:
        """Whether too many steps in a row were skipped. The same in all processes; a GPU is heard a step later."""
        if self.device.type == "cpu" or self.step == self.settings.max_steps:
            self._settle()
        return self.guard.in_a_row >= self.settings.max_bad_steps

    def _roll_back(self) -> int:
        """Back to the last checkpoint, and on with the data behind those that went wrong. Returns the (negative) way.

        Raises TrainingDiverged where there is none, or it was tried often enough.
        """
        self._settle()
        self._wait_for_saves()
        kept = self.world.broadcast(self.checkpoints.steps())
        last = self.step
        where = f"{self.checkpoints.path(kept[-1])} is kept" if kept else "no checkpoint was saved yet"
        if not kept or self.rollbacks >= self.settings.rollbacks:
            loss, norm = self.guard.last
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise TrainingDiverged(
                f"the {what} is not finite at step {last} (loss {loss:g}, gradient norm {norm:g}), nor was it in the "
                f"{self.guard.in_a_row} steps up to there (trainer.max_bad_steps); {where}. Lower optimizer.lr, raise "
                "trainer.warmup_steps, or lower trainer.grad_clip; trainer.rollbacks=1 tries again with other data"
            )
        position, skipped, rollbacks = self.loader.state_dict(), self.guard.skipped, self.rollbacks + 1
        self._restore(load_checkpoint(self.checkpoints.path(kept[-1])))
        self.loader.load_state_dict(position)
        self.guard.load({"in_a_row": 0, "skipped": skipped})
        self.rollbacks = rollbacks
        logger.warning(
            "back from step %d to %s, and on with the data that follow", last, self.checkpoints.path(kept[-1])
        )
        return self.step - last

    # --- logging ----------------------------------------------------------------------------------------------------

    def _log(self, value: ObjectiveValue, progress: Progress, first: bool) -> None:
        """The one place of a step where the host waits for the device."""
        self._settle()
        metrics = self._metrics(self._of_all(value))
        if self.meter is not None:
            metrics |= self.meter.read()
        else:
            metrics["images_per_second"] = progress.images_per_second()
        if first:
            self.log({name: number for name, number in metrics.items() if math.isfinite(number)}, self.step)
            progress.show(f"loss {metrics['loss']:.4f}")

    def _of_all(self, value: ObjectiveValue) -> ObjectiveValue:
        """The value of the whole step, from the shares of all processes."""
        if self.world.size == 1:
            return value
        keys = [(stage, term) for stage in range(self.cascade.num_stages) for term in value.weights]
        zero = torch.zeros((), device=self.device)
        sums = torch.stack([value.sums.get(key, zero).float() for key in keys])
        counts = torch.tensor([float(value.counts.get(key, 0)) for key in keys], device=self.device)
        self.world.add(sums, counts)
        there = {key: (sums[i], int(n)) for i, (key, n) in enumerate(zip(keys, counts.tolist(), strict=True)) if n}
        return replace(value, sums={k: v for k, (v, _) in there.items()}, counts={k: n for k, (_, n) in there.items()})

    def _metrics(self, value: ObjectiveValue) -> dict[str, float]:
        loss, grad_norm = self.guard.last
        metrics = {"loss": loss, "grad_norm": grad_norm, "lr": self.optimizer.param_groups[0]["lr"]}
        metrics["skipped_steps"] = self.guard.skipped
        metrics |= {f"loss/{name}": term.item() for name, term in value.terms.items()}
        if self.objective.adaptive is not None:
            metrics["adaptive_weight"] = self.objective.adaptive.value.item()
        return metrics | {f"loss/stage_{stage}": loss.item() for stage, loss in value.stages.items()}

    def _draw_grid(self, first: bool) -> None:
        self._settle()
        self.mark("drawing samples")
        weights = self.network.whole_average(self.ema.averages["ema"])
        if first and self.on_grid is not None:
            self.on_grid(weights, self.step)

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """A checkpoint of everything that the next step depends on."""
        self._settle()
        self.mark("saving")
        state = {
            "config": self.config,
            "optimizer_groups": self.state.groups(),
            "loader": self.loader.state_dict(),
            "guard": self.guard.state(),
            "rollbacks": self.rollbacks,
        }
        self.saver.save(self.step, self.state.entries(), state)
        logger.debug("saving step %d", self.step)

    def save_snapshot(self) -> None:
        """The power averages, from which averages of any length are rebuilt."""
        self._settle()
        self.snapshots.save(self.step, self.state.averages(self.ema.snapshot_names), {"config": self.config})

    def _wait_for_saves(self) -> None:
        self.saver.wait()
        self.snapshots.wait()

    def resume(self) -> None:
        """Continue from the newest checkpoint that verifies; the first process chooses."""
        checkpoint, problems = self.checkpoints.latest() if self.world.rank == 0 else (None, [])
        for problem in problems:
            logger.warning("skipped a checkpoint: %s", problem)
        path = self.world.broadcast(None if checkpoint is None else checkpoint.path)
        if path is not None:
            self._restore(checkpoint or load_checkpoint(path))
            logger.info("resumed from %s", path)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.state.load(checkpoint)
        self.loader.load_state_dict(checkpoint.state["loader"])
        self.guard.load(checkpoint.state["guard"])
        self.rollbacks = checkpoint.state["rollbacks"]
        self.step = checkpoint.step
