"""Sweeps beyond products: lists of settings, seeds, and Optuna trials that are stopped early."""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Mapping, Sequence
from typing import Any

from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper
from omegaconf import DictConfig

from pixelflow.errors import UserError

MOST_SEEDS = 10_000


def expand(
    grid: Sequence[Sequence[str]], settings: Sequence[Mapping[str, Any]], seeds: int | Sequence[int] | None
) -> list[list[str]]:
    """Returns every run of `grid` with each of `settings` and each of `seeds`, without repetitions.

    Args:
        grid: Runs as lists of overrides. Keys of a setting, and `seed`, replace those of a run.
        settings: Mappings of keys to values.
        seeds: A number of seeds, counted from 0, or a list of them; None to keep those of `grid`.

    Raises:
        UserError: A setting is not a mapping, or there are no seeds.

    Examples:
        >>> expand([["a=1"]], [{"b": 2}, {"a": 3}], [0])
        [['a=1', 'b=2', 'seed=0'], ['a=3', 'seed=0']]
    """
    if not isinstance(settings, list | tuple):
        raise UserError(f"settings={settings!r} must be a list of mappings of keys to values")
    for number, setting in enumerate(settings):
        if not isinstance(setting, Mapping) or not setting:
            raise UserError(f"settings[{number}]={setting!r} must be a mapping of keys to values")
    counted = isinstance(seeds, int) and not isinstance(seeds, bool) and 1 <= seeds <= MOST_SEEDS
    listed = isinstance(seeds, list | tuple) and seeds and all(type(seed) is int for seed in seeds)
    if seeds is not None and not counted and not listed:
        raise UserError(f"seeds={seeds} must be at least 1, or a list of seeds; at most {MOST_SEEDS}")
    chosen = [None] if seeds is None else range(seeds) if isinstance(seeds, int) else seeds
    jobs: dict[tuple[str, ...], None] = {}  # without repetitions, in order
    for job in grid:
        for setting in settings or [{}]:
            for seed in chosen:
                given = {key: _spelled(value) for key, value in setting.items()}
                given |= {} if seed is None else {"seed": str(seed)}
                kept = [override for override in job if override.partition("=")[0] not in given]
                combined = [*kept, *(f"{key}={value}" for key, value in given.items())]
                jobs[tuple(combined)] = None
    return [list(job) for job in jobs]


def _spelled(value: Any) -> str:
    """The value as Hydra's command line takes it."""
    return value if isinstance(value, str) else json.dumps(value)


class PruningSweeper(Sweeper):
    """hydra-optuna-sweeper with pruning: the launcher observes the trials that SLURM runs, and cancels poor ones.

    Args:
        pruning: None for no pruning, or `metric` (a name in metrics.jsonl), `pruner` (an optuna class; not `_target_`,
            which Hydra would instantiate) and the arguments of the pruner.
        **arguments: The arguments of hydra-optuna-sweeper.
    """

    def __init__(self, pruning: DictConfig | None = None, **arguments: Any) -> None:
        self.pruning = pruning
        self.sweeper = OptunaSweeper(**arguments).sweeper

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Prepares the search, and gives the launcher access to its trials.

        Raises:
            UserError: The launcher is another one than submitit_slurm, or the pruner is unknown.
        """
        self.sweeper.setup(hydra_context=hydra_context, task_function=task_function, config=config)
        if self.pruning is None:
            return
        if config.hydra.launcher._target_ != "hydra_plugins.pixelflow.SlurmLauncher":
            raise UserError("hydra.sweeper.pruning needs hydra/launcher=submitit_slurm; or set it to null")
        pruner, metric, configure = _pruner(self.pruning), self.pruning.metric, self.sweeper._configure_trials

        def configure_and_watch(trials: list[Any], *rest: Any) -> Any:
            for trial in trials:
                trial.study.pruner = pruner
                trial.study.tell = functools.partial(_tell_once, trial.study)
            self.sweeper.launcher.trials = [(trial, metric) for trial in trials]  # type: ignore[union-attr]
            return configure(trials, *rest)

        self.sweeper._configure_trials = configure_and_watch  # type: ignore

    def sweep(self, arguments: list[str]) -> Any:
        """Runs the search."""
        return self.sweeper.sweep(arguments)


def _pruner(pruning: DictConfig) -> Any:
    """Makes the pruner. Raises UserError for one that optuna does not have, or that takes other arguments."""
    from optuna import pruners

    name = str(pruning.pruner).removeprefix("optuna.pruners.")
    if name not in pruners.__all__:
        names = ", ".join(name for name in pruners.__all__ if inspect.isclass(getattr(pruners, name)))
        raise UserError(f"hydra.sweeper.pruning.pruner={pruning.pruner} is none of optuna's: {names}")
    try:
        return getattr(pruners, name)(
            **{str(key): value for key, value in pruning.items() if key not in ("metric", "pruner")}
        )
    except (TypeError, ValueError) as error:
        raise UserError(f"hydra.sweeper.pruning: {error}") from None


def _tell_once(study: Any, trial: Any, **about: Any) -> None:
    """Records the end of a trial unless the launcher has recorded it as pruned already."""
    if not study.trials[trial.number].state.is_finished():
        type(study).tell(study, trial, **about)
