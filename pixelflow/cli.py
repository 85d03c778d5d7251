"""The command: composes a config, runs its job, and ends with a status and with messages that a person can read."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
import traceback
from collections.abc import Callable
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pixelflow.conf_dir import conf_folder, option_files
from pixelflow.config.job import register_jobs
from pixelflow.config.launchers import register
from pixelflow.config.search_path import config_folders, known_keys
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.jobs import find_job, job_names
from pixelflow.signals import CONTINUE, stop_signal

DEBUG = "PIXELFLOW_TRACEBACK"
"""An environment variable; `--debug` sets it. The traceback of a reported error is then shown as well."""

BUG = (
    "This is a bug of pixelflow, not a mistake in your command: please report it with the traceback above. "
    "If a run had started, log.txt in its folder has it as well."
)


def run() -> None:
    """Runs `python run.py` and the console script `pixelflow`."""
    main("run")


def evaluate() -> None:
    """Runs `python evaluate.py` and the console script `pixelflow-evaluate`."""
    main("evaluate")


def main(config_name: str) -> None:
    """Composes a config from the command line and runs its job. Exits with a status unless the job succeeds.

    Args:
        config_name: the file in conf/ from which composing starts, without its extension.
    """
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger().handlers[0].addFilter(lambda record: record.name.startswith("pixelflow"))
    prepare_hydra()
    if {"hydra/launcher=slurm", "hydra/launcher=local"} & set(sys.argv) and not {"-m", "--multirun"} & set(sys.argv):
        sys.argv.insert(1, "--multirun")  # Hydra starts launchers for sweeps only; a single run is a sweep of one
    explained(hydra.main(config_path=str(conf_folder()), config_name=config_name, version_base="1.3")(dispatch))


def dispatch(config: DictConfig) -> Any:
    """Checks a composed config and runs its job as `pixelflow/jobs/NAME.py` declares it.

    An error of a single run is reported here. In a sweep Hydra receives it, and continues with the other runs.

    Returns:
        The result of the job.
    """
    overrides = list(HydraConfig.get().overrides.task)

    def work() -> Any:
        job = find_job(config.job.name)
        if "sweep" in job.needs:  # such a job reads no group, and starts without importing torch
            plain = {key: value for key, value in config.items() if key == "job" or not OmegaConf.is_config(value)}
            return job.start(OmegaConf.to_container(OmegaConf.create(plain), resolve=True), overrides)  # type: ignore
        from pixelflow.config.resolve import resolve  # torch: seconds
        from pixelflow.config.validate import check_data

        resolved = resolve(config, overrides, job)
        check_data(resolved, job)
        return job.start(resolved, overrides)

    if HydraConfig.get().mode == RunMode.RUN:
        explained(lambda: check_single(overrides), outermost=False)
        return explained(work, outermost=False)
    print(f"\n[{HydraConfig.get().job.num}] {' '.join(overrides)}", file=sys.stderr)
    return work()


def check_single(overrides: list[str]) -> None:
    """Raises UserError for overrides that have a meaning in sweeps only."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("dry_run", "seeds", "settings") and value not in ("false", "null", "[]"):
            raise UserError(f"{override} belongs to a sweep: add -m, or hydra/launcher=slurm or local")


def prepare_hydra() -> None:
    """Makes the jobs, the launchers and the sweepers known to Hydra. Whoever composes a config calls this first."""
    jobs = [find_job(name) for name in job_names()]
    register(find_job, entry="pixelflow.frozen_job")
    register_jobs(jobs)
    lines = "\n  ".join(f"{job.name:20} {job.help}" for job in jobs)
    OmegaConf.register_new_resolver("help_of_jobs", lambda: lines, replace=True)


def explained(work: Callable[[], Any], *, outermost: bool = True) -> Any:
    """Returns `work()`. An error that a user can act on ends the process with a short message.

    A `UserError`, or an error of Hydra in composing, exits with 2; a `WorkFailed` with 1; an `Interrupted` with 75, for
    the same command continues the work; Ctrl-C with 130. Every other exception is a bug: it shows its traceback, and
    the process exits with 1. A call that is not the outermost raises it again instead.
    """
    try:
        return work()
    except KeyboardInterrupt:
        fail("interrupted; the same command continues from the last checkpoint", status=130)
    except Exception as error:
        message, status = report(error)
        if message is None:
            if not outermost:
                raise
            traceback.print_exc()
            print(f"\n{BUG}", file=sys.stderr)
            sys.exit(1)
        if os.environ.get(DEBUG):
            traceback.print_exc()
        fail(message, status=status)


def report(error: BaseException) -> tuple[str | None, int]:
    """Returns the short message and the exit status of an error; no message for a bug."""
    if isinstance(error, InstantiationException):  # Hydra wraps what a constructor raises
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | WorkFailed | Interrupted):
            return report(cause)
        if isinstance(cause, ValueError):
            key = re.search(r"full_key: (\S+)", str(error))
            return f"{key.group(1)}: {cause}" if key else str(cause), 2
        return None, 1
    if isinstance(error, HydraException | OmegaConfBaseException):
        return explain(error), 2
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, WorkFailed):
        return str(error), 1
    if isinstance(error, Interrupted):
        name = signal.name if (signal := stop_signal()) else "a request"
        return f"stopped by {name}: {error}; the same command continues from there", CONTINUE
    return None, 1


def fail(message: str, *, status: int) -> None:
    """Prints an error message and exits."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: BaseException) -> str:
    """Returns an error of Hydra in composing in one line, with the nearest key that exists."""
    chain, messages = error, []
    while chain is not None:
        messages.append(str(chain))
        chain = chain.__cause__ or chain.__context__  # type: ignore[assignment]
    text = "\n".join(messages)
    unknown = re.search(r"Could not override '([^']+)'|is not in struct\s+full_key: (\S+)", text)
    if unknown:
        key = (unknown.group(1) or unknown.group(2)).split("@")[0]
        close = difflib.get_close_matches(key, known_keys(), n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown option {key}; {hint}(python run.py --help lists the groups, --cfg job every option)"
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, option = missing.group(1).rpartition("/")
        options = sorted(option_files(group, config_folders())) if group != "job" else job_names()
        return f"{group}={option} does not exist; one of: {', '.join(options)}"
    return next(line for line in messages[0].splitlines() if line.strip())
