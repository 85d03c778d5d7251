"""What run.py and evaluate.py share: dispatch to a job, and errors a person can read."""

from __future__ import annotations

import difflib
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pixelflow.config.job import register_jobs
from pixelflow.config.launchers import register
from pixelflow.jobs import find_job, job_names
from pixelflow.signals import CONTINUE, stop_signal

CONF = Path(__file__).resolve().parents[1] / "conf"


def dispatch(config: DictConfig) -> Any:
    """Check the config and run its job, as `pixelflow/jobs/NAME.py` declares it; returns what the job returns.

    A single run ends here with a short message; in a sweep the error goes on to Hydra, and the other runs go on.
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
        explained(lambda: check_single(overrides))
    else:
        print(f"\n[{HydraConfig.get().job.num}] {' '.join(overrides)}", file=sys.stderr)
        return work()
    return explained(work)


def check_single(overrides: list[str]) -> None:
    """Raise ValueError for what only a sweep understands."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("dry_run", "seeds", "settings") and value not in ("false", "null", "[]"):
            raise ValueError(f"{override} belongs to a sweep: add -m, or hydra/launcher=slurm or local")


def main(task: Callable[[], Any]) -> None:
    """Run a Hydra task with our log lines on the terminal and errors that a person can read."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its errors to us instead of printing them
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr, force=True)
    logging.getLogger().handlers[0].addFilter(lambda record: record.name.startswith("pixelflow"))
    prepare_hydra()
    if {"hydra/launcher=slurm", "hydra/launcher=local"} & set(sys.argv) and not {"-m", "--multirun"} & set(sys.argv):
        sys.argv.insert(1, "--multirun")  # Hydra's launchers know nothing but sweeps; a single run is a sweep of one
    explained(task)


def prepare_hydra() -> None:
    """Makes the jobs, the launchers and the sweepers known to Hydra. Whoever composes a config calls this first."""
    jobs = [find_job(name) for name in job_names()]
    register(find_job, entry="pixelflow.frozen_job")
    register_jobs(jobs)
    lines = "\n  ".join(f"{job.name:20} {job.help}" for job in jobs)
    OmegaConf.register_new_resolver("help_of_jobs", lambda: lines, replace=True)


def explained(work: Callable[[], Any]) -> Any:
    """A user's mistake prints one or two lines and exits with 2, a failure of the work with 1.

    Work that a signal interrupted exits with 75, "try again": the same command goes on.

    PIXELFLOW_TRACEBACK=1 shows the traceback of either.
    """
    if os.environ.get("PIXELFLOW_TRACEBACK"):
        return work()
    try:
        return work()
    except (HydraException, OmegaConfBaseException) as error:
        fail(explain(error), status=2)
    except ValueError as error:
        fail(str(error), status=2)
    except OSError as error:
        fail(str(error), status=1)
    except KeyboardInterrupt:
        fail("interrupted; the same command goes on from the last checkpoint", status=130)
    except Exception as error:
        from pixelflow.errors import Interrupted, WorkFailed

        if isinstance(error, WorkFailed):
            fail(str(error), status=1)
        if not isinstance(error, Interrupted):
            raise
        name = signal.name if (signal := stop_signal()) else "a request"
        fail(f"stopped by {name}: {error}; the same command goes on from there", status=CONTINUE)


def fail(message: str, *, status: int) -> None:
    print(f"error: {message}", file=sys.stderr)
    sys.exit(status)


def explain(error: BaseException) -> str:
    """Hydra's complaint in a line or two, with the nearest key that exists."""
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
        options = sorted(p.stem for p in (CONF / group).glob("*.yaml")) if group != "job" else job_names()
        return f"{group}={option} does not exist; one of: {', '.join(options)}"
    return next(line for line in messages[0].splitlines() if line.strip())


def known_keys() -> list[str]:
    """`group.option` of every file in conf/, and the groups themselves."""
    keys = []
    for path in CONF.rglob("*.yaml"):
        group = ".".join(path.parent.relative_to(CONF).parts)
        content = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        nested = [f"{k}.{inner}" for k, v in content.items() if isinstance(v, dict) for inner in v]
        keys += [f"{group}.{key}" if group else key for key in [*content, *nested]]
        keys.append(group)
    return sorted(set(keys) - {""})
