"""The ground truth, the caption and the pixels of a scene say the same."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from pixelflow.data.scenes import COLOURS, KINDS, NUMBERS, SHAPES, Scene, Thing, draw_scene, render
from pixelflow.flow.rng import KeyedRandom

SCENES = [draw_scene(KeyedRandom(0).generator("test", i)) for i in range(600)]


def test_all_kinds_shapes_and_colours_occur() -> None:
    for counted, expected in (
        (Counter(s.kind for s in SCENES), KINDS),
        (Counter(s.things[0].shape for s in SCENES), SHAPES),
        (Counter(s.things[0].colour for s in SCENES), COLOURS),
    ):
        assert set(counted) == set(expected)
        assert max(counted.values()) < 3 * min(counted.values())


def test_shapes_lie_inside_the_image_and_do_not_overlap() -> None:
    for scene in SCENES:
        for i, a in enumerate(scene.things):
            assert min(a.box) >= 0 and max(a.box) <= 1
            for b in scene.things[:i]:
                apart = max(abs(a.x - b.x), abs(a.y - b.y))
                assert apart > a.radius + b.radius


def test_captions_match_the_scene() -> None:
    for scene in SCENES:
        first, words = scene.things[0], scene.caption.split()
        assert first.shape in scene.caption
        if scene.kind == "count":
            assert NUMBERS[len(scene.things)] in words
            assert len({(t.shape, t.colour) for t in scene.things}) == 1
        if scene.kind in ("colour", "count", "attribution"):
            assert first.colour in words
        if scene.kind in ("two", "position", "attribution"):
            assert re.search(rf"{first.shape}.* {scene.things[1].shape}$", scene.caption)
        assert not re.search(r"\ba [aeiou]", scene.caption)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", "x", -1), ("right of", "x", 1), ("above", "y", -1), ("below", "y", 1)]
)
def test_relations_hold_by_a_margin(relation: str, axis: str, sign: int) -> None:
    found = [scene for scene in SCENES if scene.relation == relation]
    assert found
    for scene in found:
        first, second = scene.things
        assert f" {relation} " in scene.caption
        other = "y" if axis == "x" else "x"
        assert sign * (getattr(first, axis) - getattr(second, axis)) > 0.3
        assert abs(getattr(first, other) - getattr(second, other)) < 0.1


def alone(shape: str, texture: str = "plain", size: int = 200) -> np.ndarray:
    """Returns the mask of a shape of radius 0.4 that is drawn alone."""
    scene = Scene("single", (Thing(shape, "black", texture, 0.5, 0.5, 0.4),), "", (250, 250, 250))
    return render(scene, size).mean(axis=-1) < 128


AREAS = {  # in units of the squared radius, by geometry
    "circle": np.pi,
    "square": 1.7**2,
    "triangle": 3 * np.sqrt(3) / 4,
    "ring": np.pi * (1 - 0.25),
    "cross": 2 * 1.94 * 0.6 - 0.36,
    "star": 5 * 0.42 * np.sin(np.pi / 5),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_areas_are_those_of_geometry(shape: str) -> None:
    assert alone(shape).mean() == pytest.approx(AREAS[shape] * 0.4**2, rel=0.02)


@pytest.mark.parametrize("shape", SHAPES)
def test_shapes_stay_in_their_box(shape: str) -> None:
    rows, columns = np.nonzero(alone(shape))
    assert min(rows.min(), columns.min()) >= 19
    assert max(rows.max(), columns.max()) <= 181


def test_every_resolution_shows_the_same_scene() -> None:
    for scene in SCENES[:12]:
        large = render(scene, 128).astype(float).reshape(32, 4, 32, 4, 3).mean(axis=(1, 3))
        assert np.abs(large - render(scene, 32)).mean() < 4


def test_textures_differ() -> None:
    plain, *others = (
        render(Scene("single", (Thing("square", "blue", t, 0.5, 0.5, 0.4),), "", (250,) * 3), 64)
        for t in ("plain", "striped", "checkered", "dotted")
    )
    for other in others:
        share = (np.abs(other.astype(int) - plain).max(axis=-1) > 40).mean()
        assert 0.05 < share < 0.4
