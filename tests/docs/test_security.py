"""SECURITY.md names the test of each promise, and these tests exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def test_every_promise_names_a_test_that_exists() -> None:
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    promises = [line for line in rows if not line.startswith("| from elsewhere")]
    assert len(promises) >= 10
    for line in promises:
        named = re.findall(r"`(tests/[\w/]+\.py)`", line)
        assert named, f"no test: {line}"
        assert all(len(re.findall(r"^def test_", (ROOT / name).read_text(), re.M)) for name in named)


def test_every_file_that_is_named_exists() -> None:
    named = re.findall(r"`((?:tests|pixelflow|conf|docs)/[\w/.]*)`", TEXT)
    assert named and all((ROOT / name).exists() for name in named)
