"""job=table: the runs of an experiment as an ablation table, in Markdown, CSV, LaTeX and as a chart."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pixelflow.config.job import Config, Job
from pixelflow.errors import UserError
from pixelflow.runs.places import check_name
from pixelflow.terminal import say

if TYPE_CHECKING:
    from pixelflow.reporting.presentation import Presentation
    from pixelflow.reporting.publishing import RecipeSetting
    from pixelflow.reporting.runs import Run
    from pixelflow.runs.settings import RunSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TableOptions:
    """Options of job=table.

    Args:
        source: "folders", or "mlflow" for the runs that the tracking server has.
        output: the folder of the table; by default that of the experiment or sweep, in runs_dir.
        publish: true writes the recipe's own results, and no other runs, to experiments/results/.
        record: true also prints the whole record of every evaluation.
        experiments: the experiments of one table, as names below runs_dir or as folders of sweeps; by default that of
            the recipe.
        file: the name of the files; by default that of the experiments.
        paper: true also writes a table for LaTeX documents and a snippet for a README.

    Raises:
        ValueError: `file` is no name of a file, or `publish` is used with other sources than one recipe's folder.
    """

    source: Literal["folders", "mlflow"] = "folders"
    output: str | None = None
    publish: bool = False
    record: bool = False
    experiments: list[str] = field(default_factory=list)
    file: str | None = None
    paper: bool = False

    def __post_init__(self) -> None:
        if self.file is not None:
            check_name(self.file, "file")
        if self.publish and (self.experiments or self.source != "folders"):
            raise ValueError("publish=true writes the results of one recipe: use experiments=NAME instead")


def run(config: Config, options: TableOptions, overrides: list[str]) -> None:
    """Writes `<output>/<file>.{md,csv,tex,png}`, with paper=true `.paper.tex` and `.readme.md`; prints the Markdown.

    Raises:
        UserError: There is nothing to show, or `publish` is asked for with other settings than the recipe's.
    """
    from pixelflow.reporting.axes import DEFAULT_IGNORE
    from pixelflow.reporting.formats import markdown
    from pixelflow.reporting.paper_output import write_paper
    from pixelflow.reporting.publishing import recipe_results
    from pixelflow.reporting.table import EXPERIMENT, build_table
    from pixelflow.runs.settings import RunSettings
    from pixelflow.sweeps.live_table import write

    settings = RunSettings.of(config)
    sources = _sources(settings, options)
    of_debug = any(run.config.get("debug") for _, source in sources.values() for run in source)
    if of_debug and (options.publish or not config["debug"]):
        raise UserError("these runs were made with debug=true, and are no results; debug=true shows their table")
    several = bool(options.experiments)
    runs = [
        replace(run, config=run.config | {EXPERIMENT: name}) if several else run
        for name, (_, source) in sources.items()
        for run in source
    ]
    presentation, remarks = _presentation(config, options, overrides), list[str]()
    if options.publish:
        runs, remarks = recipe_results(runs, _recipe_settings(config, overrides))
    table = build_table(
        runs,
        presentation,
        ignore=[key for key in DEFAULT_IGNORE if not several or key != EXPERIMENT],
        command=f"python run.py {' '.join(overrides)}",
    )
    table = replace(table, notes=(*table.notes, *remarks))
    folder, stem = _place(settings, options, sources)
    written = write(table, folder, stem)
    written += write_paper(table, folder, stem) if options.paper else []
    for path in written:
        logger.info("wrote %s", path)
    say(markdown(table))
    if options.record:
        say(records(runs))


def _presentation(config: Config, options: TableOptions, overrides: Sequence[str]) -> Presentation:
    """Returns the recipe's presentation. Several experiments have no common recipe unless the user names one."""
    from hydra.core.hydra_config import HydraConfig

    from pixelflow.reporting.presentation import Presentation
    from pixelflow.sweeps.live_table import recipe_presentation

    typed = {override.lstrip("+").partition("=")[0].split(".")[0] for override in overrides}
    if options.experiments and "experiments" not in typed:
        return Presentation.of({key: config[key] for key in typed if key in config})
    return recipe_presentation(config, HydraConfig.get().sweeper)


def _recipe_settings(config: Config, overrides: Sequence[str]) -> list[RecipeSetting]:
    """The settings of the recipe. Raises UserError if the command changes it."""
    from pixelflow.config.composing import sweep_settings
    from pixelflow.reporting.publishing import RecipeSetting
    from pixelflow.runs.identity import setting_overrides

    if changed := setting_overrides(overrides):
        raise UserError(f"job.publish=true publishes a recipe as it stands: leave out {', '.join(changed)}")
    return [RecipeSetting.of(given, resolved) for given, resolved in sweep_settings(config, list(overrides), JOB)]


def _place(
    settings: RunSettings, options: TableOptions, sources: Mapping[str, tuple[Path, list[Run]]]
) -> tuple[Path, str]:
    """The folder and the name of the table's files."""
    from pixelflow.reporting.publishing import RESULTS

    stem = options.file or "+".join(name.replace("/", "-") for name in sources)
    if options.output is not None or options.publish:
        return Path(options.output or RESULTS), stem
    if options.experiments:
        return settings.runs_dir / "tables", stem
    ((folder, _),) = sources.values()
    return folder, options.file or "table"


def _sources(settings: RunSettings, options: TableOptions) -> dict[str, tuple[Path, list[Run]]]:
    """The folder and the runs of each experiment or sweep, by the name that the table shows.

    Raises:
        UserError: There is no such experiment or sweep.
    """
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
        return {name: (settings.runs_dir / name, read_mlflow(settings.mlflow_uri, name)) for name in names}
    # The folder also contains others, such as MLflow's.
    files = (path for kind in ("*/config.yaml", f"{SHARED}/*.json") for path in settings.runs_dir.glob(f"[!.]*/{kind}"))
    there = sorted({path.parts[-3] for path in files})
    found: dict[str, tuple[Path, list[Run]]] = {}
    for name in names:
        folder = settings.runs_dir / name
        sweep = next((path for path in (Path(name), folder) if (path / MANIFEST).is_file()), None)
        if sweep is not None:
            runs = sweep_runs(Sweep.load(sweep.absolute()))
            found[f"{sweep.absolute().parent.name}/{sweep.name}"] = sweep, runs
        elif name in there or not options.experiments:
            found[name] = folder, read_run_folders(folder)
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
