"""job=data: counts, classes, sizes, damaged files and throughput of the data, and a contact sheet."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pixelflow.config.job import Config, Job, at_least
from pixelflow.config.schema import build
from pixelflow.terminal import say


@dataclass(frozen=True)
class DataOptions:
    """Options of job=data.

    Args:
        samples: number of evenly spaced samples that are read and described.
        batch_size: images in a batch of the measured loader.
        batches: number of batches by which the throughput is measured.
        output: a folder; the results go into a subfolder named after the data.
    """

    samples: int = 1000
    batch_size: int = 64
    batches: int = 20
    output: str = "runs/data"

    def __post_init__(self) -> None:
        at_least(1, self, "samples", "batch_size", "batches")


def run(config: Config, options: DataOptions, overrides: list[str]) -> None:
    """Prints and stores the facts about the data."""
    from pixelflow.data.inspection import describe_samples, measure_loader  # torch: seconds
    from pixelflow.files import write_json
    from pixelflow.reporting.contact_sheet import IMAGES, contact_sheet

    data = build(config, "data")
    folder = Path(options.output) / data.spec.name
    facts = describe_samples(data, options.samples)
    measured, first = measure_loader(
        data, seed=config["seed"], batch_size=options.batch_size, batches=options.batches, report=folder, kept=IMAGES
    )
    facts |= measured
    sheet = contact_sheet(first, data.class_names(), folder / "contact_sheet.png")
    write_json(folder / "data.json", facts)
    say("\n".join(f"{key:24} {_text(value)}" for key, value in facts.items()))
    say(f"contact sheet: {sheet}\nrecord: {folder / 'data.json'}")


def _text(value: Any) -> str:
    return ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else str(value)


JOB = Job(
    name="data",
    help="counts, sizes, damage and a contact sheet: job=data data=imagefolder data.root=FOLDER",
    run=run,
    options=DataOptions,
    needs=frozenset({"data"}),
)
