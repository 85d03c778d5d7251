"""The sections of a config without `_target_` as records: names, types and ranges. conf/ holds their defaults.

torch is imported where a value needs it: types of values are checked before that, see `check_types`.
"""

from __future__ import annotations

import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pixelflow.config.schema import check_type, read_record
from pixelflow.reporting.paper_rows import paper_rows
from pixelflow.reporting.presentation import chart_of
from pixelflow.runs.places import check_experiment, check_path
from pixelflow.runs.settings import TrackingSettings
from pixelflow.training.settings import TrainerSettings

if TYPE_CHECKING:
    from pixelflow.sampling.settings import Precision, SamplerSettings, SampleSet


@dataclass(frozen=True, kw_only=True)
class TopLevel:
    """The keys that belong to no section; conf/run.yaml describes them.

    Raises:
        ValueError: A name or a path has no accepted form; the message begins with its key.
    """

    experiment: str
    runs_of: str | None
    seed: int
    runs_dir: str
    checkpoint: str | None
    init_from: str | None
    samples: str | None
    rerun: bool
    trust: list[str]
    axes: list[str]
    paper: list[dict[str, Any]]
    seeds: int | list[int] | None
    settings: list[dict[str, Any]]
    dry_run: bool
    sweep: str | None
    watch: bool
    run_folder: str | None
    arm: str | None = None
    question: str | None = None
    chart: dict[str, Any] | None = None
    overrides: list[str] = field(default_factory=list)
    choices: dict[str, Any] = field(default_factory=dict)
    debug: bool = False
    runs: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_experiment(self.experiment, "experiment")
        if self.runs_of is not None:
            check_experiment(self.runs_of, "runs_of")
        for key in ("runs_dir", "checkpoint", "init_from", "samples", "sweep", "run_folder"):
            if (path := getattr(self, key)) is not None:
                check_path(path, key)
        if self.runs_dir.startswith("~"):
            raise ValueError(f"runs_dir={self.runs_dir} must not begin with ~, which is not replaced here")
        if self.arm is not None and not self.arm.strip():
            raise ValueError(f"arm={self.arm!r} must be a name, or null")
        if not self.trust:  # a module of the user may add metrics when it is imported, which is later
            chart_of(self.chart)
            paper_rows(self.paper)


@dataclass(frozen=True, kw_only=True)
class SamplerSection:
    """The section `sampler`; conf/run.yaml describes its keys.

    Raises:
        ValueError: A value is out of range; the message begins with the name of the key.
    """

    num_samples: int
    seed: int
    step: int | None
    weights: str
    classes: str | list[int]
    format: Literal["npz", "png", "shards"]
    per_shard: int
    batch_size: int | list[int]
    fixed_batch: int | None
    compile: bool
    cuda_graphs: bool
    tune_attention: bool
    cache_every: int
    trajectories: int

    def __post_init__(self) -> None:
        from pixelflow.training.weights import check_name as check_weights

        check_weights(self.weights)
        for key, least in {"num_samples": 1, "per_shard": 1, "trajectories": 0}.items():
            if getattr(self, key) < least:
                raise ValueError(f"{key}={getattr(self, key)} must be at least {least}")
        if self.step is not None and self.step < 1:
            raise ValueError(f"step={self.step} must be at least 1, or null for the last step")
        self.settings()

    def settings(self, precision: Precision = "fp32") -> SamplerSettings:
        """Returns how images are computed."""
        from pixelflow.sampling.settings import SamplerSettings

        return SamplerSettings(
            batch_size=self.batch_size,
            fixed_batch=self.fixed_batch,
            precision=precision,
            cache_every=self.cache_every,
            compile=self.compile,
            cuda_graphs=self.cuda_graphs,
            tune_attention=self.tune_attention,
        )

    def images(self, num_classes: int) -> SampleSet:
        """Returns the images that are asked for."""
        from pixelflow.sampling.produce import parse_classes
        from pixelflow.sampling.settings import SampleSet

        return SampleSet(self.num_samples, parse_classes(self.classes, num_classes), self.seed)


@dataclass(frozen=True, kw_only=True)
class MetricsSection:
    """The section `metrics`; conf/metrics/digits.yaml describes its keys."""

    features: dict[str, Any]
    reference: str
    also: list[str]
    extractors: dict[str, dict[str, Any]]
    prompts: str | None

    def __post_init__(self) -> None:
        if not self.reference.strip():
            raise ValueError("reference='' must be train, held_out, a folder or an .npz")


@dataclass(frozen=True, kw_only=True)
class AssetsSection:
    """The section `assets`.

    Args:
        root: Folder of the files that job=fetch_assets downloads; `~` stands for the home directory.
    """

    root: str

    def __post_init__(self) -> None:
        if not self.root.strip():
            raise ValueError("root='' must be a folder")

    @property
    def path(self) -> Path:
        """The folder."""
        return Path(self.root).expanduser()


SECTIONS: dict[str, type] = {
    "sampler": SamplerSection,
    "metrics": MetricsSection,
    "tracking": TrackingSettings,
    "assets": AssetsSection,
}
"""The sections without `_target_`. `job` is the options of the job."""


def read_sampler(config: Mapping[str, Any]) -> SamplerSection:
    """Returns the section `sampler` of a resolved config."""
    return read_record(SamplerSection, config["sampler"], "sampler")


def read_assets(config: Mapping[str, Any]) -> AssetsSection:
    """Returns the section `assets` of a resolved config."""
    return read_record(AssetsSection, config["assets"], "assets")


def check_types(config: Mapping[str, Any], options: type) -> None:
    """Checks types of values in sections without importing torch, so that a mistake is reported at once.

    A key that is not known here, and a value that refers to another key, are left to `validate`.

    Args:
        config: A config as plain data, not resolved.
        options: The record of the job's options.

    Raises:
        UserError: A value has another type than its key; the message names both.
    """
    for name, record in {"trainer": TrainerSettings, "job": options, **SECTIONS}.items():
        hints, node = typing.get_type_hints(record), config.get(name)
        for key, value in node.items() if isinstance(node, Mapping) else ():
            if key in hints and "${" not in str(value):
                check_type(value, hints[key], f"{name}.{key}")
