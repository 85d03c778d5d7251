from __future__ import annotations

import os
from pathlib import Path

import pytest

from pixelflow.sweeps.devices import listed, visible_devices

SLICED = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aaaa)
  MIG 3g.20gb     Device  0: (UUID: MIG-a0)
  MIG 2g.10gb     Device  1: (UUID: MIG-a1)
GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-bbbb)
GPU 2: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc)
  MIG 7g.40gb     Device  0: (UUID: MIG-c0)
"""


def test_a_divided_gpu_is_its_slices() -> None:
    assert listed(SLICED) == ["MIG-a0", "MIG-a1", "GPU-bbbb", "MIG-c0"]
    assert listed("No devices found.\n") == listed("") == []


@pytest.mark.parametrize(
    ("given", "devices"),
    [
        ("MIG-a0,MIG-a1", ["MIG-a0", "MIG-a1"]),
        ("MIG-GPU-aaaa/1/0", ["MIG-GPU-aaaa/1/0"]),  # the names of drivers before 470
        ("GPU-aaaa, 3", ["GPU-aaaa", "3"]),
        ("0,1,-1,2", ["0", "1"]),
        ("", []),
        ("NoDevFiles", []),  # SLURM, for a job without GPUs
    ],
)
def test_the_environment_names_the_devices(given: str, devices: list[str]) -> None:
    assert visible_devices({"CUDA_VISIBLE_DEVICES": given}) == devices


def test_without_the_variable_the_driver_lists_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\ncat <<'EOF'\n{SLICED}EOF\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert visible_devices({}) == ["MIG-a0", "MIG-a1", "GPU-bbbb", "MIG-c0"]
    monkeypatch.setenv("PATH", str(tmp_path / "missing"))
    assert visible_devices({}) == []
