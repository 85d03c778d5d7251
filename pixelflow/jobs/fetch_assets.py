"""job=fetch_assets: download and verify what the recipe's losses and metrics will read."""

from __future__ import annotations

import difflib
from dataclasses import dataclass, field
from pathlib import Path

from pixelflow.assets import ASSETS, fetch, missing_line
from pixelflow.config.job import Config, Job
from pixelflow.config.schema import build
from pixelflow.errors import UserError
from pixelflow.files import locked, writing
from pixelflow.progress import Progress
from pixelflow.terminal import say


@dataclass(frozen=True)
class FetchOptions:
    """Options of job=fetch_assets.

    Args:
        files: names of more files of the table in pixelflow/assets.py.
    """

    files: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        for file in self.files:
            if file not in ASSETS:
                close = difflib.get_close_matches(file, ASSETS, n=1)
                question = f"; did you mean {close[0]}?" if close else ""
                raise ValueError(f"files: {file} is not in the table of pixelflow/assets.py{question}")


def run(config: Config, options: FetchOptions, overrides: list[str]) -> None:
    """Downloads what is missing.

    Raises:
        UserError: The address of a missing file is not known, or assets.root cannot be written.
        WorkFailed: A download failed.
    """
    from pixelflow.config.build import assets_root  # torch: seconds

    root, files = assets_root(config), wanted(config, options)
    unknown = [file for file in files if file not in ASSETS and missing_line(root, file)]
    if unknown:
        raise UserError(f"{', '.join(unknown)}: no address is known; put it into {root} yourself")
    if not files:
        say("this recipe reads nothing from assets.root")
        return
    with writing(root):
        root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        for file in files:
            if file in ASSETS:
                say(f"{_fetched(file, root):9} {root / file}")
            else:
                say(f"there     {root / file}")


def _fetched(file: str, root: Path) -> str:
    """Downloads a file of the table unless it is there, and returns which of the two."""
    progress: Progress | None = None

    def show(done: int, total: int | None) -> None:
        nonlocal progress
        if progress is None:
            progress = Progress(total=None if total is None else round(total / 1e6), unit="MB")
        progress.advance(round(done / 1e6) - progress.done)
        progress.show(file)

    try:
        return fetch(ASSETS[file], root, show)
    finally:
        if progress is not None:
            progress.close()


def wanted(config: Config, options: FetchOptions) -> list[str]:
    """Returns the files that the objective and the metrics read, and those named by job.files."""
    from pixelflow.config.suites import needed_files

    objective = build(config, "objective")
    return list(dict.fromkeys([*objective.needs(), *needed_files(config), *options.files]))


JOB = Job(
    name="fetch_assets",
    help="download what a recipe reads from assets.root: job=fetch_assets metrics=imagenet",
    run=run,
    options=FetchOptions,
)
