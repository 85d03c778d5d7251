"""job=fetch_assets: download and verify what the recipe's losses and metrics will read."""

from __future__ import annotations

import sys
import time

from hydra.utils import instantiate

from pixelflow.assets import ASSETS, fetch, missing_line
from pixelflow.config.build import Config, assets_root
from pixelflow.config.suites import needed_files
from pixelflow.files import locked
from pixelflow.losses.objective import Objective


def run(config: Config, overrides: list[str]) -> None:
    """Raises ValueError for a file without an address that is not there, OSError for a download that fails."""
    root, files = assets_root(config), wanted(config)
    unknown = [file for file in files if file not in ASSETS and missing_line(root, file)]
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no address is known; put it into {root} yourself")
    if not files:
        print("this recipe reads nothing from assets.root")
        return
    root.mkdir(parents=True, exist_ok=True)
    with locked(root / ".lock"):
        for file in files:
            if file in ASSETS:
                line = _Line(file)
                outcome = fetch(ASSETS[file], root, line.show)
                line.close()
                print(f"{outcome:9} {root / file}", flush=True)
            else:
                print(f"there     {root / file}", flush=True)


def wanted(config: Config) -> list[str]:
    """The files of the objective, of the metrics, and those named by job.files."""
    for file in config["job"]["files"]:
        if file not in ASSETS:
            raise ValueError(f"job.files: {file} is none of {', '.join(ASSETS)}")
    objective: Objective = instantiate(config["objective"])
    return list(dict.fromkeys([*objective.needs(), *needed_files(config), *config["job"]["files"]]))


class _Line:
    """Progress on stderr: rewritten on a terminal, every ten seconds elsewhere."""

    def __init__(self, file: str) -> None:
        self.file, self._shown, self._live = file, time.monotonic(), sys.stderr.isatty()

    def show(self, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._shown < (0.2 if self._live else 10.0):
            return
        self._shown = now
        of = f" of {total / 1e6:.0f}" if total else ""
        text = f"{self.file} {done / 1e6:.0f}{of} MB"
        sys.stderr.write(f"\r{text}" if self._live else f"{text}\n")
        sys.stderr.flush()

    def close(self) -> None:
        if self._live:
            sys.stderr.write("\n")
