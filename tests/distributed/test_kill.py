"""A run that is killed (kill -9) at twenty random moments, also while it saves, ends as an undisturbed one."""

from __future__ import annotations

import multiprocessing
import random
import time
from pathlib import Path

import pytest
import torch

from pixelflow.processes import World
from pixelflow.training.checkpoint import CheckpointStore, load_checkpoint
from tests.distributed.worker import trainer_of

KILLS, STEPS = 20, 120
OPTIONS = {"max_steps": STEPS, "save_every": 2, "log_every": 1}


def work(folder: Path) -> None:
    torch.set_num_threads(1)
    trainer = trainer_of(folder, dict(OPTIONS), World(), lambda what: None)
    lines = open(folder / "losses.txt", "a", buffering=1)  # noqa: SIM115  (until the process ends)
    trainer.hooks.log = lambda metrics, step: print(step, metrics["loss"], metrics["grad_norm"], file=lines)
    trainer.resume()
    trainer.fit()


@pytest.mark.slow
def test_twenty_kills_do_not_change_the_result(tmp_path: Path) -> None:
    # A fork has everything imported, and dies like any other process.
    context = multiprocessing.get_context("fork")
    (tmp_path / "straight").mkdir()
    straight = context.Process(target=work, args=(tmp_path / "straight",))
    start = time.monotonic()
    straight.start()
    straight.join()
    assert straight.exitcode == 0
    seconds = time.monotonic() - start

    killed = tmp_path / "killed"
    killed.mkdir()
    (killed / "losses.txt").touch()
    moments, kills, saving = random.Random(0), 0, 0
    while kills < KILLS:
        before = len((killed / "losses.txt").read_text().splitlines())
        process = context.Process(target=work, args=(killed,))
        process.start()
        while process.is_alive() and len((killed / "losses.txt").read_text().splitlines()) <= before + 2:
            time.sleep(0.001)  # so that it comes a little further every time
        process.join(moments.uniform(0, 0.4) * seconds / KILLS)
        assert process.is_alive(), f"it ended after {kills} kills"
        process.kill()
        process.join()
        kills += 1
        saving += any((killed / "checkpoints").glob(".step_*"))
    assert saving > 0, "no kill fell into a save"
    last = context.Process(target=work, args=(killed,))
    last.start()
    last.join()
    assert last.exitcode == 0

    def logged(folder: Path) -> dict[int, set[str]]:
        """Returns the complete lines of the log by step; a repeated step has several."""
        found: dict[int, set[str]] = {}
        for line in (folder / "losses.txt").read_text().splitlines():
            if len(line.split()) == 3:  # not cut off by the kill
                found.setdefault(int(line.split()[0]), set()).add(line)
        return found

    ours, theirs = logged(killed), logged(tmp_path / "straight")
    assert sorted(theirs) == list(range(1, STEPS + 1))
    assert all(lines <= theirs[step] for step, lines in ours.items())
    a, b = (load_checkpoint(f / "checkpoints" / f"step_{STEPS:08d}") for f in (killed, tmp_path / "straight"))
    assert a.state == b.state and set(a.tensors) == set(b.tensors)
    for stem, flat in a.tensors.items():
        assert all(torch.equal(value, b.tensors[stem][name]) for name, value in flat.items())
    first, second = (CheckpointStore(f / "snapshots", keep=None) for f in (killed, tmp_path / "straight"))
    assert first.steps() == second.steps() == list(range(2, STEPS + 1, 2))
    for step in first.steps():
        x, y = (load_checkpoint(store.path(step)).tensors["power_0.1"] for store in (first, second))
        assert all(torch.equal(value, y[name]) for name, value in x.items())
