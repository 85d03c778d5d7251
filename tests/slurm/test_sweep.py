"""run.py on a real SLURM, as a user calls it: submitted, edited behind its back, submitted twice, cancelled."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pixelflow.sweeps import slurm
from pixelflow.training.checkpoint import load_checkpoint
from tests.slurm.cluster import Cluster, wait_for

pytestmark = pytest.mark.slurm

ROOT = Path(__file__).resolve().parents[2]
TINY = [
    *("trainer.max_steps=6", "trainer.batch_size=8", "trainer.save_every=2", "trainer.log_every=2"),
    *("trainer.grid_every=0", "trainer.warmup_steps=0", "backbone.depth=1", "solver.num_steps=2"),
    *("sampler.num_samples=20", "sampler.batch_size=10"),
]
SLURM = ["hydra/launcher=submitit_slurm", "site=virtual", "site.array_parallelism=2"]


class Checkout:
    """A copy of the project that may be edited, and a folder for its runs."""

    def __init__(self, folder: Path) -> None:
        self.root, self.cwd = folder / "checkout", folder / "work"
        self.cwd.mkdir()
        listed = ["git", "-C", str(ROOT), "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines():
            if not name.startswith("tests/") and os.path.lexists(ROOT / name):
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name, follow_symlinks=False)
        for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "copy"]):
            subprocess.run(
                ["git", "-C", str(self.root), "-c", "user.name=a", "-c", "user.email=a@b", *command], check=True
            )

    def start(self, *arguments: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
        given = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(self.root)} | (environment or {})
        command = [sys.executable, str(self.root / "run.py"), *arguments]
        return subprocess.Popen(command, cwd=self.cwd, env=given, text=True, stdout=-1, stderr=-1)

    def run(
        self, *arguments: str, status: int | None = 0, environment: dict[str, str] | None = None, timeout: float = 400
    ) -> str:
        process = self.start(*arguments, environment=environment)
        output, errors = process.communicate(timeout=timeout)
        assert status is None or process.returncode == status, output + errors
        return output + errors

    def sweep(self) -> Path:
        (manifest,) = self.cwd.glob("runs/*/sweep-*/manifest.json")
        return manifest.parent

    def wait(self, seconds: float = 400) -> str:
        """Until no job of the user is in the queue; what job=status says then."""
        wait_for(lambda: not active(), seconds, every=1)
        return self.run("job=status", f"sweep={self.sweep()}", status=None)


def active() -> list[str]:
    return [job for job, entry in slurm.queue({"root"}).items() if entry.active]


@pytest.fixture
def checkout(cluster: Cluster, tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


@pytest.fixture
def closed(cluster: Cluster) -> Iterator[Cluster]:
    """Jobs wait until `open_queue`; what waits at the end is cancelled."""
    cluster.run("scontrol", "update", "partitionname=main", "state=down")
    yield cluster
    cluster.run("scancel", "-u", "root")
    wait_for(lambda: not active(), 60)
    open_queue(cluster)


def open_queue(cluster: Cluster) -> None:
    cluster.run("scontrol", "update", "partitionname=main", "state=up")


def test_what_is_edited_while_jobs_wait_changes_none_and_a_second_command_finds_all_done(
    closed: Cluster, checkout: Checkout
) -> None:
    sweep = [*SLURM, "seed=0,1", *TINY, "tracking=none"]
    plan = checkout.run(*sweep, "dry_run=true")
    assert "2 of 2 jobs" in plan and not active()
    first = checkout.run(*sweep)
    assert first.startswith("2 new") and len(active()) == 3
    config = checkout.root / "conf" / "run.yaml"
    config.write_text(config.read_text().replace("  seed: 0 ", "  seed: 77 "))
    for module in ("training/trainer.py", "frozen_job.py"):
        (checkout.root / "pixelflow" / module).write_text("raise RuntimeError('edited')\n")
    for module, name in (("supervisor.py", "FrozenJob"), ("final_job.py", "FinalJob")):  # job=status imports these
        with (checkout.root / "pixelflow" / "sweeps" / module).open("a") as file:
            file.write(f"{name}.__call__ = lambda self: 1 / 0\n")
    open_queue(closed)
    assert "2 finished of 2" in checkout.wait()
    configs = [path.read_text() for path in checkout.cwd.glob("runs/quickstart/*/config.yaml")]
    assert sorted(re.findall(r"^( *seed): (\d+)$", text, re.M) for text in configs) == [
        [("seed", seed), ("  seed", "0")] for seed in "01"
    ]
    (sweep_folder,) = checkout.cwd.glob("runs/quickstart/sweep-*")
    assert "| quickstart | 2 |" in (sweep_folder / "table.md").read_text()  # by the sweep's last job
    subprocess.run(["git", "-C", str(checkout.root), "checkout", "-q", "."], check=True)
    before = {path: path.stat().st_mtime_ns for path in checkout.cwd.glob("runs/quickstart/*-*/*.json*")}
    again = checkout.run(*sweep)
    assert "2 left as they are" in again and "| quickstart | 2 |" in again
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_two_submitters_at_once(closed: Cluster, checkout: Checkout) -> None:
    sweep = [*SLURM, "job=train", "seed=0,1,2", *TINY, "tracking=none"]
    other = {"LOGNAME": "nobody"}  # as after `su`; the jobs are those of the process's user
    both = [
        checkout.start(f"hydra/launcher={name}", *sweep[1:], environment=other) for name in ("slurm", "submitit_slurm")
    ]
    outputs = [process.communicate(timeout=300) for process in both]
    assert sorted(output.split()[1] for output, _ in outputs) == ["left", "new"], outputs
    assert len(active()) == 3
    assert "3 queued of 3" in checkout.run("job=status", "sweep=runs/quickstart")
    cancelled = checkout.run("job=cancel", "sweep=runs/quickstart", "job.runs=['seed-0*',1]")
    assert "2 of 3 runs" in cancelled
    assert "2 cancelled" in checkout.run("job=status", "sweep=runs/quickstart", status=1)
    assert "2 runs" not in checkout.run("job=retry", "sweep=runs/quickstart", "job.runs=['seed-0*']")
    assert "1 cancelled" in checkout.run("job=status", "sweep=runs/quickstart", status=1)
    checkout.run("job=cancel", "sweep=runs/quickstart")


def test_two_nodes_with_two_tasks_each(cluster: Cluster, checkout: Checkout) -> None:
    """Four processes that meet over gloo train as one does, in other sums, and share the images of the checkpoint."""
    nodes = [*SLURM, "site.nodes=2", "site.tasks_per_node=2"]
    training = ["job=train", *TINY, "tracking=none", "trainer.parallel=fsdp"]
    checkout.run(*nodes, *training)
    assert "1 finished of 1" in checkout.wait()
    (log,) = checkout.sweep().glob("logs/*.log")
    assert "4 processes (fsdp)" in log.read_text()  # once: of one voice
    checkout.run(*training, "runs_dir=straight")
    (ours,) = checkout.cwd.glob("runs/quickstart/*/checkpoints/step_00000006")
    (theirs,) = checkout.cwd.glob("straight/quickstart/*/checkpoints/step_00000006")
    a, b = (load_checkpoint(folder).tensors["model"] for folder in (ours, theirs))
    assert a.keys() == b.keys() and all(torch.allclose(a[key], b[key], atol=1e-5) for key in a)
    checkout.run(*nodes, "job=sample", f"checkpoint={ours}")
    wait_for(lambda: not active(), 400, every=1)
    (record,) = checkout.cwd.glob("runs/quickstart/*/samples/*/record.json")
    assert json.loads(record.read_text())["processes"] == 4


def test_settings_of_guidance_and_solver_are_one_training_and_a_second_sweep_follows_it(
    closed: Cluster, checkout: Checkout
) -> None:
    """The second sweep is submitted while the job of the first waits, and brings a setting of its own."""
    once = [*SLURM, *TINY, "trainer.log_every=1", "tracking=none"]
    grid = [*once, "guidance.scale=1,1.5,2", "solver=euler,heun"]
    assert checkout.run(*grid).startswith("1 new") and len(active()) == 2  # with the table
    other = checkout.run(*once, "experiment=table3a", "runs_of=quickstart", "guidance.scale=1,3", "solver=euler")
    assert other.startswith("1 after the jobs of another sweep") and len(active()) == 4
    open_queue(closed)
    wait_for(lambda: not active(), 400, every=1)
    (config,) = checkout.cwd.glob("runs/*/*/config.yaml")
    run = config.parent
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "loss" in line.get("metrics", {})] == list(range(1, 7))
    assert (run / "log.txt").read_text().count(": training ") == 1
    assert len(list(run.glob("evaluation/*.json"))) == 7
    (table,) = checkout.cwd.glob("runs/quickstart/sweep-*/table.md")
    (borrowed,) = checkout.cwd.glob("runs/table3a/sweep-*/table.md")
    rows = [line.split("|")[1:3] for line in table.read_text().splitlines() if line.startswith("|")]
    assert [cell.strip() for cell in rows[0]] == ["scale", "solver"]
    assert [[cell.strip() for cell in row] for row in rows[2:]] == [
        [scale, solver] for scale in ("1", "1.5", "2") for solver in ("euler", "heun")
    ]
    scales = [line.split("|")[1].strip() for line in borrowed.read_text().splitlines() if line.startswith("|")]
    assert scales[0] == "scale" and scales[2:] == ["1", "3"]


def test_a_search_gives_up_what_promises_nothing(cluster: Cluster, checkout: Checkout) -> None:
    """Two learning rates as two jobs; the loss of the second leaves the pruner's bounds at once."""
    search = [
        "hydra/sweeper=pruning",
        "hydra/sweeper/sampler=grid",
        "hydra.sweeper.n_trials=2",
        "hydra.sweeper.n_jobs=2",
    ]
    search += ["hydra.sweeper.params={optimizer.lr: 'choice(1e-4,1.0)'}", "+hydra.sweeper.pruning.upper=20"]
    search += ["hydra.sweeper.pruning.pruner=optuna.pruners.ThresholdPruner"]
    search += ["job=train", "tracking=none", *TINY, "trainer.max_steps=300"]
    output = checkout.run("-m", *SLURM, *search)
    assert re.search(r"Trial 1 pruned|is stopped by the pruner", output), output
    status = checkout.run("job=status", f"sweep={checkout.sweep()}", status=None)
    assert "1 finished" in status and "1 pruned" in status, status
    (results,) = checkout.cwd.glob("**/optimization_results.yaml")
    assert "optimizer.lr: 0.0001" in results.read_text()


def test_mistakes_end_in_a_line_and_submit_nothing(closed: Cluster, checkout: Checkout, tmp_path: Path) -> None:
    command = [*SLURM, "job=train", *TINY, "tracking=none"]
    (tmp_path / "bin").mkdir()
    for tool in ("git", "env"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    no_slurm = checkout.run(*command, status=2, environment={"PATH": str(tmp_path / "bin")})
    assert "there is no sbatch on this machine: submit from a login node" in no_slurm
    unknown = checkout.run(*command, "hydra.launcher.partition=nowhere", status=2)
    assert re.search(r"partition.*nothing was submitted", unknown, re.I), unknown
    invalid = checkout.run(*command, "backbone.patch_size=4,3", status=2)
    assert "run 1 (" in invalid and "nothing was submitted" in invalid
    assert not list(checkout.cwd.glob("runs/quickstart/*-*")) and not active()
    checkout.run(*command)
    foreign = checkout.run(*command, "seed=5", f"sweep={checkout.sweep()}", status=2)
    assert "belongs to another config" in foreign and len(foreign.splitlines()) == 1
    checkout.run("job=cancel", "sweep=runs/quickstart")
    shutil.rmtree(checkout.root / ".git")
    assert "is no git checkout" in checkout.run(*command, "seed=6", status=2)
