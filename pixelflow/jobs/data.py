"""job=data: counts, classes, sizes, damaged files and throughput of the data, and a contact sheet."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pixelflow.config.job import Config, Job, at_least
from pixelflow.config.schema import build
from pixelflow.terminal import say

LIST = "bad_samples.jsonl"
"""File that lists the samples that cannot be used."""


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
    from pixelflow.data.inspection import describe_samples, measure_loader, remedy  # torch: seconds
    from pixelflow.files import write_json, write_text
    from pixelflow.reporting.contact_sheet import IMAGES, contact_sheet

    data = build(config, "data")
    folder = Path(options.output) / data.spec.name
    facts, bad = describe_samples(data, options.samples)
    first: list[Any] = []
    if 2 * len(bad) > facts["looked at"]:
        facts["images per second"] = "not measured, because most samples cannot be used"
    else:
        measured, first = measure_loader(
            _accepting_all(config), seed=config["seed"], batch_size=options.batch_size, batches=options.batches,
            kept=IMAGES,
        )  # fmt: skip
        facts |= measured
    write_json(folder / "data.json", facts)
    (folder / LIST).unlink(missing_ok=True)  # of an earlier call
    if bad:
        write_text(folder / LIST, "".join(f"{json.dumps(asdict(one))}\n" for one in bad))
    say("\n".join(f"{key:24} {_text(value)}" for key, value in facts.items()))
    if first:
        say(f"contact sheet: {contact_sheet(first, data.class_names(), folder / 'contact_sheet.png')}")
    say(f"record: {folder / 'data.json'}")
    if bad:
        say(remedy(data, bad, looked_at=facts["looked at"], listed=folder / LIST))


def _accepting_all(config: Config) -> Any:
    """Builds the data so that samples that cannot be used do not end the measurement."""
    node = config["data"]
    reading = {"reading": {**node["reading"], "max_bad_share": 1.0}} if "reading" in node else {}
    return build({**config, "data": {**node, **reading}}, "data")


def _text(value: Any) -> str:
    return ", ".join(f"{count} {what}" for what, count in value.items()) if isinstance(value, dict) else str(value)


JOB = Job(
    name="data",
    help="counts, sizes, damage and a contact sheet: job=data data=imagefolder data.root=FOLDER",
    run=run,
    options=DataOptions,
    needs=frozenset({"data"}),
)
