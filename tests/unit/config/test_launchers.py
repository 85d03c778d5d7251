from __future__ import annotations

from dataclasses import fields
from types import SimpleNamespace
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus

from pixelflow.cli import check_single, prepare_hydra
from pixelflow.conf_dir import conf_folder
from pixelflow.config import launchers
from pixelflow.config.launchers import BasicLauncher, _job_return, by_axes
from pixelflow.config.sweepers import PruningSweeper
from pixelflow.errors import Interrupted, UserError, WorkFailed
from pixelflow.runs.identity import slug


def test_an_interrupted_run_ends_a_sweep_and_a_failed_one_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []
    ends: list[Any] = [ValueError("too hot"), None, Interrupted("saved at step 3"), None]

    def one(self: Any, job_overrides: list[list[str]], index: int) -> list[JobReturn]:
        started.append(index)
        state = JobStatus.FAILED if ends[index] else JobStatus.COMPLETED
        return [JobReturn(status=state, _return_value=ends[index])]

    monkeypatch.setattr(launchers.HydraBasicLauncher, "launch", one)
    launcher = BasicLauncher()
    launcher.config = SimpleNamespace(dry_run=False)  # type: ignore[assignment]
    with pytest.raises(Interrupted, match="saved at step 3"):
        launcher.launch([["a=1"]] * 4, 0)
    assert started == [0, 1, 2]
    launcher.config = SimpleNamespace(dry_run=True)  # type: ignore[assignment]
    with pytest.raises(ValueError, match="dry_run=true needs hydra/launcher"):
        launcher.launch([["a=1"]], 0)


def test_a_name_begins_with_what_differs() -> None:
    """However many settings the runs share: a name has at most 60 characters."""
    shared = [f"trainer.key_{number}=value" for number in range(10)]
    names = [slug(by_axes([*shared, f"seed={seed}", "+solver.num_steps=4"], ["seed", "solver.num_steps"]))
             for seed in (0, 1)]  # fmt: skip
    assert [name.split("_key")[0] for name in names] == ["seed-0_num_steps-4", "seed-1_num_steps-4"]


def test_hydra_knows_ours() -> None:
    prepare_hydra()
    known = Plugins.instance().class_name_to_class
    assert known["hydra_plugins.pixelflow.SlurmLauncher"] is launchers.SlurmLauncher
    assert known["hydra_plugins.pixelflow.PruningSweeper"] is PruningSweeper


def launcher_of(*overrides: str) -> Any:
    """The launcher that the command line with these overrides gets."""
    prepare_hydra()
    with initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = compose("run", [*overrides, "site=gpu_cluster"], return_hydra_config=True)
    context: Any = None
    return Plugins.instance().instantiate_launcher(hydra_context=context, task_function=print, config=config)


@pytest.mark.parametrize("name", ["submitit_slurm", "slurm", "submitit_local", "local"])
def test_the_launchers_of_submitit_have_their_settings_from_the_site(name: str) -> None:
    launcher = launcher_of(f"hydra/launcher={name}", "site.nodes=3")
    assert isinstance(launcher, launchers.SlurmLauncher if "slurm" in name else launchers.LocalLauncher)
    assert launcher.params["nodes"] == 3 and launcher._queue_settings() == {}


def test_a_setting_of_the_launcher_replaces_that_of_the_site() -> None:
    given = ["partition=long", "timeout_min=5", "max_num_timeout=2", "setup=[module load x]", "mem_gb=9"]
    options = ["comment='two words'", "mem_per_gpu=4G", "name=mine"]
    launcher = launcher_of(
        "hydra/launcher=submitit_slurm",
        "+hydra.launcher.additional_parameters.exclusive=true",
        *(f"hydra.launcher.{setting}" for setting in [*given, *options]),
    )
    assert launcher._queue_settings() == {
        "partition": "long", "timeout_min": 5, "max_restarts": 2, "setup": ["module load x"], "mem_gb": 9,
        "additional_parameters": {
            "exclusive": True, "comment": "two words", "mem-per-gpu": "4G", "job-name": "mine",
        },
    }  # fmt: skip


def test_every_setting_of_hydra_submitit_launcher_is_known() -> None:
    from hydra_plugins.hydra_submitit_launcher.config import SlurmQueueConf

    from pixelflow.sweeps.site import Site

    ours = {field.name for field in fields(Site)} | set(launchers._SITE_NAMES) | set(launchers._SBATCH_OPTIONS)
    theirs = {field.name for field in fields(SlurmQueueConf)}
    assert theirs - ours == {"_target_", "submitit_folder", "stderr_to_stdout"}
    with pytest.raises(UserError, match="submitit_folder and stderr_to_stdout cannot be changed"):
        launcher_of("hydra/launcher=submitit_slurm", "hydra.launcher.submitit_folder=/tmp/x")._queue_settings()


def test_a_run_that_failed_raises_its_line_when_its_value_is_asked_for() -> None:
    assert _job_return({"value": (1.0, 2.0)}, ["a=1"]).return_value == (1.0, 2.0)
    with pytest.raises(WorkFailed, match="r0 is failed: too hot"):
        _job_return({"error": "r0 is failed: too hot"}, ["a=1"]).return_value  # noqa: B018


@pytest.mark.parametrize("override", ["dry_run=true", "seeds=3", "settings=[{a:1}]"])
def test_what_only_a_sweep_understands(override: str) -> None:
    with pytest.raises(ValueError, match="belongs to a sweep: add -m"):
        check_single(["seed=1", override])
    check_single(["dry_run=false", "seed=3"])


class Trial:
    """An optuna trial that is to be given up after step 2."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, int]] = []
        self.told: list[Any] = []
        self.study = SimpleNamespace(tell=lambda trial, state: self.told.append(state))

    def report(self, value: float, step: int) -> None:
        assert not self.told, "optuna refuses values of a trial that is over"
        self.seen.append((value, step))

    def should_prune(self) -> bool:
        return len(self.seen) >= 2


def test_a_trial_that_promises_nothing_is_cancelled_and_stays_pruned(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from optuna.trial import TrialState

    from pixelflow.runs.status import write_status
    from pixelflow.sweeps import slurm, waiting
    from pixelflow.sweeps.claims import Claim
    from pixelflow.sweeps.manifest import SweepJob
    from pixelflow.sweeps.slurm import QueueEntry
    from pixelflow.tracking.jsonl import MetricsLog

    folder, cancelled = tmp_path / "run", list[str]()
    folder.mkdir()
    Claim("sweep", "t", "me", 0.0, "7").save(folder)
    write_status(folder, "running", step=2)
    with MetricsLog(folder) as log:
        log.metrics({"loss": 5.0}, step=1)
        log.metrics({"loss": 4.0}, step=2)

    def cancel(jobs: list[str]) -> None:
        cancelled.extend(jobs)
        with MetricsLog(folder) as log:
            log.metrics({"loss": 3.0}, step=3)  # its last step

    queue = iter(["RUNNING", "COMPLETING", "CANCELLED"])
    monkeypatch.setattr(slurm, "queue", lambda *_: {"7": QueueEntry(next(queue))})
    monkeypatch.setattr(slurm, "cancel", cancel)
    monkeypatch.setattr(waiting, "POLL", 0.0)
    trial = Trial()
    (state,) = waiting.follow([SweepJob("run", str(folder), "train", [], "x", 9)], [(trial, "loss")])
    result = waiting.result_of(state, None)
    assert trial.seen == [(5.0, 1), (4.0, 2)] and cancelled == ["7"] and trial.told == [TrialState.PRUNED]
    assert result["value"] == float("inf")  # no failure, by which the search would end
