"""The result of a search over sampler settings: its trials, their Pareto front, and the repeated candidates.

The least of many noisy distances is partly luck. The candidates of the front are therefore evaluated again with other
noise before one of them is named.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pixelflow.errors import UserError
from pixelflow.files import write_json, write_text
from pixelflow.limits import at_least
from pixelflow.metrics.catalogue import main_distance
from pixelflow.reporting.escaping import markdown_code, markdown_text
from pixelflow.reporting.pareto import Point, Spread, pareto_front, quality_chart, quality_table
from pixelflow.reporting.runs import read_evaluation
from pixelflow.terminal import say

COST, QUALITY = "TFLOP per image", "distance to the reference"


@dataclass(frozen=True)
class Confirm:
    """How candidates are repeated.

    Args:
        candidates: The largest number of candidates.
        seeds: Evaluations of each candidate, each with its own sampler.seed.
        num_samples: Images of each of these evaluations.
    """

    candidates: int = 5
    seeds: int = 3
    num_samples: int = 1000

    def __post_init__(self) -> None:
        at_least(1, candidates=self.candidates, num_samples=self.num_samples)
        at_least(2, seeds=self.seeds)


@dataclass(frozen=True)
class Report:
    """What is written.

    Args:
        output: The folder of the table, the record and the chart.
        keys: Overrides that differ between trials; they label the points.
        series: The one of them that selects the colour of a point.
    """

    output: str = "experiments/results"
    keys: list[str] = field(default_factory=list)
    series: str = ""


@dataclass(frozen=True)
class Trial:
    """An evaluation of one setting.

    Args:
        setting: The overrides that differ between trials.
        distance: Distance to the reference.
        tflop: 10^12 floating-point operations per image.
        passes: Forward passes per image; a guided evaluation takes two.
        seed: Seed of the noise.
        num_samples: Number of images.
    """

    setting: Mapping[str, str]
    distance: float
    tflop: float
    passes: float
    seed: int
    num_samples: int

    def point(self, series: str) -> Point:
        """Returns the trial as a point of the chart."""
        label = " ".join(f"{key.split('.')[-1]}={_short(value)}" for key, value in self.setting.items())
        more = {"forward passes": self.passes}
        return Point(label, self.setting.get(series, ""), self.tflop, self.distance, more)


@dataclass(frozen=True)
class Repeated:
    """A candidate and its repetitions.

    Args:
        trial: The trial that made it a candidate.
        letter: Its letter in the table of the trials.
        distances: Distance with each of the other seeds, in the order of the seeds.
    """

    trial: Trial
    letter: str
    distances: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean of the repetitions."""
        return statistics.fmean(self.distances)

    @property
    def deviation(self) -> float:
        """Sample standard deviation of the repetitions (n - 1)."""
        return statistics.stdev(self.distances)


def read_trial(overrides: Sequence[str], path: Path, keys: Sequence[str]) -> Trial:
    """Returns the trial in an evaluation file.

    Args:
        overrides: Overrides of the trial.
        path: The file.
        keys: See `Report`.

    Raises:
        UserError: The evaluation has no count of its operations.
    """
    found, given = read_evaluation(path), dict(override.split("=", 1) for override in overrides)
    record = found.record
    if "tflop_per_image" not in record:
        raise UserError(
            f"{path.parent.name}/{path.name} has no tflop_per_image: an earlier version wrote it, or it was stopped "
            "before its record; remove it, or repeat all with rerun=true"
        )
    return Trial(
        {key: given[key] for key in keys if key in given}, main_distance(found.metrics), record["tflop_per_image"],
        record["forward_passes_per_image"], record["seed"], record["num_samples"],
    )  # fmt: skip


def candidates(trials: Sequence[Trial], count: int) -> list[Trial]:
    """Returns at most `count` trials of the Pareto front, spread evenly over it, with the least distance among them."""
    points = [trial.point("") for trial in trials]
    front = pareto_front(points)
    if count == 1:
        chosen = front[-1:]
    elif len(front) <= count:
        chosen = front
    else:
        chosen = [front[round(i * (len(front) - 1) / (count - 1))] for i in range(count)]
    return [trials[points.index(point)] for point in chosen]


def fresh_seeds(trials: Sequence[Trial], count: int) -> list[int]:
    """Returns the first seeds above those of the trials."""
    first = 1 + max(trial.seed for trial in trials)
    return list(range(first, first + count))


def leaders(repeated: Sequence[Repeated]) -> list[Repeated]:
    """Returns the candidates that may be the best, the one with the least mean first.

    A candidate is told apart from the least mean when its own is larger by more than the standard error of the
    difference. All candidates have the same seeds, so that this is the error of the mean of paired differences.
    """
    ordered = sorted(repeated, key=lambda candidate: candidate.mean)
    best = ordered[0]
    return [best, *(other for other in ordered[1:] if not _worse(other, best))]


def _worse(other: Repeated, best: Repeated) -> bool:
    differences = [a - b for a, b in zip(other.distances, best.distances, strict=True)]
    return statistics.fmean(differences) > statistics.stdev(differences) / math.sqrt(len(differences))


def conclusion(repeated: Sequence[Repeated]) -> str:
    """Returns which candidate is the best, or which cannot be told apart."""
    if not repeated:
        return "No candidate could be repeated, so none is named."
    first, *ties = leaders(repeated)
    setting = markdown_code(" ".join(f"{key}={value}" for key, value in first.trial.setting.items()))
    if len(repeated) == 1:
        return f"There is one candidate, {first.letter}: {setting}."
    if not ties:
        return (
            f"{first.letter} has the least mean distance, by more than the standard error of its difference from every "
            f"other candidate: {setting}."
        )
    cheapest = min([first, *ties], key=lambda candidate: candidate.trial.tflop)
    *letters, last = [candidate.letter for candidate in repeated if candidate in (first, *ties)]
    return (
        f"{', '.join(letters)} and {last} cannot be told apart: their means exceed the least one by no more than the "
        f"standard error of the difference. {cheapest.letter} needs the fewest operations of them."
    )


@dataclass(frozen=True)
class SearchResult:
    """A search and the repetitions of its candidates.

    Args:
        name: Name of the search.
        command: The command, without the paths of this machine.
        trials: The trials that were finished.
        repeated: The candidates, by increasing cost.
        seeds: Seeds of the repetitions.
        num_samples: Images of each repetition.
        failed: What failed, and why.
    """

    name: str
    command: str
    trials: Sequence[Trial]
    repeated: Sequence[Repeated]
    seeds: Sequence[int]
    num_samples: int
    failed: Sequence[str] = ()

    @property
    def verdict(self) -> str:
        """Returns a text that states the candidates and the choice."""
        counts = sorted({trial.num_samples for trial in self.trials})
        unlike = " Distances of different numbers of images are not comparable." if counts != [self.num_samples] else ""
        images, seeds = " or ".join(map(str, counts)), ", ".join(map(str, self.seeds))
        return (
            f"Chosen from {len(self.trials)} trials on {images} images each; repeated with seeds {seeds} on "
            f"{self.num_samples} images each. {conclusion(self.repeated)}{unlike}"
        )


def write_report(result: SearchResult, report: Report) -> None:
    """Writes `<output>/<name>.{md,json,png}` and prints the tables."""
    points, folder = [trial.point(report.series) for trial in result.trials], Path(report.output)
    tables = f"{_repeated_table(result)}\n{quality_table(points, cost=COST, quality=QUALITY)}"
    text = f"# {markdown_text(result.name)}\n\n{markdown_code(result.command)}\n\n{result.verdict}\n\n{tables}"
    if result.failed:
        text += "\nFailed:\n\n" + "".join(f"- {markdown_text(problem)}\n" for problem in result.failed)
    write_text(folder / f"{result.name}.md", text)
    write_json(folder / f"{result.name}.json", asdict(result) | {"verdict": result.verdict})
    quality_chart(
        points, folder / f"{result.name}.png", cost=COST, quality=QUALITY,
        spreads=[Spread(each.trial.tflop, each.mean, each.deviation) for each in result.repeated],
    )  # fmt: skip
    say(f"\n{tables}\n{result.verdict}\nwritten: {folder / result.name}.md, .json and .png")


def _repeated_table(result: SearchResult) -> str:
    mean = f"mean of {len(result.seeds)} other seeds"
    head = ["Pareto", "setting", COST, "forward passes", "distance of the trial", mean, "standard deviation"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for each in result.repeated:
        numbers = (each.trial.tflop, each.trial.passes, each.trial.distance, each.mean, each.deviation)
        cells = [each.letter, markdown_text(each.trial.point("").label), *(f"{number:.4g}" for number in numbers)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value: str) -> str:
    """A number with four digits: "1.2345678" becomes "1.235"."""
    try:
        return f"{float(value):.4g}"
    except ValueError:
        return value
