"""The notes below a table, which state how its numbers were measured and what limits their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pixelflow.metrics.catalogue import MetricInfo, main_metric
from pixelflow.reporting.axes import axis_headers, axis_values, differing_keys, followers
from pixelflow.reporting.option_names import option_name
from pixelflow.reporting.paper_rows import PaperRow
from pixelflow.reporting.presentation import ARM
from pixelflow.reporting.rows import SECONDS, Row, source_numbers
from pixelflow.reporting.runs import Run, spell
from pixelflow.runs.flat import flatten, plain

EVALUATION_KEYS = (
    "num_samples",
    "reference",
    "features",
    "solver",
    "nfe",
    "guidance",
    "weights",
    "step",
    "device",
    "batch_size",
)
"""Keys of an evaluation's record that influence its numbers."""
UNKNOWN = "unknown"
FOLLOWING = ".num_stages"
"""The end of keys of solver and guidance that repeat a key of the cascade."""
CONFIGURED = {"step": "trainer.max_steps"}
"""Keys of the records whose config key has another name."""
FEW_OPTIONS = 3
"""The number of a backbone's options that are listed; more of them are called its options."""
SHOWN_VALUES = 4
FAR = 2
"""Rows with more than this many times the least distance have no value in bold: their other metrics say little."""


def evaluation_facts(runs: Iterable[Run]) -> dict[str, tuple[str, ...]]:
    """Returns how the runs of a row were evaluated: for each flat key of the records, the different values as text."""
    records = []
    for run in runs:
        flat = flatten({key: run.record[key] for key in EVALUATION_KEYS if key in run.record})
        facts = {key.removesuffix("._target_"): _fact(key, value) for key, value in flat.items()}
        records.append({key: value for key, value in facts.items() if not key.endswith(FOLLOWING)})
    keys = dict.fromkeys(key for record in records for key in record)
    return {key: tuple(sorted({record.get(key, UNKNOWN) for record in records})) for key in keys}


def _fact(key: str, value: Any) -> str:
    # The name of a class is enough: its path only adds where the code is.
    return option_name(key, spell(value)) if key.endswith("_target_") else spell(value)


def of_debug(runs: Iterable[Run]) -> list[str]:
    """Returns a note if runs were made with debug=true."""
    made = any(run.config.get("debug") for run in runs)
    return ["These runs were made with debug=true: a tiny model, a few steps. They are no results."] if made else []


def statistics(rows: Sequence[Row], compared: Sequence[str] = ()) -> list[str]:
    """Returns notes on the meaning of ± and of bold numbers.

    Args:
        rows: The rows of the table.
        compared: Keys of the records that must be equal for two rows to be compared.
    """
    bold = "Bold marks the best mean; the difference from the others is not necessarily significant."
    if far := far_rows(rows, compared):
        names = span([rows[index].label for index in sorted(far)])
        bold += f" Rows with more than {FAR} times the least distance are never marked: {names}."
    if all(len(row.runs) == 1 for row in rows):
        spread = "Every row has one seed, so no standard deviation is given."
    else:
        spread = "Values are the mean ± the sample standard deviation (n-1) over seeds"
        spread += "; a row with one seed has no standard deviation." if any(len(row.runs) == 1 for row in rows) else "."
    return [spread, bold] if len(rows) > 1 else [spread]


def far_rows(rows: Sequence[Row], compared: Sequence[str]) -> set[int]:
    """Returns the indices of rows whose main distance is more than `FAR` times the least one of comparable rows.

    Args:
        rows: The rows of the table.
        compared: Keys of the records that must be equal for two rows to be compared.
    """
    groups: dict[Any, dict[int, float]] = {}
    for index, row in enumerate(rows):
        if main := main_metric(row.cells):
            groups.setdefault((main.key, row.alike(compared)), {})[index] = row.cells[main.key].mean
    far = set()
    for distances in groups.values():
        least = min((value for value in distances.values() if math.isfinite(value)), default=0.0)
        far |= {index for index, value in distances.items() if not value <= FAR * max(least, 0.0)}
    return far


def shared(rows: Sequence[Row]) -> list[str]:
    """Returns a note on what the evaluations of all rows have in common."""
    groups: dict[str, list[str]] = {}
    for key in _keys(rows):
        values = rows[0].facts.get(key, ())
        if len(values) == 1 and values[0] != "null" and key not in _unlike(rows):
            group, _, option = key.partition(".")
            groups.setdefault(group, []).append(f"{option} {values[0]}".strip())
    stated = []
    for group, (first, *others) in groups.items():
        head, options = (f" {first}", others) if group in rows[0].facts else ("", [first, *others])
        stated.append(f"{group}{head} ({', '.join(options)})" if options else f"{group}{head}")
    return [f"Every row was evaluated with {'; '.join(stated)}."] if stated else []


def differences(
    rows: Sequence[Row], axes: Sequence[str], compared: Sequence[str], preferred: Sequence[str] = ()
) -> list[str]:
    """Returns a note on what differs between the rows beside their columns.

    Without it, a difference between two rows would seem to be caused by the columns alone.

    Args:
        rows: The rows of the table.
        axes: The config keys that are columns.
        compared: Keys of the records that have notes of their own, see `unlike_quality`.
        preferred: Keys that stand for the keys that repeat them.
    """
    configs = [row.setting.config for row in rows]
    repeated = followers(configs, [*axes, *preferred])
    hidden = [
        key
        for key in differing_keys(configs)
        if key not in {*axes, *repeated, ARM} and not _by_choice(key, axes, configs)
    ]
    owners = {key: owner for key in hidden if (owner := _owner(key, hidden, configs))}
    listed = [key for key in hidden if key not in owners]
    headers = axis_headers([*axes, *listed])[len(axes) :]
    stated = []
    for header, key in zip(headers, listed, strict=True):
        values = span(axis_values([config for config in configs if key in config], key))
        everywhere = all(key in config for config in configs)
        named = header if values == header else f"{header} {values}"  # a loss is named after its class
        stated.append(named if everywhere else f"{named} (not in every row)")
    for key in _unlike(rows):
        if key.split(".")[0] not in compared and not all(_as_configured(row, key) for row in rows):
            stated.append(f"{key} {span([value for row in rows for value in row.facts.get(key, (UNKNOWN,))])}")
    stated += [f"options of {axis_headers([owner])[0]}" for owner in dict.fromkeys(owners.values())]
    return [f"The rows also differ in {'; '.join(dict.fromkeys(stated))}."] if stated else []


def _by_choice(key: str, axes: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a key is an option of a group that is a column and has one value for each choice of it."""
    group = key.partition(".")[0]
    if group == key or group not in axes:
        return False
    pairs = {(spell(config[group]), spell(config.get(key))) for config in configs}
    return len(pairs) == len({choice for choice, _ in pairs})


def _owner(key: str, hidden: Sequence[str], configs: Sequence[Mapping[str, Any]]) -> str | None:
    """The part with `_target_` whose options are not listed one by one, if `key` is one of them."""
    if key.endswith("_target_"):
        return None
    parts = key.split(".")
    for end in range(len(parts) - 1, 0, -1):
        owner = ".".join(parts[:end])
        classes = {spell(config.get(f"{owner}._target_")) for config in configs}
        many = sum(other.startswith(f"{owner}.") for other in hidden) > FEW_OPTIONS
        if owner == "backbone" and (many or len(classes) > 1):
            return owner
        if len(classes) > 1 and not all(key in config for config in configs):
            return owner
    return None


def span(values: Iterable[str]) -> str:
    """Returns different values as one text: the range of numbers, or the first few of other values.

    Examples:
        >>> span(["20", "10", "15"]), span(["x", "velocity", "x"]), span("abcdef")
        ('10 to 20', 'x or velocity', 'a, b, c, d and 2 more')
    """
    different = list(dict.fromkeys(values))
    if len(different) > 1 and all(type(plain(value)) in (int, float) for value in different):
        numbers = sorted(different, key=lambda value: float(plain(value)))
        return f"{numbers[0]} to {numbers[-1]}"
    if len(different) > SHOWN_VALUES:
        return f"{', '.join(different[:SHOWN_VALUES])} and {len(different) - SHOWN_VALUES} more"
    return " or ".join([", ".join(different[:-1]), different[-1]] if len(different) > 1 else different)


def unlike_quality(rows: Sequence[Row], headers: Sequence[str], compared: Sequence[str]) -> list[str]:
    """Returns notes on what keeps the quality of rows from being compared.

    Args:
        rows: The rows of the table.
        headers: Headers of the columns that distinguish the rows.
        compared: Keys of the records that must be equal for two rows to be compared.
    """
    result = []
    for key in _unlike(rows):
        if key.split(".")[0] not in compared:
            continue
        labels: dict[tuple[str, ...], list[str]] = {}
        for row in rows:
            labels.setdefault(row.facts.get(key, (UNKNOWN,)), []).append(row.label)
        differing = "; ".join(f"{' and '.join(values)} for {', '.join(which)}" for values, which in labels.items())
        result.append(
            f"The rows ({' | '.join(headers)}) differ in {key}: {differing}. The best value is marked only among rows "
            "that agree in it."
        )
    for row in rows:
        mixed = [f"{key} {' and '.join(values)}" for key, values in row.facts.items() if len(values) > 1]
        if mixed:
            result.append(f"The mean of row {row.label} combines different evaluations: {', '.join(mixed)}.")
    runs = [run for row in rows for run in row.runs]
    unknown = [run.name for run in runs if "num_samples" not in run.record]
    if unknown:
        which = "any run" if len(unknown) == len(runs) else ", ".join(unknown)
        result.append(f"The sample count is not recorded for {which}.")
    return result


def _keys(rows: Sequence[Row]) -> list[str]:
    return list(dict.fromkeys(key for row in rows for key in row.facts))


def _unlike(rows: Sequence[Row]) -> list[str]:
    """The keys of the records that have different values in different rows."""
    return [key for key in _keys(rows) if len({row.facts.get(key) for row in rows}) > 1]


def _as_configured(row: Row, key: str) -> bool:
    """True if the evaluation used the values of the row's config, which its columns already show."""
    config = row.setting.config
    names = (key, f"{key}._target_", CONFIGURED.get(key, key))
    configured = dict.fromkeys(_fact(name, config[name]) for name in names if name in config)
    return row.facts.get(key) == (tuple(configured) or None)


def other_work(rows: Sequence[Row]) -> list[str]:
    """Returns a note on times per image that cannot be compared because other work ran on the machine."""
    timed = [row for row in rows if SECONDS in row.cells]
    unclean = [row for row in timed if not row.clean]
    if not unclean:
        return []
    which = "" if len(unclean) == len(timed) else f" of {', '.join(row.label for row in unclean)}"
    loads = [load for row in unclean for load in row.other_loads if load is not None]
    if not loads:
        return [f"s/image{which} is not compared: how much other work the machine did is not recorded."]
    least, most = f"{min(loads):.2g}", f"{max(loads):.2g}"
    cores = most if least == most else f"{least} to {most}"
    return [f"s/image{which} was measured beside other work ({cores} busy cores) and cannot be compared."]


def unlike_cells(rows: Sequence[Row], columns: Sequence[MetricInfo]) -> list[str]:
    """Returns notes on runs without a metric that others of their row have, and on values that are not finite."""
    result = []
    for column in columns:
        for run in (run for row in rows for run in row.runs if column.key in row.cells):
            value = run.metrics.get(column.key)
            if value is None:
                result.append(f"{run.name} has no {column.label}.")
            elif not math.isfinite(value):
                result.append(f"{column.label} of {run.name} is {value}, so its row has no mean.")
    return result


def sources(paper: Sequence[tuple[PaperRow, int | None]]) -> list[str]:
    """Returns one note for each source of quoted rows, numbered as in the table."""
    result = []
    for source, number in source_numbers(paper).items():
        note = (
            f"[{number}] Quoted from {source}, which uses its own protocol: the values were not measured here and "
            "are never marked as best."
        )
        for row, index in paper:
            if row.source == source and row.match and index is None:
                match = ", ".join(f"{key}={spell(value)}" for key, value in row.match.items())
                note += f" No measured row has {match}."
        result.append(note)
    return result


def left_out(run: Run) -> str:
    """Returns why a run is not in the table."""
    reason = f", {run.reason}" if run.reason else ""
    if run.state == "finished":
        return f"{run.name}: finished, not evaluated{reason}"
    return f"{run.name}: {run.state}{reason}"
