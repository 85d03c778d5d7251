"""The numbers of each case: losses and weights of training, sampled images, metrics, and an ablation table.

A case gives its numbers by kind. The kinds differ in how another machine's numbers are compared (see compare.py):

    exact         compared exactly on every machine
    hashes, text  compared on the same machine only; the other kinds hold the same in numbers
    numbers       a number or a list of them
    shares        metrics that count images, between 0 and 1
    grey_levels   means and standard deviations of images, 0 to 255
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.regression.commands import call, last_checkpoint, only, run_of, written

Values = dict[str, dict[str, Any]]
STEPS = 50
ALL = ("tracking=none", "trainer.device=cpu")
TRAINING = (f"trainer.max_steps={STEPS}", "trainer.log_every=1", "trainer.grid_every=0", "trainer.batch_size=8")
SAMPLING = ("sampler.batch_size=50", "solver.num_steps=4")
# With the recipe's learning rate of 2e-3, rounding grows to a thousandth of the gradient's norm within the 50 steps.
JIT = (
    *("cascade=single", "backbone=jit_tiny", "prediction=x", "timesteps=logit_normal"),
    *("objective=digits_perceptual", "optimizer.lr=2e-4"),
)
EULER = ("solver=euler", "guidance=constant", "guidance.scale=3")
HEUN = ("solver=heun", "guidance=stage_wise", "guidance.scale=2")
SHARES = ("precision", "recall", "accuracy")


def ablation(folder: Path) -> Path:
    """The quickstart with one and with two stages, trained, sampled, evaluated and compared in a table, once."""
    place = folder / "ablation"
    if not list(place.glob("**/table.md")):
        settings = ("experiment=ablation", "cascade.num_stages=1,2", "sampler.num_samples=100")
        call("-m", *settings, *ALL, *TRAINING, *SAMPLING, cwd=place)
    return place


def quickstart(num_stages: int, folder: Path) -> Values:
    """Training of a run of the ablation."""
    return training(run_of(ablation(folder), num_stages))


def train(name: str, overrides: tuple[str, ...], processes: int, folder: Path) -> Values:
    """Training of a separate run."""
    call("job=train", *ALL, *TRAINING, *overrides, cwd=folder / name, processes=processes)
    return training(folder / name)


def training(folder: Path) -> Values:
    """Losses of every step and the last weights of the one run below the folder."""
    lines = [json.loads(line) for line in only(folder, "**/metrics.jsonl").read_text().splitlines()]
    logged = {line["step"]: line["metrics"] for line in lines if "loss" in line.get("metrics", {})}
    names = [name for name in logged[1] if name.startswith("loss") or name in ("grad_norm", "lr", "skipped_steps")]
    numbers: dict[str, Any] = {name: [logged[step].get(name) for step in sorted(logged)] for name in names}
    hashes = {}
    for stem in ("model", "ema"):
        tensors = weights(last_checkpoint(folder), stem)
        hashes[stem] = hash_of_tensors(tensors)
        numbers[f"norm of {stem}"] = math.sqrt(
            sum(float(np.square(t, dtype=np.float64).sum()) for t in tensors.values())
        )
    return {"exact": {"steps": sorted(logged)}, "numbers": numbers, "hashes": hashes}


def weights(checkpoint: Path, stem: str) -> dict[str, np.ndarray]:
    """Tensors by name, of model.safetensors or of the files of several processes (model.0-of-2.safetensors)."""
    files = sorted(checkpoint.glob(f"{stem}.*safetensors"))
    if not files:
        raise RuntimeError(f"{checkpoint} has no {stem}.safetensors")
    return {name: value for file in files for name, value in load_file(file).items()}


def hash_of_tensors(tensors: Mapping[str, np.ndarray]) -> str:
    """sha256 of names and bytes, sorted by name."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode() + b"\0" + tensors[name].tobytes())
    return digest.hexdigest()


def sample(overrides: tuple[str, ...], folder: Path) -> Values:
    """Images of the ablation's checkpoint with two stages."""
    run = run_of(ablation(folder), 2)
    settings = (*ALL, *SAMPLING, *overrides, "sampler.num_samples=20")
    file = written(run, "**/*.npz", "job=sample", f"checkpoint={last_checkpoint(run)}", *settings)
    with np.load(file) as archive:
        images, labels = archive["arr_0"], archive["arr_1"]
    grey = images.reshape(len(images), -1).astype(np.float64)
    return {
        "exact": {"shape": list(images.shape), "dtype": str(images.dtype), "labels": labels.tolist()},
        "hashes": {"images": hash_of_tensors({"images": images})},
        "grey_levels": {"mean": grey.mean(axis=1).round(3).tolist(), "std": grey.std(axis=1).round(3).tolist()},
    }


def evaluate(folder: Path) -> Values:
    """Metrics of the ablation's checkpoint with two stages, by evaluate.py."""
    run = run_of(ablation(folder), 2)
    settings = (*ALL, *SAMPLING, "metrics=digits", "sampler.num_samples=200")
    checkpoint = f"checkpoint={last_checkpoint(run)}"
    content = json.loads(written(run, "**/evaluation/*.json", checkpoint, *settings, script="evaluate.py").read_text())
    metrics = {name: value for name, value in content["metrics"].items() if "seconds" not in name}
    record = content["record"]
    return {
        "exact": {name: record[name] for name in ("step", "num_samples", "nfe", "forward_passes_per_image")},
        "numbers": {name: value for name, value in metrics.items() if name not in SHARES},
        "shares": {name: metrics[name] for name in SHARES},
    }


def table(folder: Path) -> Values:
    """The ablation's table: numbers from table.csv, and the cells of table.md as they are printed."""
    place = ablation(folder)
    values: Values = {"exact": {}, "numbers": {}, "shares": {}, "text": markdown_cells(only(place, "**/table.md"))}
    for row in csv.DictReader(only(place, "**/table.csv").read_text().splitlines()):
        for name, value in row.items():
            key = f"{row['label']}: {name}"
            if name.startswith("seconds"):
                continue
            if name.endswith("_mean"):
                kind = "shares" if name.removesuffix("_mean") in SHARES else "numbers"
                values[kind][key] = float(value)
            elif name in ("seeds", "num_samples") or name.endswith(("_std", "_n")):
                values["exact"][key] = value
    return values


def markdown_cells(file: Path) -> dict[str, str]:
    """Cells by row and column, without those of durations. The notes beneath the table hold settings, not results."""
    lines = [line for line in file.read_text().splitlines() if line.startswith("|")]
    heads, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines)
    cells = {f"{row[0]}: {head}": cell for row in rows for head, cell in zip(heads, row, strict=True)}
    return {name: cell for name, cell in cells.items() if "s/image" not in name}


CASES: dict[str, Callable[[Path], Values]] = {
    "train/quickstart_1_stage": partial(quickstart, 1),
    "train/quickstart_2_stages": partial(quickstart, 2),
    "train/quickstart_3_stages": partial(train, "stages_3", ("cascade.num_stages=3", "data.image_size=32"), 1),
    "train/jit_x_perceptual": partial(train, "jit_x_perceptual", JIT, 1),
    "train/two_processes_ddp": partial(train, "ddp", ("trainer.parallel=ddp",), 2),
    "train/two_processes_fsdp": partial(train, "fsdp", ("trainer.parallel=fsdp",), 2),
    "sample/euler_guided": partial(sample, EULER),
    "sample/heun_guided": partial(sample, HEUN),
    "evaluate/digits": evaluate,
    "table/ablation": table,
}
