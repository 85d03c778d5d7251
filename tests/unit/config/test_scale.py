"""`scale=mini` stands for another recipe."""

from __future__ import annotations

from pathlib import Path

import pytest

from pixelflow.config.scale import at_scale, miniatures
from pixelflow.errors import UserError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "experiments" / "study").mkdir(parents=True)
    (tmp_path / "experiments" / "study" / "mini.yaml").write_text("")
    (tmp_path / "experiments" / "study" / "arm.yaml").write_text("")
    (tmp_path / "experiments" / "other.yaml").write_text("")
    return tmp_path


def test_a_miniature_replaces_the_recipe(folder: Path) -> None:
    assert miniatures([folder]) == ["study"]
    given = ["-m", "experiments=study", "scale=mini", "seed=0,1"]
    assert at_scale(given, [folder]) == ["-m", "experiments=study/mini", "seed=0,1"]


@pytest.mark.parametrize("more", [[], ["scale=paper"]])
def test_without_a_scale_and_at_the_papers_nothing_changes(folder: Path, more: list[str]) -> None:
    assert at_scale(["experiments=study", *more, "seed=1"], [folder]) == ["experiments=study", "seed=1"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["scale=small", "experiments=study"], "scale=small must be one of paper, mini"),
        (["scale=mini", "experiments=other"], "experiments=other has no miniature; those with one: study"),
        (["scale=mini"], "scale=mini needs experiments=NAME; those with one: study"),
    ],
)
def test_mistakes_are_named_with_the_choices(folder: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        at_scale(arguments, [folder])
