"""A training run with one of its evaluations, as tables show it.

The readers, `folder_reader` and `mlflow_reader`, return the same runs: configs are flattened and their values are
brought to one form, because MLflow stores every parameter as text.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from pixelflow.errors import UserError
from pixelflow.runs.flat import flatten
from pixelflow.runs.identity import EVALUATION_SECTIONS, MACHINE_KEYS, STEP_KEY


@dataclass(frozen=True)
class Run:
    """A training run with one of its evaluations.

    Runs that differ only in how they are sampled and measured share the trained weights and the run folder. Each of
    their evaluations is a `Run` of its own, with the same name and with the evaluation's settings in `config`.

    Args:
        name: Name of the folder or of the MLflow run.
        config: The config as flat, dotted keys.
        seed: The seed of the training.
        metrics: Metrics of the evaluation; empty without one.
        record: How the evaluation was made; empty without one.
        state: The state in the sense of `pixelflow.runs.status.RunStatus`, "unknown", or "broken" for a run whose files
            cannot be read.
        folder: The run folder; None for a run that was read from MLflow.
        reason: Why the run is in this state, if known.
        evaluation: The file of the evaluation, as a path in the run folder; empty if it is not known.
    """

    name: str
    config: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    record: dict[str, Any]
    state: str
    folder: Path | None
    reason: str = ""
    evaluation: str = ""

    @property
    def complete(self) -> bool:
        """True if the run is finished and evaluated, so that a table includes it."""
        return self.state == "finished" and bool(self.metrics)

    @property
    def arm(self) -> str | None:
        """The recipe's name for the setting, or None. Arms may share a training, so that of the evaluation counts."""
        arm = self.record.get("arm", self.config.get("arm"))
        return None if arm is None else spell(arm)

    def of_recipe(self, experiment: str, arm: str | None) -> Run:
        """Returns the run as a result of another experiment, and of an arm of it or of none."""
        return replace(self, config=self.config | {"experiment": experiment}, record={**self.record, "arm": arm})


@dataclass(frozen=True)
class Evaluation:
    """The content of an evaluation file.

    Args:
        metrics: Values by the keys of `pixelflow.metrics.catalogue`.
        record: How the samples were made and measured; `settings` holds the config values that determine the
            evaluation.
        name: Its file, as a path in the run folder.
    """

    metrics: dict[str, float]
    record: dict[str, Any]
    name: str = ""

    @property
    def settings(self) -> Mapping[str, Any] | None:
        """The config values that determine the evaluation; None for a file of an earlier version."""
        settings = self.record.get("settings")
        return settings if isinstance(settings, Mapping) else None


def read_mapping(path: Path) -> dict[str, Any]:
    """Returns the content of a JSON or YAML file that holds a mapping.

    Raises:
        UserError: The file cannot be read, or its content is not a mapping.
    """
    shown = f"{path.parent.name}/{path.name}" if path.parent.name == "evaluation" else path.name
    kind = "YAML" if path.suffix == ".yaml" else "JSON"
    try:
        text = path.read_text(encoding="utf-8")
        content = yaml.safe_load(text) if kind == "YAML" else json.loads(text)
    except OSError as error:
        raise UserError(f"{shown} cannot be read: {error.strerror}") from error
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        raise UserError(f"{shown} is not {kind}: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{shown} is not a mapping")
    return content


def read_evaluation(path: Path) -> Evaluation:
    """Returns the content of an evaluation file.

    Raises:
        UserError: The file cannot be read, or it is not an evaluation.
    """
    content = read_mapping(path)
    shown = f"{path.parent.name}/{path.name}"
    metrics, record = content.get("metrics"), content.get("record", {})
    if not isinstance(metrics, dict):
        raise UserError(f"{shown} has no `metrics`")
    for key, value in metrics.items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(f"{shown}: metrics.{key}={value!r} is not a number")
    if not isinstance(record, dict):
        raise UserError(f"{shown}: `record` is not a mapping")
    return Evaluation({key: float(value) for key, value in metrics.items()}, record, shown)


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Returns all evaluations in a folder, the oldest first.

    Raises:
        UserError: A file cannot be read, or it is not an evaluation.
    """
    found: list[tuple[float, str, Evaluation]] = []
    for path in sorted(folder.glob("*.json")):
        if path.name.startswith("."):
            continue
        evaluation = read_evaluation(path)
        # Copying a folder changes the times of its files, but not those in the records.
        time = evaluation_time(evaluation.record)
        found.append((path.stat().st_mtime if time is None else time, path.name, evaluation))
    return [evaluation for _, _, evaluation in sorted(found, key=lambda entry: entry[:2])]


def evaluation_time(record: Mapping[str, Any]) -> float | None:
    """Returns when an evaluation was made, in Unix seconds, or None if its record does not state it.

    Args:
        record: The evaluation's record, with `time` in Unix seconds or as ISO 8601.
    """
    time = record.get("time")
    if isinstance(time, int | float):
        return float(time)
    try:
        return datetime.datetime.fromisoformat(str(time)).timestamp()
    except ValueError:
        return None


def arms_of(runs: Iterable[Run]) -> tuple[str, ...]:
    """Returns the arms of runs, in the order of their first runs."""
    return tuple(dict.fromkeys(run.arm for run in runs if run.arm is not None))


def spell(value: Any) -> str:
    """Returns a config value as text."""
    return value if isinstance(value, str) else json.dumps(value, default=str)


def seed_of(config: Mapping[str, Any]) -> int:
    """Returns the seed in a flat config.

    Raises:
        UserError: There is none, or it is not an integer.
    """
    seed = config.get("seed")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise UserError("the config has no integer `seed`")
    return seed


def broken_run(name: str, config: dict[str, Any], error: Exception, folder: Path | None) -> Run:
    """Returns an entry for a run whose files cannot be read, with the error as its reason."""
    return Run(name, config, 0, {}, {}, "broken", folder, " ".join(str(error).split()))


def evaluated_runs(run: Run, evaluations: Sequence[Evaluation], *, final: bool) -> list[Run]:
    """Returns a run once for each of its evaluations, with the settings of each.

    Args:
        run: The run without an evaluation. It is returned itself if there is no evaluation.
        evaluations: Its evaluations.
        final: Whether the pipeline made the evaluations. Such an evaluation is complete in every state of the run: a
            later evaluation of the same weights that is at work or has failed does not remove the earlier ones from a
            table. The unfinished run is then returned as well.
    """
    runs = [replace(_measured(run, found), config=with_settings(run.config, found)) for found in evaluations]
    if final and runs and run.state != "finished":
        return [*(replace(entry, state="finished", reason="") for entry in runs), run]
    return runs or [run]


def _measured(run: Run, found: Evaluation) -> Run:
    return replace(run, metrics=found.metrics, record=found.record, evaluation=found.name)


def with_settings(config: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    """Returns a run's flat config with the settings of one of its evaluations.

    Runs that differ only in how they are sampled and measured share a folder, and its config.yaml holds the settings of
    the first of them. The record of each evaluation holds its own.
    """
    settings = evaluation.settings
    if settings is None:
        return config
    replaced = {section for section in EVALUATION_SECTIONS if section in settings}
    kept = {k: v for k, v in config.items() if k in MACHINE_KEYS or k.split(".")[0] not in replaced}
    return kept | flatten(settings)


def with_steps(runs: Sequence[Run]) -> list[Run]:
    """Returns runs with the step of their weights as `sampler.step`, which an evaluation's settings do not hold.

    Without an evaluation of an intermediate step the key would say no more than `trainer.max_steps`; it is left out.
    """
    trained = [run.config.get("trainer.max_steps") for run in runs]
    steps = [last if last is None else run.record.get("step") or last for run, last in zip(runs, trained, strict=True)]
    found = []
    for run, step in zip(runs, steps, strict=True):
        config = {key: value for key, value in run.config.items() if key != STEP_KEY}
        shown = {STEP_KEY: step} if steps != trained and step is not None else {}
        found.append(replace(run, config=config | shown))
    return found
