"""The commands of docs/clusters.md on a real SLURM, in the order of the page, with less work."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.docs.commands import ROOT, commands
from tests.slurm.cluster import Cluster, wait_for
from tests.slurm.test_sweep import TINY, Checkout, active

pytestmark = pytest.mark.slurm


def test_the_commands_of_the_page_run(cluster: Cluster, tmp_path: Path) -> None:
    checkout = Checkout(tmp_path)
    (checkout.root / "conf" / "site" / "mine.yaml").write_text("defaults: [virtual, _self_]\nevaluation: {}\n")
    page = commands(ROOT / "docs" / "clusters.md")
    outputs = []
    for command in page:
        assert command.words[:2] == ("python", "run.py")
        words = [re.sub(r"^experiments=NAME$", "seed=0,1", word) for word in command.words[2:]]
        words = [word.replace("runs/NAME", "runs/quickstart").replace("=long", "=main") for word in words]
        if "-m" in words:
            words += [*TINY, *([] if any("tracking.uri" in word for word in words) else ["tracking=none"])]
        outputs.append(checkout.run(*words))
        if "job=cancel" in words:
            wait_for(lambda: not active(), 400, every=1)
    assert len(page) == 10
    dry, submitted, launcher, status, watched, retried, again, cancelled, synced, server = outputs
    assert "2 of 2 jobs (1 x 0 GPUs, 10 min in main), at most 0.0 GPU hours; nothing was submitted" in dry
    assert re.search(r"SLURM jobs  \d+ \d+, table \d+", submitted)
    assert "2880 min in main" in launcher
    assert "of 2" in status and "2 finished of 2" in watched
    assert "nothing to do" in retried and "nothing to do" in again
    assert "1 of 2 runs" not in cancelled and "no run of" in synced
    assert "nothing was submitted" in server
