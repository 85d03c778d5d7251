"""Scenes of coloured, textured shapes: their content, their captions and their rendering.

The kinds of scenes are those of the GenEval benchmark for text-to-image models (Ghosh et al., 2023): a single object,
two objects, counting, colours, positions, and colours bound to objects. The content is exact, so a caption can be
checked.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

SHAPES = ("circle", "square", "triangle", "star", "ring", "cross")
COLOURS = {
    "red": (214, 39, 40), "green": (44, 160, 44), "blue": (31, 119, 220), "yellow": (240, 210, 40),
    "purple": (148, 70, 189), "orange": (255, 127, 14), "black": (30, 30, 30), "pink": (247, 130, 190),
}  # fmt: skip
TEXTURES = ("plain", "striped", "checkered", "dotted")
Kind = Literal["single", "colour", "count", "two", "position", "attribution"]
KINDS: tuple[Kind, ...] = get_args(Kind)
NUMBERS = {2: "two", 3: "three", 4: "four"}
POSITIONS = {"left of": (0, -1), "right of": (0, 1), "above": (-1, 0), "below": (1, 0)}
"""Direction (down, right) from the second object to the first."""


@dataclass(frozen=True)
class Thing:
    """A shape in a scene.

    Args:
        shape: One of `SHAPES`.
        colour: One of `COLOURS`.
        texture: One of `TEXTURES`.
        y: Vertical position of the centre, relative to the side of the image.
        x: Horizontal position of the centre, relative to the side of the image.
        radius: Radius of the outline, relative to the side of the image.
    """

    shape: str
    colour: str
    texture: str
    y: float
    x: float
    radius: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right and bottom, relative to the side of the image."""
        return self.x - self.radius, self.y - self.radius, self.x + self.radius, self.y + self.radius


@dataclass(frozen=True)
class Scene:
    """The ground truth of one image.

    Args:
        kind: One of `KINDS`.
        things: The shapes.
        caption: The description.
        background: RGB colour.
        relation: Position of the first shape relative to the second, or "".
    """

    kind: Kind
    things: tuple[Thing, ...]
    caption: str
    background: tuple[int, ...]
    relation: str = ""

    @property
    def label(self) -> int:
        """The class, which is the shape of the first thing."""
        return SHAPES.index(self.things[0].shape)


def draw_scene(random: np.random.Generator) -> Scene:
    """Draws a random scene, in which things never overlap."""
    kind = KINDS[int(random.integers(len(KINDS)))]
    grey = int(random.integers(190, 250))
    background = tuple(int(v) for v in np.clip(grey + random.integers(-12, 13, 3), 0, 255))
    first, second = (SHAPES[i] for i in random.permutation(len(SHAPES))[:2])
    names = list(COLOURS)
    colours = [names[i] for i in random.permutation(len(names))[:2]]
    textures = [TEXTURES[i] for i in random.integers(0, len(TEXTURES), 2)]
    number = int(random.integers(2, 5)) if kind == "count" else 1 if kind in ("single", "colour") else 2
    places = _places(random, number)
    relation = ""
    if kind == "position":
        relation = list(POSITIONS)[int(random.integers(len(POSITIONS)))]
        places = _related(places, relation, random)
    things = []
    for i, (y, x, radius) in enumerate(places):
        other = i if kind in ("two", "position", "attribution") else 0
        things.append(Thing((first, second)[other], colours[other], textures[other], y, x, radius))
    return Scene(kind, tuple(things), _caption(kind, things, relation), background, relation)


def _places(random: np.random.Generator, number: int) -> list[tuple[float, float, float]]:
    """Returns y, x and radius of each thing, one per cell of a grid."""
    cells = 1 if number == 1 else 2
    chosen = random.permutation(cells * cells)[:number]
    side = 1 / cells
    places = []
    for cell in chosen:
        radius = float(random.uniform(0.28, 0.42)) * side
        free = side / 2 - radius
        shift = random.uniform(-0.9, 0.9, 2) * free
        row, column = divmod(int(cell), cells)
        places.append(((row + 0.5) * side + float(shift[0]), (column + 0.5) * side + float(shift[1]), radius))
    return places


def _related(
    places: list[tuple[float, float, float]], relation: str, random: np.random.Generator
) -> list[tuple[float, float, float]]:
    """Places two things on opposite sides, so that the relation holds and the orthogonal one does not."""
    down, right = POSITIONS[relation]
    result = []
    for (_, _, radius), side in zip(places, (0.25, -0.25), strict=True):
        shake = random.uniform(-0.03, 0.03, 2)
        result.append((0.5 + down * side + float(shake[0]), 0.5 + right * side + float(shake[1]), radius))
    return result


def _caption(kind: str, things: list[Thing], relation: str) -> str:
    first = things[0]
    pattern = "" if first.texture == "plain" else f"{first.texture} "
    if kind == "single":
        return f"a photo of {_article(pattern + first.shape)}"
    if kind == "colour":
        return f"a photo of {_article(f'{first.colour} {pattern}{first.shape}')}"
    if kind == "count":
        plural = first.shape + ("es" if first.shape.endswith("s") else "s")
        return f"a photo of {NUMBERS[len(things)]} {first.colour} {pattern}{plural}"
    second = things[1]
    if kind == "two":
        return f"a photo of {_article(first.shape)} and {_article(second.shape)}"
    if kind == "position":
        return f"a photo of {_article(first.shape)} {relation} {_article(second.shape)}"
    return f"a photo of {_article(f'{first.colour} {first.shape}')} and {_article(f'{second.colour} {second.shape}')}"


def _article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


# Drawing -----------------------------------------------------------------------------------------------------------


def render(scene: Scene, size: int) -> np.ndarray:
    """Draws a scene with edges that are smooth over one pixel.

    Every shape is a signed distance (Quilez, "2D distance functions"), in units of its radius.

    Args:
        scene: The ground truth.
        size: Height and width in pixels.

    Returns:
        (size, size, 3) uint8.
    """
    canvas = np.empty((size, size, 3), dtype=np.float32)
    # A faint gradient, so that the background is not constant.
    canvas[:] = np.asarray(scene.background, dtype=np.float32) + np.linspace(8, -8, size)[:, None, None]
    for thing in scene.things:
        _render_thing(canvas, thing, size)
    return canvas.clip(0, 255).round().astype(np.uint8)


def _render_thing(canvas: np.ndarray, thing: Thing, size: int) -> None:
    left, top, right, bottom = (v * size for v in thing.box)
    rows = slice(max(int(top) - 1, 0), min(int(bottom) + 2, size))
    columns = slice(max(int(left) - 1, 0), min(int(right) + 2, size))
    y = ((np.arange(rows.start, rows.stop, dtype=np.float32) + 0.5) / size - thing.y)[:, None] / thing.radius
    x = ((np.arange(columns.start, columns.stop, dtype=np.float32) + 0.5) / size - thing.x)[None] / thing.radius
    pixel = 1 / (thing.radius * size)
    inside = np.clip(0.5 - DISTANCES[thing.shape](y, x) / pixel, 0, 1)[..., None]
    colour = np.asarray(COLOURS[thing.colour], dtype=np.float32)
    shade = (
        np.clip(0.5 - _pattern(thing.texture, y, x) / pixel, 0, 1)[..., None] * 0.55
    )  # share of white in the pattern
    canvas[rows, columns] += inside * (colour + shade * (255 - colour) - canvas[rows, columns])


def _pattern(texture: str, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Returns a signed distance that is negative in the lighter shade."""
    if texture == "striped":
        return np.abs((x + y + 10) % 0.5 - 0.25) - 0.1
    if texture == "checkered":
        return 0.25 * np.sin(x * np.pi / 0.4) * np.sin(y * np.pi / 0.4)
    if texture == "dotted":
        return np.hypot((x + 10) % 0.4 - 0.2, (y + 10) % 0.4 - 0.2) - 0.1
    return np.ones_like(x + y) * 9


def _circle(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.hypot(x, y) - 1


def _square(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.maximum(np.abs(x), np.abs(y)) - 0.85


def _ring(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    return np.abs(np.hypot(x, y) - 0.75) - 0.25


def _cross(y: np.ndarray, x: np.ndarray) -> np.ndarray:
    across = np.maximum(np.abs(x) - 0.97, np.abs(y) - 0.3)
    return np.minimum(across, np.maximum(np.abs(y) - 0.97, np.abs(x) - 0.3))


def _polygon(corners: np.ndarray) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Returns the signed distance to a polygon with corners (N, 2) as (y, x), negative inside (even-odd rule)."""

    def distance(y: np.ndarray, x: np.ndarray) -> np.ndarray:
        nearest = np.full(np.broadcast_shapes(y.shape, x.shape), np.inf, dtype=np.float32)
        odd = np.zeros(nearest.shape, dtype=bool)
        for (ay, ax), (by, bx) in zip(corners, np.roll(corners, -1, axis=0), strict=True):
            ey, ex = by - ay, bx - ax
            along = np.clip(((y - ay) * ey + (x - ax) * ex) / (ey * ey + ex * ex), 0, 1)
            nearest = np.minimum(nearest, np.hypot(y - ay - along * ey, x - ax - along * ex))
            if ey:
                odd ^= ((ay > y) != (by > y)) & (x < ex * (y - ay) / ey + ax)
        return np.where(odd, -nearest, nearest)

    return distance


def _corners(points: int, inner: float) -> np.ndarray:
    """Returns the corners (N, 2) of a regular polygon with a corner at the top, or of a star for inner < 1."""
    count = points if inner == 1 else 2 * points
    angle = 2 * np.pi * np.arange(count) / count
    radius = np.where(np.arange(count) % 2 == 0, 1, inner)
    return np.stack([-np.cos(angle) * radius, np.sin(angle) * radius], axis=1).astype(np.float32)


DISTANCES: dict[str, Callable[[np.ndarray, np.ndarray], np.ndarray]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _polygon(_corners(3, 1)),
    "star": _polygon(_corners(5, 0.42)),
    "ring": _ring,
    "cross": _cross,
}
