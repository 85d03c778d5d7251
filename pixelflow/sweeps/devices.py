"""GPUs and MIG slices: those that a job asks SLURM for, and those that this machine shows.

A MIG slice is a part of a GPU that works as a GPU of its own. A process can use one of them only.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping

VISIBLE = "CUDA_VISIBLE_DEVICES"
_REQUEST = re.compile(r"(?:gres[:/])?gpu(?::(?P<kind>[^:=]*[^:=\d][^:=]*))?(?:[:=](?P<count>\d+))?")
_SLICE = re.compile(r"(\d+)g\.(\d+)gb")
_LISTED = re.compile(r"(?P<slice>\s*)(?:GPU|MIG) .*\(UUID: (?P<name>(?:GPU|MIG)-[^)]+)\)")


def requested(gres: str) -> list[tuple[str, int]]:
    """Returns the kinds and numbers of the GPUs in a list of generic resources.

    Args:
        gres: The resources as sbatch takes them, such as `gpu:a100:2,nvme:1`. Others than GPUs are left out.

    Examples:
        >>> requested("gpu:1g.10gb:2,nvme:1")
        [('1g.10gb', 2)]
    """
    found = [_REQUEST.fullmatch(entry.strip()) for entry in gres.split(",")]
    return [(entry["kind"] or "", int(entry["count"] or 1)) for entry in found if entry]


def with_gpus(gres: str, count: int) -> str | None:
    """Returns the generic resources with `count` GPUs of their first kind; None where nothing is left.

    Examples:
        >>> with_gpus("gpu:a100:4,nvme:1", 1)
        'gpu:a100:1,nvme:1'
    """
    others = [entry.strip() for entry in gres.split(",") if not requested(entry)]
    gpus = [":".join(filter(None, ("gpu", kind, str(count)))) for kind, _ in requested(gres)[:1] if count]
    return ",".join([*gpus, *others]) or None


def share_of_gpu(kind: str) -> float:
    """Returns the share of a GPU that a device of this kind is; 1 unless the kind is the profile of a MIG slice.

    Args:
        kind: The name of the kind in SLURM, such as `a100`, `1g.10gb` or `a100_3g.20gb`. A GPU has seven slices for
            computing; an A30, whose slices have 6 GB each, has four.

    Examples:
        >>> share_of_gpu("2g.12gb")
        0.5
    """
    profile = _SLICE.search(kind)
    if profile is None:
        return 1.0
    slices, memory = int(profile[1]), int(profile[2])
    return slices / (4 if memory == 6 * slices else 7)


def visible_devices(environment: Mapping[str, str]) -> list[str]:
    """Returns the names of the GPUs and MIG slices that this machine shows.

    Args:
        environment: The environment. CUDA_VISIBLE_DEVICES ends, as in CUDA, with its first entry that is no device.
    """
    given = environment.get(VISIBLE)
    if given is None:
        try:
            return listed(subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout)
        except FileNotFoundError:
            return []
    names: list[str] = []
    for name in map(str.strip, given.split(",")):
        if not re.fullmatch(r"\d+|(?:GPU|MIG)-\S+", name):
            break
        names.append(name)
    return names


def listed(text: str) -> list[str]:
    """Returns the devices that `nvidia-smi -L` prints. A GPU that is divided into slices is represented by these."""
    names: list[str] = []
    divided = True
    for line in filter(None, map(_LISTED.match, text.splitlines())):
        if line["slice"] and not divided:
            names.pop()
        divided = bool(line["slice"])
        names.append(line["name"])
    return names
