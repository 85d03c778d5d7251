"""The command line: composes a config, runs its job, and exits with a status and readable messages."""

from __future__ import annotations

import difflib
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException, InstantiationException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from pixelflow.conf_dir import conf_folder, option_files
from pixelflow.config.composing import group_choices
from pixelflow.config.debug import in_debug, set_aside
from pixelflow.config.foreign import guard
from pixelflow.config.help_text import register_help
from pixelflow.config.job import register_jobs
from pixelflow.config.launchers import register
from pixelflow.config.scale import at_scale
from pixelflow.config.search_path import config_folders, known_keys, options_with
from pixelflow.config.sections import check_types
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.jobs import find_job, job_names
from pixelflow.runs.folder import recorded_in
from pixelflow.signals import BY_HAND, CONTINUE, ending_at_once, stop_signal
from pixelflow.terminal import log_to_terminal, say, transcript, uncopied

DEBUG = "PIXELFLOW_TRACEBACK"
"""Environment variable that `--debug` and debug=true set. The traceback of a reported error is then shown as well."""

MOST_NAMED = 20
"""Number of options that a message lists."""

READER_GONE = 128 + signal.SIGPIPE
"""Exit status of a command whose output is no longer read, as in shells."""

BUG = "This is a bug of pixelflow, not a mistake in your command: please report it with the traceback above."


def main(config_name: str) -> None:
    """Composes a config from the command line and runs its job. Exits with a status unless the job succeeds.

    Args:
        config_name: the file in conf/ from which composing starts, without its extension.
    """
    if "--debug" in sys.argv:
        sys.argv.remove("--debug")
        os.environ[DEBUG] = "1"
    if any(argument.startswith("--experimental-rerun") for argument in sys.argv):
        fail("--experimental-rerun runs a pickle, which may hold any code: give the command itself again", status=2)
    check_switches()
    sys.argv[1:] = explained(lambda: set_aside(at_scale(sys.argv[1:], config_folders(sys.argv[1:]))))
    if in_debug(sys.argv[1:]):
        os.environ[DEBUG] = "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises its errors instead of printing them
    log_to_terminal()
    with ending_at_once():
        prepare_hydra()
    names = {f"hydra/launcher={name}" for name in ("submitit_slurm", "submitit_local", "slurm", "local")}
    if names & set(sys.argv) and not {"-m", "--multirun"} & set(sys.argv):
        sys.argv.insert(1, "--multirun")  # Hydra starts launchers for sweeps only; a single run is a sweep of one
    explained(hydra.main(config_path=str(conf_folder()), config_name=config_name, version_base="1.3")(dispatch))


def check_switches() -> None:
    """Ends the process with a message for a switch that does not exist; argparse would print its usage first."""
    parser = get_args_parser()
    parser.error = lambda message: fail(f"{message} (python run.py --hydra-help lists the switches)", status=2)  # type: ignore
    parser.parse_args()


def dispatch(config: DictConfig) -> Any:
    """Checks a composed config and runs its job as `pixelflow/jobs/NAME.py` declares it.

    An error of a single run is reported here. In a sweep Hydra receives it, and continues with the other runs.

    Returns:
        The result of the job.
    """
    overrides = OmegaConf.to_container(HydraConfig.get().overrides.task, resolve=False)  # as typed, ${...} included
    assert isinstance(overrides, list)

    def work() -> Any:
        job = find_job(config.job.name)
        if "sweep" in job.needs:  # such a job reads no group, and starts without importing torch
            plain = {key: value for key, value in config.items() if key == "job" or not OmegaConf.is_config(value)}
            return job.start(OmegaConf.to_container(OmegaConf.create(plain), resolve=True), overrides)  # type: ignore
        check_types(OmegaConf.to_container(config, resolve=False), job.options)  # type: ignore[arg-type]
        with ending_at_once():
            from pixelflow.config.resolve import resolve  # torch: seconds
            from pixelflow.config.validate import check_data
            from pixelflow.processes import choose_slice, world_of

        choose_slice(os.environ, world_of(os.environ).local_rank)
        config.choices = group_choices(HydraConfig.get())
        resolved = resolve(config, overrides, job)
        check_data(resolved, job)
        return job.start(resolved, overrides)

    if HydraConfig.get().mode == RunMode.RUN:
        explained(lambda: check_single(overrides), outermost=False)
        return explained(work, outermost=False)
    if (output := transcript()) is not None:
        output.restart()
    say(f"\n[{HydraConfig.get().job.num}] {' '.join(overrides)}", stream=sys.stderr)
    return work()


def check_single(overrides: list[str]) -> None:
    """Raises UserError for overrides that have a meaning in sweeps only."""
    for override in overrides:
        key, _, value = override.partition("=")
        if key in ("dry_run", "seeds", "settings") and value not in ("false", "null", "[]"):
            raise UserError(
                f"{override} belongs to a sweep: add -m, or hydra/launcher=submitit_slurm or submitit_local"
            )


def prepare_hydra() -> None:
    """Registers the jobs, the launchers and the sweepers with Hydra. Must be called before a config is composed."""
    jobs = [find_job(name) for name in job_names()]
    register(find_job, entry="pixelflow.frozen_job")
    guard()
    register_jobs(jobs)
    register_help(jobs)


def explained(work: Callable[[], Any], *, outermost: bool = True) -> Any:
    """Returns `work()`. An error that a user can act on ends the process with a short message.

    The exit status is 2 for a `UserError` or an error of Hydra in composing, 1 for a `WorkFailed`, 75 for an
    `Interrupted` (the same command continues the work), and 130 instead after Ctrl-C. Where nothing reads its output
    any more, the process ends with 141 and without a message. Every other exception is a bug.

    Args:
        work: The function to call.
        outermost: Whether a bug is reported with its traceback and exit status 1; otherwise it is raised again.
    """
    try:
        result = work()
        sys.stdout.flush()
        return result
    except KeyboardInterrupt:
        fail("stopped by Ctrl-C; the same command does what is not done yet", status=BY_HAND)
    except Exception as error:
        if isinstance(error, BrokenPipeError) and _reader_gone():
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes what is left at its end
            sys.exit(READER_GONE)
        message, status = report(error)
        if message is None:
            if not outermost:
                raise
            log = recorded_in(error)
            say(traceback.format_exc(), stream=uncopied(sys.stderr) if log else sys.stderr, end="")
            say(f"\n{BUG}" + (f" It is also in {log}" if log else ""), stream=sys.stderr)
            sys.exit(1)
        if os.environ.get(DEBUG):
            say(traceback.format_exc(), stream=sys.stderr, end="")
        fail(message, status=status)


def _reader_gone() -> bool:
    """Returns whether the program that read the standard output has ended, as `head` does after ten lines."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(events & select.POLLERR for _, events in poll.poll(0))


def report(error: BaseException) -> tuple[str | None, int]:
    """Returns the short message and the exit status of an error; no message for a bug."""
    if isinstance(error, InstantiationException):  # of a launcher, sweeper or callback, which Hydra builds itself
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, UserError | WorkFailed | Interrupted):
            return report(cause)
        if isinstance(cause, ValueError | TypeError | ImportError | AttributeError | InstantiationException):
            key = re.search(r"full_key: (\S+)", str(error))
            return f"{key.group(1) if key else 'hydra'}: {str(cause).splitlines()[0]}", 2
        return None, 1
    if isinstance(error, HydraException | OmegaConfBaseException | YAMLError) or _of_hydra(error):
        return explain(error), 2
    if isinstance(error, UserError):
        return str(error), 2
    if isinstance(error, WorkFailed):
        return str(error), 1
    if isinstance(error, Interrupted):
        number = stop_signal()
        by_hand = number is signal.SIGINT
        name = "Ctrl-C" if by_hand else number.name if number else "a request"
        return f"stopped by {name}: {error}; the same command continues from there", BY_HAND if by_hand else CONTINUE
    return None, 1


def _of_hydra(error: BaseException) -> bool:
    """Returns whether Hydra or its sweeper raised an error, as for `trainer=5` or `hydra.sweeper.direction=up`."""
    names = [frame.f_globals.get("__name__", "") for frame, _ in traceback.walk_tb(error.__traceback__)]
    if isinstance(error, RecursionError):
        return "hydra._internal.defaults_list" in names
    by = names[-1].partition(".")[0] if names else ""
    return isinstance(error, ValueError | RuntimeError | OSError) and by in ("hydra", "omegaconf", "optuna")


def fail(message: str, *, status: int) -> None:
    """Prints an error message and exits."""
    say(f"error: {message}", stream=sys.stderr)
    sys.exit(status)


def explain(error: BaseException) -> str:
    """Returns the message of an error of Hydra in composing, in one line and with the nearest key that exists."""
    chain, messages = error, []
    while chain is not None:
        messages.append(str(chain))
        chain = chain.__cause__ or chain.__context__  # type: ignore[assignment]
    text = "\n".join(messages)
    if isinstance(error, RecursionError):
        return "a config file names itself in its defaults list, directly or through others"
    if type(error) is OSError:  # not the classes of Hydra that extend it
        return f"a config file is not a mapping of keys to values: {error}"
    if isinstance(error, YAMLError):
        return f"a config file is not valid YAML: {' '.join(str(error).split())}"
    if isinstance(error, OverrideParseException):
        return f"{error.override} is not a valid override: {first_line(messages[0])}"
    if "Config group override must be" in text and (wrong := _no_option()):
        return wrong
    unknown = re.search(r"Could not override '([^']+)'|is not in struct\s+full_key: (\S+)", text)
    if unknown:
        key = (unknown.group(1) or unknown.group(2)).split("@")[0]
        known = known_keys()
        if options := sorted(option_files(key, config_folders())):
            return f"{key} is chosen at a place of the config: +{key}@PLACE=OPTION, with one of {', '.join(options)}"
        if key in known:
            if owners := options_with(key):
                group = key.rpartition(".")[0]
                return f"{key} is not a key of the chosen {group}, but of {group}={' or '.join(owners)}"
            return f"{key} does not accept this value: it holds unknown keys, or refers to one by ${{...}}"
        close = difflib.get_close_matches(key, known, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        return f"unknown option {key}; {hint}(python run.py --help lists the groups, --cfg job every option)"
    missing = re.search(r"Could not find '([^']+)'", text)
    if missing:
        group, _, option = missing.group(1).rpartition("/")
        options = sorted(option_files(group, config_folders())) if group != "job" else job_names()
        return f"{group}={option} does not exist; one of: {_listed(options)}"
    return first_line(messages[0])


def first_line(text: str) -> str:
    """Returns the first line of a text that is not empty."""
    return next((line for line in text.splitlines() if line.strip()), "")


def _no_option() -> str:
    """Returns a message about the first argument of this process that gives a group something else than an option."""
    for argument in sys.argv[1:]:
        group, _, value = argument.lstrip("+~").partition("=")
        options = sorted(option_files(group, config_folders())) if group else []
        if options and value not in options:
            return f"{argument} is not an option of the group {group}; one of: {', '.join(options)}"
    return ""


def _listed(options: Sequence[str]) -> str:
    """The options as text; of many, the first ones."""
    more = len(options) - MOST_NAMED
    return ", ".join(options[:MOST_NAMED]) + (f" and {more} more (python run.py --help)" if more > 0 else "")
