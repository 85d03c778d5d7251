"""Scripts in place of SLURM's commands, and sweeps to submit with them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from pixelflow.runs.snapshot import Snapshot
from pixelflow.sweeps.manifest import Sweep, SweepJob
from pixelflow.sweeps.plan import Planned, plan
from pixelflow.sweeps.program import Program
from pixelflow.sweeps.site import Site
from pixelflow.sweeps.slurm import QueueEntry
from pixelflow.sweeps.submission import submit


class FakeSlurm:
    """Commands that number the jobs from 101 and keep their scripts and environments."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.states: dict[str, str] = {}
        folder.mkdir()
        self.put("srun", "true")
        self.put("squeue", f"cat {folder}/queue 2>/dev/null; true")
        self.put("scancel", f'echo "$@" >> {folder}/cancelled')
        self.refuse(None)

    def put(self, name: str, script: str) -> None:
        (self.folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (self.folder / name).chmod(0o755)

    def refuse(
        self, number: int | None, how: str = "echo 'sbatch: error: invalid partition: nowhere' >&2; exit 1"
    ) -> None:
        """Lets the submission after `number` others fail."""
        self.put("sbatch", f"""
            cd {self.folder}; number=$(ls *.sh 2>/dev/null | wc -l)
            if [ "$number" = "{number}" ]; then {how}; fi
            number=$((101 + number)); cp "$1" $number.sh; env > $number.env; echo "$number|$1" >> queue
            echo "Submitted batch job $number" """)  # fmt: skip

    @property
    def scripts(self) -> list[str]:
        return [path.read_text() for path in sorted(self.folder.glob("*.sh"))]

    @property
    def dependencies(self) -> list[str | None]:
        found = [re.search(r"^#SBATCH --dependency=(\S+)$", script, re.M) for script in self.scripts]
        return [match and match[1] for match in found]

    @property
    def cancelled(self) -> list[str]:
        path = self.folder / "cancelled"
        return path.read_text().split() if path.exists() else []

    def queue(self, users: object, ids: list[str]) -> dict[str, QueueEntry]:
        return {job: QueueEntry(self.states.get(job, "PENDING"), "Priority") for job in ids}


PROGRAM = Program(entry="tests.entry", snapshot=Snapshot("/code", "abc", ""), user_paths=[], python="python", cwd="/")


def entries(folder: Path, count: int, job: str = "train") -> list[tuple[SweepJob, dict[str, Any]]]:
    return [
        (
            SweepJob(f"run-{n}", str(folder / f"run-{n}"), job, [f"seed={n}"], f"{n}", 9),
            {"seed": n, "job": {"name": job}},
        )
        for n in range(count)
    ]


def give(sweep: Sweep, jobs: list[tuple[SweepJob, dict[str, Any]]], site: Site | None = None) -> list[Planned]:
    site = site or Site()
    planned = plan(jobs, site)
    if any(entry.due for entry in planned):
        submit(sweep, planned, site, PROGRAM, launcher="slurm")
    return planned


def pipelines(folder: Path, *names: str) -> list[tuple[SweepJob, dict[str, Any]]]:
    """Settings of one run that differ in their evaluation."""
    run = folder / "run-0"
    return [
        (SweepJob("run-0", str(run), "pipeline", [], "x", 9, True, [name]), {"n": name, "job": {"name": "pipeline"}})
        for name in names
    ]
