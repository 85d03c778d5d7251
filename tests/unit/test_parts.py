"""Tests which parts a stored config can build."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

import pytest

from pixelflow.errors import UserError
from pixelflow.flow import Cascade
from pixelflow.parts import instantiate
from pixelflow.solvers import Euler

CASCADE = {"_target_": "pixelflow.flow.Cascade", "image_size": 16, "num_stages": 2}


@pytest.fixture
def mylib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A user's module that writes a file when it is imported."""
    (tmp_path / "mylib.py").write_text(
        "from os import system\n"
        "from pathlib import Path\n"
        f"Path({str(tmp_path / 'imported')!r}).touch()\n"
        "class Holder:\n"
        "    def __init__(self, **parts): self.parts = parts\n"
        "value = 3\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "mylib", raising=False)
    return "mylib"


def test_nested_parts_partials_and_further_arguments(mylib: str) -> None:
    solver = {"_target_": "pixelflow.solvers.Euler", "num_steps": [2, 3], "num_stages": 2}
    named = {"x": {**CASCADE, "_partial_": True}}
    node = {"_target_": "mylib.Holder", "one": CASCADE, "many": [solver, 1], "named": named}
    parts = instantiate(node, trust=[mylib], more=5).parts
    assert isinstance(parts["one"], Cascade) and parts["one"].num_stages == 2 and parts["more"] == 5
    assert isinstance(parts["many"][0], Euler) and parts["many"][0].num_steps == [2, 3] and parts["many"][1] == 1
    assert isinstance(parts["named"]["x"], functools.partial) and parts["named"]["x"]().image_size == 16


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "mylib.Holder",
        "mylib2.Holder",
        "pixelflow.flow.np",
        "pixelflow.flow.cascade.np",
        "pixelflow.flow.cascade.Cascade",
        "pixelflow.files.write_text",
        "pixelflow.backbones.pixelflow",
        "Cascade",
        "",
        "pixelflow.flow.Cascade.path",
    ],
)
@pytest.mark.parametrize("inside", [lambda node: node, lambda node: {**CASCADE, "kickoff": [{"deep": node}]}])
def test_other_targets_are_refused_before_anything_is_imported(
    target: str, inside: Any, mylib: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError):
        instantiate(inside({"_target_": target}))
    assert not (tmp_path / "imported").exists()


@pytest.mark.parametrize("target", [{}, [], None, 3, True, {"_target_": "os.system"}])
def test_a_target_that_is_no_name(target: Any) -> None:
    with pytest.raises(UserError, match=r"^a\[0\]\._target_=.* must be the dotted name of a class$"):
        instantiate({**CASCADE, "a": [{"_target_": target}]})
    with pytest.raises(UserError, match=r"^_target_=.* must be"):
        instantiate({"_target_": target})


@pytest.mark.parametrize("name", ["system", "value", "Path", "nothing", "_partial_"])
def test_a_trusted_module_gives_its_own_classes_alone(name: str, mylib: str) -> None:
    with pytest.raises(UserError, match="mylib"):
        instantiate({"_target_": f"mylib.{name}"}, trust=[mylib])


def test_arguments_that_the_part_does_not_take() -> None:
    with pytest.raises(UserError, match=r"pixelflow.flow.Cascade: .*steps.*; its arguments are image_size, num_stages"):
        instantiate({**CASCADE, "steps": 3})
    with pytest.raises(UserError, match="num_stages"):
        instantiate({"_target_": "pixelflow.flow.Cascade", "image_size": 16})
