"""Measures the cost of sampling on this machine: seconds, evaluations, utilisation and memory (job=benchmark).

Batches with the configured guidance alternate with batches that are guided at every evaluation, so that other work on
the machine affects both alike.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import re
import shlex
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from pixelflow.benchmarks.logging_cost import logging_cost
from pixelflow.benchmarks.options import BenchmarkOptions
from pixelflow.benchmarks.training_step import training
from pixelflow.config.build import Config, build_model, forward_costs, pick_device, sampler_settings
from pixelflow.files import write_aside, write_json
from pixelflow.flow import ConstantGuidance
from pixelflow.nn.flops import DEFAULT_WIDTH, matrix_rate, tflop
from pixelflow.nn.kernel_timing import time_attention
from pixelflow.nn.kernels import attention_modules
from pixelflow.reporting.escaping import markdown_code, markdown_text
from pixelflow.runs.provenance import versions
from pixelflow.sampling.measure import Costs, measure_batch
from pixelflow.sampling.sampler import Sampler, to_uint8
from pixelflow.sampling.store import ImageStore
from pixelflow.solvers import Euler
from pixelflow.terminal import say
from pixelflow.training.meter import peak_memory
from pixelflow.types import Condition

logger = logging.getLogger(__name__)

RESULTS = "experiments/results"
CONFIGURED, ALWAYS = "configured guidance", "always guided"


def run(config: Config, options: BenchmarkOptions, overrides: list[str]) -> None:
    """Runs a part of the benchmark and adds it to `<output>/benchmark_<machine>.json`; sampling also writes a table.

    Args:
        config: A resolved config.
        options: Options of the job.
        overrides: Overrides of the command, for the record.
    """
    device = pick_device(config["trainer"]["device"])
    machine = options.machine or machine_name(device)
    part = options.part
    result = PARTS[part](config, options, device) | {
        "command": f"python run.py {shlex.join(overrides)}",
        "machine": machine,
    }
    path = Path(options.output or RESULTS) / f"benchmark_{machine}.json"
    parts = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, parts | {part: result})
    if part != "sampling":
        say(f"{json.dumps(result['summary'], indent=1)}\nwritten: {path}")
        return
    table = to_markdown(result)
    write_aside(path.with_suffix(".md"), table.encode())
    say(f"{table}\nwritten: {path} and {path.with_suffix('.md').name}")


def machine_name(device: torch.device) -> str:
    """Returns the kind of machine for file names, such as nvidia-h200 or cpu-x86_64-2-threads."""
    if device.type == "cuda":
        return re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name(device).lower()).strip("-")
    return f"cpu-{platform.machine()}-{torch.get_num_threads()}-threads"


@dataclass
class Measured:
    """The costs of sampling a batch, and the seconds of writing its images."""

    costs: Costs
    writing: float


def sampling(config: Config, options: BenchmarkOptions, device: torch.device) -> dict[str, Any]:
    """Returns the costs of sampling with the configured guidance and with guidance at every evaluation."""
    torch.manual_seed(config["seed"])  # random and trained weights cost the same
    model = build_model(config)
    model.backbone.to(device).requires_grad_(False)
    sampler = model.sampler(settings=sampler_settings(config))
    variants = {CONFIGURED: sampler.guidance, ALWAYS: ConstantGuidance(scale=2.0)}
    images, repeats = options.images, options.repeats
    precision = config["trainer"]["precision"]
    width = getattr(model.backbone, "width", DEFAULT_WIDTH)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rate = matrix_rate(width, dtype=dtype, device=device)
    _warm_up(sampler, images, list(variants.values()))
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    best: dict[str, Measured] = {}
    for repeat in range(repeats):
        for name, guidance in variants.items():
            sampler.guidance = guidance
            measured = _one_batch(sampler, images, config["data"]["image_size"])
            total = measured.costs.total + measured.writing
            logger.info("%s, batch %d of %d: %.1f s", name, repeat + 1, repeats, total)
            if name not in best or measured.costs.total < best[name].costs.total:
                best[name] = measured
    rate = max(rate, matrix_rate(width, dtype=dtype, device=device))  # other work on the machine may have slowed one
    rows = {name: _row(measured, forward_costs(config), rate, images) for name, measured in best.items()}
    return {
        "variants": rows,
        "passes_ratio": rows[CONFIGURED]["forward_passes"] / rows[ALWAYS]["forward_passes"],
        "seconds_ratio": rows[CONFIGURED]["seconds_per_image"] / rows[ALWAYS]["seconds_per_image"],
        "matrix_tflops": rate / 1e12,
        "peak_memory_gib": peak_memory(device) / 2**30,
        "attention_seconds": _attention(config, model.backbone, images, device),
        "images": images,
        "precision": precision,
        "threads": torch.get_num_threads(),
        "load_average": os.getloadavg()[1],  # over five minutes; above `threads` other work took its share
        "settings": {key: config[key] for key in ("backbone", "cascade", "solver", "guidance", "sampler")},
        "versions": versions(),
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _warm_up(sampler: Sampler, images: int, guidances: list[Any]) -> None:
    """Runs every shape once, which compiles blocks, captures CUDA graphs and fills tables."""
    solver = sampler.solver
    sampler.solver = Euler(num_steps=2, num_stages=sampler.cascade.num_stages)
    for guidance in guidances:
        sampler.guidance = guidance
        sampler.sample(_labels(sampler, images), sampler.keyed_noise(range(images), 0))
    sampler.solver = solver


def _labels(sampler: Sampler, images: int) -> Condition:
    null = int(sampler.conditioning.null(1).class_label)
    return Condition(torch.arange(images) % null)


def _one_batch(sampler: Sampler, images: int, size: int) -> Measured:
    costs = measure_batch(sampler, _labels(sampler, images), sampler.keyed_noise(range(images), 0))
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        ImageStore(Path(folder), size=size).write(range(images), to_uint8(costs.images).cpu())
        writing = time.perf_counter() - start
    return Measured(costs, writing)


def _row(measured: Measured, flops: list[int], rate: float, images: int) -> dict[str, Any]:
    """Returns the costs per image. Utilisation is the rate of the model's operations over the matrix rate."""
    costs = measured.costs
    stages = [
        {
            "resolution": stage.resolution,
            "seconds": stage.seconds / images,
            "evaluations": stage.nfe,
            "forward_passes": stage.passes,
            "tflop": tflop([stage.passes], [count]),
            "utilisation": stage.passes * count * images / stage.seconds / rate,
        }
        for stage, count in zip(costs.stages, flops, strict=True)
    ]
    operations = sum(stage["tflop"] for stage in stages)
    return {
        "stages": stages,
        "seconds_per_image": (costs.total + measured.writing) / images,
        "noise_seconds": costs.noise / images,
        "renoise_seconds": costs.renoise / images,
        "writing_seconds": measured.writing / images,
        "renoise_share": costs.renoise / (costs.total + measured.writing),
        "evaluations": sum(stage["evaluations"] for stage in stages),
        "forward_passes": costs.passes,
        "tflop": operations,
        "utilisation": operations * 1e12 * images / costs.total / rate,
    }


def _attention(
    config: Config, backbone: torch.nn.Module, images: int, device: torch.device
) -> list[dict[str, Any]] | None:
    """Returns the milliseconds of each attention kernel at each stage's length; None without a GPU or attention."""
    modules = attention_modules(backbone)
    if device.type != "cuda" or not modules:
        return None
    heads, head_dim = modules[0].num_heads, modules[0].head_dim
    results = []
    stages, size = config["cascade"]["num_stages"], config["data"]["image_size"]
    dtype = torch.bfloat16 if config["trainer"]["precision"] == "bf16" else torch.float32
    for stage in range(stages):
        length = ((size >> (stages - 1 - stage)) // int(backbone.patch_size)) ** 2  # type: ignore[arg-type]
        times = time_attention(2 * images, heads, length, head_dim, dtype=dtype, device=device)
        results.append({"length": length, **{backend.name.lower(): 1e3 * s for backend, s in times.items()}})
    return results


def to_markdown(result: dict[str, Any]) -> str:
    """Returns the table: one line for each stage of each variant, and one for their sum."""
    head = ["guidance", "pixels", "seconds per image", "evaluations", "forward passes", "TFLOP", "utilisation"]
    lines = [f"# Sampling on {markdown_text(result['machine'])}", "", markdown_code(result["command"]), ""]
    lines += ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for name, row in result["variants"].items():
        for stage in row["stages"]:
            lines.append(_line([name, stage["resolution"]], stage, stage["seconds"]))
        lines.append(_line([name, "all, with noise and writing"], row, row["seconds_per_image"]))
    row = result["variants"][CONFIGURED]
    lines += [
        "",
        f"- forward passes, {CONFIGURED} : {ALWAYS}: {result['passes_ratio']:.4f}; "
        f"seconds: {result['seconds_ratio']:.3f}",
        f"- noise {row['noise_seconds']:.4f} s, renoise {row['renoise_seconds']:.4f} s "
        f"({100 * row['renoise_share']:.2f} % of the time), writing {row['writing_seconds']:.4f} s per image",
        f"- matrix rate {result['matrix_tflops']:.2f} TFLOP/s ({result['precision']}), "
        f"peak memory {result['peak_memory_gib']:.2f} GiB, batch {result['images']}, {result['threads']} threads, "
        f"load average {result['load_average']:.1f}",
        "",
    ]
    return "\n".join(lines)


def _line(first: list[Any], row: dict[str, Any], seconds: float) -> str:
    cells = [*first, f"{seconds:.3f}", row["evaluations"], f"{row['forward_passes']:g}", f"{row['tflop']:.3f}"]
    return "| " + " | ".join(map(str, [*cells, f"{100 * row['utilisation']:.0f} %"])) + " |"


PARTS = {"sampling": sampling, "training": training, "logging": logging_cost}
