"""Replaces pixelflow.frozen_job: a small training, without the seconds of importing torch.

Its contract with the rest is the real one: status.json, checkpoints, signals, exit status.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

from pixelflow.runs.status import held, write_status
from pixelflow.signals import CONTINUE, stop_on_signals, stop_signal


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text())
    (config,), folder = job["configs"], Path(job["folder"])
    with held(folder) as ours, stop_on_signals():
        assert ours, "two processes at one run"
        with open(folder / "pids", "a") as file:
            file.write(f"{os.getpid()}\n")
        checkpoint = folder / "checkpoint.json"
        step, total = json.loads(checkpoint.read_text()) if checkpoint.exists() else (0, 0)
        while step < config["steps"]:
            time.sleep(config["seconds"])
            step += 1
            total = (total * 31 + step) % 1000003
            write_status(folder, "running", step=step, max_steps=config["steps"], job="train")
            if step == config.get("fails_at"):
                write_status(folder, "failed", "the loss is not finite")
                raise SystemExit("ValueError: the loss is not finite")
            if step == config.get("dies_at"):
                os.kill(os.getpid(), 9)
            stop = stop_signal()
            if stop or step % config["save_every"] == 0:
                (folder / "new").write_text(json.dumps([step, total]))
                (folder / "new").rename(checkpoint)
            if stop:
                write_status(folder, "interrupted", f"saved at step {step}, {stop.name}")
                sys.exit(CONTINUE)
        (folder / "result").write_text(str(total))
        write_status(folder, "finished")


def undisturbed(steps: int) -> int:
    total = 0
    for step in range(1, steps + 1):
        total = (total * 31 + step) % 1000003
    return total


if __name__ == "__main__":
    main()
