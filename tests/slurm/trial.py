"""A trial of a search in place of a training: its last loss depends on the learning rate, and from 1 on it diverges.

A diverging trial ends only when it is stopped. Others continue after a kill at the step after the last that was logged.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from pathlib import Path

from pixelflow.runs.status import held, write_status
from pixelflow.signals import CONTINUE, stop_on_signals, stop_signal

STEPS = 30
SECONDS = 0.3


def loss(lr: float, step: int) -> float:
    return 100.0 * step if lr >= 1 else abs(math.log10(lr) + 3) + 1 / step


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    (config,), folder = job["configs"], Path(job["folder"])
    lr, file = config["optimizer"]["lr"], folder / "metrics.jsonl"
    with held(folder) as ours, stop_on_signals():
        assert ours, "two processes at one run"
        (folder / "process").write_text(f"{os.getpid()} {os.environ['SLURM_JOB_ID']}")
        step = len(file.read_text().splitlines()) if file.exists() else 0
        while lr >= 1 or step < STEPS:
            time.sleep(SECONDS)
            step += 1
            with file.open("a") as log:
                log.write(json.dumps({"step": step, "time": time.time(), "metrics": {"loss": loss(lr, step)}}) + "\n")
            write_status(folder, "running", step=step, max_steps=STEPS, job="train")
            if stop := stop_signal():
                write_status(folder, "interrupted", f"saved at step {step}, {stop.name}")
                sys.exit(CONTINUE)
        write_status(folder, "finished", job="train")


if __name__ == "__main__":
    main()
