"""job=table: the runs of an experiment as an ablation table, in Markdown, CSV, LaTeX and as a chart."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelflow.config.job import Config, Job
from pixelflow.errors import UserError
from pixelflow.runs.places import check_name
from pixelflow.terminal import say

if TYPE_CHECKING:
    from pixelflow.reporting.presentation import Presentation
    from pixelflow.reporting.runs import Run
    from pixelflow.runs.settings import RunSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableOptions:
    """Options of job=table.

    Args:
        source: "folders", or "mlflow" for the runs that the tracking server has.
        output: the folder of the table.
        record: true also prints the whole record of every evaluation.
        experiments: the experiments of one table, as names below runs_dir or as folders of sweeps; by default that of
            the recipe.
        file: the name of the files; by default that of the experiments.
        paper: true also writes a table for LaTeX documents and a snippet for a README.

    Raises:
        ValueError: `file` is no name of a file.
    """

    source: Literal["folders", "mlflow"] = "folders"
    output: str = "experiments/results"
    record: bool = False
    experiments: list[str] = field(default_factory=list)
    file: str | None = None
    paper: bool = False

    def __post_init__(self) -> None:
        if self.file is not None:
            check_name(self.file, "file")


def run(config: Config, options: TableOptions, overrides: list[str]) -> None:
    """Writes `<output>/<file>.{md,csv,tex,png}`, with paper=true `.paper.tex` and `.readme.md`; prints the Markdown."""
    from pixelflow.reporting.axes import DEFAULT_IGNORE
    from pixelflow.reporting.formats import markdown
    from pixelflow.reporting.paper_output import write_paper
    from pixelflow.reporting.table import EXPERIMENT, build_table
    from pixelflow.runs.settings import RunSettings
    from pixelflow.sweeps.live_table import write

    settings = RunSettings.of(config)
    sources = _sources(settings, options)
    if not config["debug"] and any(run.config.get("debug") for source in sources.values() for run in source):
        raise UserError("these runs were made with debug=true, and are no results; debug=true shows their table")
    several = bool(options.experiments)
    runs = [
        replace(run, config=run.config | {EXPERIMENT: name}) if several else run
        for name, source in sources.items()
        for run in source
    ]
    table = build_table(
        runs,
        _presentation(config, options, overrides),
        ignore=[key for key in DEFAULT_IGNORE if not several or key != EXPERIMENT],
        command=f"python run.py {' '.join(overrides)}",
    )
    stem = options.file or "+".join(name.replace("/", "-") for name in sources)
    written = write(table, Path(options.output), stem)
    written += write_paper(table, Path(options.output), stem) if options.paper else []
    for path in written:
        logger.info("wrote %s", path)
    say(markdown(table))
    if options.record:
        say(records(runs))


def _presentation(config: Config, options: TableOptions, overrides: Sequence[str]) -> Presentation:
    """What the recipe states about the table. Several experiments have no common recipe unless the user names one."""
    from hydra.core.hydra_config import HydraConfig

    from pixelflow.reporting.presentation import Presentation
    from pixelflow.sweeps.live_table import recipe_presentation

    typed = {override.lstrip("+").partition("=")[0].split(".")[0] for override in overrides}
    if options.experiments and "experiments" not in typed:
        return Presentation.of({key: config[key] for key in typed if key in config})
    return recipe_presentation(config, HydraConfig.get().sweeper)


def _sources(settings: RunSettings, options: TableOptions) -> dict[str, list[Run]]:
    """The runs of each experiment or sweep, by the name that the table shows. Raises UserError for an unknown one."""
    from pixelflow.reporting.folder_reader import read_run_folders
    from pixelflow.reporting.mlflow_reader import read_mlflow
    from pixelflow.runs.sharing import FOLDER as SHARED
    from pixelflow.sweeps.final_job import sweep_runs
    from pixelflow.sweeps.manifest import MANIFEST, Sweep

    names = options.experiments or [settings.experiment]
    if options.source == "mlflow":
        if settings.runs_of != settings.experiment:
            raise UserError(
                f"job.source=mlflow shows all evaluations of runs_of={settings.runs_of}, and not those of "
                f"experiment={settings.experiment}: use job.source=folders"
            )
        return {name: read_mlflow(settings.mlflow_uri, name) for name in names}
    # Other folders, such as MLflow's, lie there as well.
    files = (path for kind in ("*/config.yaml", f"{SHARED}/*.json") for path in settings.runs_dir.glob(f"[!.]*/{kind}"))
    there = sorted({path.parts[-3] for path in files})
    found: dict[str, list[Run]] = {}
    for name in names:
        folder = settings.runs_dir / name
        sweep = next((path for path in (Path(name), folder) if (path / MANIFEST).is_file()), None)
        if sweep is not None:
            found[f"{sweep.absolute().parent.name}/{sweep.name}"] = sweep_runs(Sweep.load(sweep.absolute()))
        elif name in there or not options.experiments:
            found[name] = read_run_folders(folder)
        else:
            raise UserError(
                f"job.experiments: {name!r} is neither an experiment in {settings.runs_dir} nor the folder of a sweep; "
                f"there are {', '.join(there) or 'none'}"
            )
    return found


def records(runs: Sequence[Run]) -> str:
    """Returns the settings behind each number, run by run, as YAML."""
    import yaml

    known = [run for run in runs if run.complete]
    return "\n".join(f"{run.name}\n{yaml.safe_dump({'record': run.record}, sort_keys=False)}" for run in known)


JOB = Job(
    name="table",
    help="the table of an experiment's runs: job=table experiments=digits_kickoff",
    run=run,
    options=TableOptions,
)
