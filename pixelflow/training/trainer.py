"""The training loop: steps, and what is due after them (logs, sample grids, checkpoints, a return to a checkpoint).

A step itself is in `pixelflow.training.step`. A run that stops and resumes is equal to one that did not, on any number
of processes.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pixelflow.errors import Interrupted, WorkFailed
from pixelflow.losses.objective import ObjectiveValue
from pixelflow.progress import Progress
from pixelflow.training.checkpoint import CheckpointStore
from pixelflow.training.draw import FlowParts
from pixelflow.training.meter import Meter, loss_note, step_metrics
from pixelflow.training.profile import profiler
from pixelflow.training.reader import Checkpoint, load_checkpoint
from pixelflow.training.saver import Saver
from pixelflow.training.settings import TrainerSettings
from pixelflow.training.state import TrainingState, check_like
from pixelflow.training.step import OptimizerStep
from pixelflow.types import Batch, Loader

logger = logging.getLogger(__name__)


class TrainingDiverged(WorkFailed):
    """Too many steps in a row were not finite. The message names the step and the checkpoint that is kept."""


@dataclass
class TrainerHooks:
    """Functions that the trainer calls.

    Args:
        log: Receives the metrics and the step, every `log_every` steps, in rank 0 alone.
        on_grid: Receives the averaged weights and the step, every `grid_every` steps, in rank 0 alone.
        stop: Asked after every step; if it returns True in any process, all save a checkpoint and stop.
        mark: Receives a short description when this process begins a phase of its work (see `Watchdog`).
    """

    log: Callable[[dict[str, float], int], None] = lambda metrics, step: None
    on_grid: Callable[[dict[str, Tensor], int], None] | None = None
    stop: Callable[[], bool] = lambda: False
    mark: Callable[[str], None] = lambda what: None


class Trainer:
    """Trains a backbone to `settings.max_steps`. Call `resume` before `fit` to continue from the newest checkpoint.

    Args:
        state: Backbone, averages, optimizer and objective: all that changes in training and is saved.
        flow: Cascade, timesteps, prediction and conditioning.
        loader: Yields this process's share of each batch.
        checkpoints: Store of the checkpoints; snapshots of power averages are saved in "snapshots" beside its folder.
        settings: Length, batch size, precision and intervals of the training.
        seed: Key of all random numbers of the training.
        config: Plain values that are stored in every checkpoint.
        hooks: Functions to call during the training.
        meter: Measures speed and memory for the log, if given.
    """

    def __init__(
        self,
        *,
        state: TrainingState,
        flow: FlowParts,
        loader: Loader,
        checkpoints: CheckpointStore,
        settings: TrainerSettings,
        seed: int,
        config: Mapping[str, Any],
        hooks: TrainerHooks | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.state, self.flow, self.loader, self.settings, self.config = state, flow, loader, settings, config
        self.world, self.device = state.network.world, state.network.device
        self.hooks, self.meter = hooks or TrainerHooks(), meter
        self.step = self.rollbacks = 0
        self.optimizer_step = OptimizerStep(
            state=state, flow=flow, settings=settings, seed=seed, mark=lambda what: self.hooks.mark(what)
        )
        self.guard = self.optimizer_step.guard
        self.checkpoints = checkpoints
        self.saver = Saver(checkpoints, world=self.world, background=settings.async_save)
        snapshots = CheckpointStore(checkpoints.folder.parent / "snapshots", keep=None)
        self.snapshots = Saver(snapshots, world=self.world, background=settings.async_save)

    # --- the loop ---------------------------------------------------------------------------------------------------

    def fit(self) -> int:
        """Trains to the end.

        Returns:
            The number of steps taken, including those before a restart.

        Raises:
            Interrupted: The training was asked to stop; a checkpoint is saved.
            TrainingDiverged: Too many steps in a row were not finite.
            WorkFailed: A checkpoint could not be written, or the memory is not sufficient.
        """
        if self.step < self.settings.max_steps and self.world.any(self.hooks.stop()):
            saved = f"at step {self.step}, which is saved"
            raise Interrupted(saved if self.step else "before the first step, so nothing is saved")
        progress = Progress(total=self.settings.max_steps, done=self.step)
        traces = self.checkpoints.folder.parent / "profile"
        try:
            with profiler(traces, steps=self.settings.profile_steps, rank=self.world.rank) as step_traced:
                batches = iter(self.loader)
                while self.step < self.settings.max_steps:
                    value = self.train_step(self._next(batches))
                    progress.advance(1, images=self.settings.batch_size)
                    if self._diverging():
                        progress.advance(self._roll_back())
                        batches = iter(self.loader)
                    else:
                        self._after_step(value, progress)
                    step_traced()
            self._wait_for_saves()
        except BaseException:  # a checkpoint that is being written is completed first
            self.saver.give_up()
            self.snapshots.give_up()
            raise
        finally:
            progress.close()
        return self.step

    def _next(self, batches: Iterator[Batch]) -> Batch:
        self.hooks.mark("waiting for data")
        if self.meter is None:
            return next(batches)
        with self.meter.waiting():
            return next(batches)

    def train_step(self, batch: Batch) -> ObjectiveValue:
        """Takes one optimizer step on this process's share of a batch, and returns the objective on that share."""
        value = self.optimizer_step(batch, self.step)
        self.step += 1
        if self.meter is not None:
            self.meter.step()
        return value

    def _after_step(self, value: ObjectiveValue, progress: Progress) -> None:
        s = self.settings
        if self.step % s.log_every == 0 or self.step == s.max_steps:
            self._log(value, progress)
        if s.grid_every and self.step % s.grid_every == 0 and self.hooks.on_grid:
            self._draw_grid(self.hooks.on_grid)
        self.hooks.mark("at the end of a step")
        self._save_if_due(stop=self.world.any(self.hooks.stop()))

    def _log(self, value: ObjectiveValue, progress: Progress) -> None:
        """The only place of the loop where the host waits for the device."""
        self.optimizer_step.settle()
        metrics = step_metrics(value, self.guard, self.state, num_stages=self.flow.cascade.num_stages)
        if self.meter is not None:
            metrics |= self.meter.read()
        else:
            metrics["images_per_second"] = progress.images_per_second()
        if self.world.rank == 0:
            self.hooks.log({name: number for name, number in metrics.items() if math.isfinite(number)}, self.step)
            progress.show(loss_note(metrics, self.flow.cascade.num_stages))

    def _draw_grid(self, on_grid: Callable[[dict[str, Tensor], int], None]) -> None:
        self.optimizer_step.settle()
        self.hooks.mark("drawing samples")
        weights = self.state.network.whole_average(self.state.ema.averages["ema"])
        if self.world.rank == 0:
            on_grid(weights, self.step)

    # --- steps that are not finite ----------------------------------------------------------------------------------

    def _diverging(self) -> bool:
        """Whether too many steps in a row were skipped, in all processes alike. On a GPU it is known one step later."""
        if self.device.type == "cpu" or self.step == self.settings.max_steps:
            self.optimizer_step.settle()
        return self.guard.in_a_row >= self.settings.max_bad_steps

    def _roll_back(self) -> int:
        """Returns to the last checkpoint and continues with the data that follow; returns the (negative) distance.

        Raises TrainingDiverged if there is no checkpoint or no rollback is left.
        """
        self.optimizer_step.settle()
        self._wait_for_saves()
        kept = self.world.broadcast(self.checkpoints.steps())
        last = self.step
        where = f"{self.checkpoints.path(kept[-1])} is kept" if kept else "no checkpoint was saved yet"
        if not kept or self.rollbacks >= self.settings.rollbacks:
            loss, norm = self.guard.last
            what = "loss" if not math.isfinite(loss) else "gradient"
            raise TrainingDiverged(
                f"the {what} is not finite at step {last} (loss {loss:g}, gradient norm {norm:g}); "
                f"{self.guard.in_a_row} steps in a row were not (max_bad_steps={self.settings.max_bad_steps}); "
                f"{where}. Lower the learning rate, raise warmup_steps or lower grad_clip; rollbacks=1 continues from "
                "the last checkpoint with other data"
            )
        position, skipped, rollbacks = self.loader.state_dict(), self.guard.skipped, self.rollbacks + 1
        self._restore(load_checkpoint(self.checkpoints.path(kept[-1])))
        self.loader.load_state_dict(position)
        self.guard.load({"in_a_row": 0, "skipped": skipped})
        self.rollbacks = rollbacks
        logger.warning(
            "step %d: returned to %s, and continues with the data that follow", last, self.checkpoints.path(kept[-1])
        )
        return self.step - last

    # --- checkpoints ------------------------------------------------------------------------------------------------

    def _save_if_due(self, *, stop: bool) -> None:
        s, snapshot_every = self.settings, self.state.ema.snapshot_every
        last = self.step == s.max_steps
        due = s.save_every and self.step % s.save_every == 0
        if due and not last and not stop:
            self.optimizer_step.settle()
            due = self.guard.in_a_row == 0  # the next steps may not recover from weights whose step was skipped
        if snapshot_every and (last or self.step % snapshot_every == 0):
            self.save_snapshot()
        if stop or last or due:
            self.snapshots.wait()  # a run that resumes from this checkpoint does not make earlier snapshots again
            self.save()
        if stop and not last:
            self._wait_for_saves()
            raise Interrupted(f"saved at step {self.step} of {s.max_steps}")
        self.saver.check()
        self.snapshots.check()

    def save(self) -> None:
        """Begins to save a checkpoint of everything that the next step depends on."""
        self.optimizer_step.settle()
        self.hooks.mark("saving")
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
        """Begins to save the power averages, from which averages of any width are rebuilt (see `posthoc`)."""
        self.optimizer_step.settle()
        self.snapshots.save(self.step, self.state.averages(self.state.ema.snapshot_names), {"config": self.config})

    def _wait_for_saves(self) -> None:
        self.saver.wait()
        self.snapshots.wait()

    def resume(self) -> None:
        """Continues from the newest checkpoint that is whole, which rank 0 chooses; does nothing without one.

        Raises:
            CheckpointError: The checkpoint belongs to another model, optimizer or objective.
        """
        checkpoint, problems = self.checkpoints.latest() if self.world.rank == 0 else (None, [])
        for problem in problems:
            logger.warning("skipped a checkpoint: %s", problem)
        path = self.world.broadcast(None if checkpoint is None else checkpoint.path)
        if path is not None:
            self._restore(checkpoint or load_checkpoint(path))
            logger.info("resumed from %s", path)

    def _restore(self, checkpoint: Checkpoint) -> None:
        # Earlier versions did not save the number of samples; a loader checks it where it is there.
        position = {key: value for key, value in self.loader.state_dict().items() if key != "samples"}
        present = {"loader": position, "guard": self.guard.state(), "rollbacks": self.rollbacks}
        for name, value in present.items():
            check_like(checkpoint.state.get(name), value, name, checkpoint.path)
        self.state.load(checkpoint)
        self.loader.load_state_dict(checkpoint.state["loader"])
        self.guard.load(checkpoint.state["guard"])
        self.rollbacks = checkpoint.state["rollbacks"]
        self.step = checkpoint.step
