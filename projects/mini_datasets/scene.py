# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Composition of whole scenes: a place, and things standing in it from far to near."""

from collections.abc import Callable, Sequence

import numpy as np

from . import objects
from .canvas import Colour, Layer, Scene, hsv

# Numbers of a thing that are tried in a scene, smallest and largest.
COUNTS = {
    'person': (1, 3),
    'car': (0, 2),
    'sports ball': (0, 1),
    'kite': (0, 1),
    'stop sign': (0, 1),
    'traffic light': (0, 1),
}


class _Ground:
    """Where things stand: rows below the horizon, nearer and larger towards the lower border.

    Args:
        rng: Source of the horizon and of the course of the road.
        size: Height and width of the picture in pixels.
        has_road: Whether a road leads from the horizon to the lower border.
    """

    def __init__(self, rng: np.random.Generator, size: tuple[int, int], has_road: bool) -> None:
        self.height, self.width = size
        self.unit = min(size)
        self.horizon = rng.uniform(0.32, 0.45) * self.height
        self.has_road = has_road
        self.vanishing, self.ahead = rng.uniform(0.4, 0.6, 2) * self.width

    def row(self, nearness: float) -> float:
        """Row of a place between the horizon (0) and the lower border (1)."""
        return self.horizon + nearness * (self.height - self.horizon)

    def length(self, far: float, near: float, nearness: float) -> float:
        """Length in pixels between those at the horizon and at the border, in image sizes."""
        return self.unit * (far + (near - far) * nearness)

    def road(self, nearness: float) -> tuple[float, float]:
        """Left and right end of the road."""
        middle = self.vanishing + (self.ahead - self.vanishing) * nearness
        half = self.width * (0.04 + 0.32 * nearness)
        return middle - half, middle + half

    def column(self, rng: np.random.Generator, nearness: float, name: str) -> float:
        """Draw a column for a thing: cars drive on the road and signs stand beside it."""
        if self.has_road and name in ('car', 'stop sign', 'traffic light'):
            left, right = self.road(nearness)
            if name == 'car':
                return rng.uniform(left + 0.25 * (right - left), right - 0.25 * (right - left))
            gap = 0.05 * self.unit
            return rng.choice((left - gap, right + gap))
        return rng.uniform(0.02, 0.98) * self.width


def draw_scene(
    rng: np.random.Generator,
    size: tuple[int, int],
    places: Sequence[str],
    things: Sequence[str],
    crowd: bool = False,
    bonnet: bool = False,
) -> Scene:
    """Draw one scene.

    Args:
        rng: Source of everything that varies; its state alone decides the scene.
        size: Height and width of the picture in pixels.
        places: Backgrounds to choose from: 'park', 'beach', 'street'.
        things: Names out of `COUNTS` that may appear.
        crowd: Whether to add a group of people who are not told apart.
        bonnet: Whether the lower border shows the bonnet of the car that carries the camera.

    Returns:
        The finished scene; every pixel of it has an owner.
    """
    place = rng.choice(list(places))
    scene = Scene(size)
    ground = _Ground(rng, size, has_road=place == 'street')
    _PLACES[place](scene, rng, ground)
    counts = {
        name: rng.integers(COUNTS[name][0], COUNTS[name][1], endpoint=True) for name in things
    }
    # The crowd comes first, when there is nothing yet that it could hide.
    if crowd:
        _add_crowd(scene, rng, ground)
    for _ in range(counts.pop('kite', 0)):
        _add_kite(scene, rng, ground)
    standing = [name for name, count in counts.items() for _ in range(count)]
    nearness = rng.uniform(0.15, 1, len(standing))
    for i in np.argsort(nearness):
        _add_standing(scene, rng, ground, standing[i], nearness[i])
    if bonnet:
        layer = Layer(size)
        layer.disc(
            (ground.ahead, 1.1 * size[0]),
            0.35 * size[1],
            hsv(0, 0, 0.15),
            squeeze=0.6 * size[0] / size[1],
        )
        scene.paint('ego vehicle', layer)
    scene.expose(rng)
    return scene


# Things. Each is tried in several places and left out if it would hide another one.
_TRIES = 8


def _add_standing(
    scene: Scene, rng: np.random.Generator, ground: _Ground, name: str, nearness: float
) -> None:
    """Put a thing on the ground."""
    row = ground.row(nearness)
    for _ in range(_TRIES):
        column = ground.column(rng, nearness, name)
        layer, pole, joints, shadow = Layer(scene.size), None, None, 0.0
        if name == 'person':
            height = ground.length(0.22, 0.8, nearness)
            # The nearest people are cut off by the lower border.
            foot = row + 0.1 * height * (nearness > 0.85)
            joints = objects.person(layer, rng, (column, foot), height)
            shadow = 0.17 * height
        elif name == 'car':
            behind = ground.has_road and rng.random() < 0.5
            width = ground.length(*((0.12, 0.5) if behind else (0.25, 0.75)), nearness)
            (objects.car_from_behind if behind else objects.car)(layer, rng, (column, row), width)
            shadow = 0.52 * width
        elif name == 'sports ball':
            radius = ground.length(0.03, 0.09, nearness)
            objects.ball(layer, rng, (column, row - radius), radius)
            shadow = 0.9 * radius
        else:
            radius, length = ground.length(0.05, 0.13, nearness), ground.length(0.25, 0.7, nearness)
            pole, top = Layer(scene.size), row - length
            objects.pole(pole, (column, row), top)
            if name == 'stop sign':
                objects.stop_sign(layer, (column, top), radius)
            else:
                objects.traffic_light(layer, rng, (column, top), 1.2 * radius)
        if scene.has_room(layer, *([pole] if pole else [])):
            scene.shade((column, row), shadow, squeeze=0.25)
            if pole:
                scene.paint('pole', pole)
            scene.paint(name, layer, thing=True, joints=joints)
            return


def _add_kite(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    """Put a kite into the sky."""
    for _ in range(_TRIES):
        layer = Layer(scene.size)
        radius = ground.unit * rng.uniform(0.08, 0.15)
        if rng.random() < 0.25:
            # Far away, and small in COCO's sense (32 x 32 pixels) in pictures of any size.
            radius = min(0.06 * ground.unit, 20)
        centre = rng.uniform(0.08, 0.92) * ground.width, rng.uniform(0.25, 0.6) * ground.horizon
        objects.kite(layer, rng, centre, radius)
        if scene.has_room(layer):
            scene.paint('kite', layer, thing=True)
            return


def _add_crowd(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    """Put a far group of people who overlap into the scene, as one region."""
    layer = Layer(scene.size)
    nearness = 0.1
    height = ground.length(0.22, 0.8, nearness)
    middle = rng.uniform(0.2, 0.8) * ground.width
    for offset in np.linspace(-1, 1, rng.integers(6, 10)):
        row = ground.row(nearness) + rng.uniform(-0.06, 0.06) * height
        objects.person(layer, rng, (middle + offset * 0.9 * height, row), height)
    scene.paint('person', layer, thing=True, crowd=True)


# Places.


def _fill(scene: Scene, name: str, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
    """Fill the rows from top to bottom with a vertical gradient."""
    layer = Layer(scene.size)
    rows = slice(max(0, round(top)), round(bottom))
    count = len(range(*rows.indices(scene.size[0])))
    shades = np.linspace(upper, lower, count)
    layer.image[rows] = np.rint(shades)[:, None]
    layer.mask[rows] = 1
    scene.paint(name, layer)


def _sky(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    hue, cover = rng.uniform(195, 225), rng.uniform(0.1, 0.6)
    _fill(scene, 'sky', 0, scene.size[0], hsv(hue, cover, 0.85), hsv(hue, 0.4 * cover, 0.97))


def _trees(scene: Scene, rng: np.random.Generator, ground: _Ground, count: int) -> None:
    """Put trees of about a third of the image size near the horizon."""
    for _ in range(count):
        layer = Layer(scene.size)
        foot = rng.uniform(0, 1) * ground.width, ground.row(rng.uniform(0.03, 0.12))
        objects.tree(layer, rng, foot, rng.uniform(0.28, 0.45) * ground.unit)
        scene.paint('tree', layer)


def _grass(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    hue = rng.uniform(75, 110)
    _fill(scene, 'grass', ground.horizon, scene.size[0], hsv(hue, 0.45, 0.6), hsv(hue, 0.6, 0.45))


def _park(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    _sky(scene, rng, ground)
    if rng.random() < 0.5:
        layer = Layer(scene.size)
        peaks = np.linspace(-0.1, 1.1, 5) * ground.width
        heights = ground.horizon * rng.uniform(0.4, 0.95, 5)
        layer.polygon(
            [
                (0, ground.horizon),
                *zip(peaks, heights, strict=True),
                (ground.width, ground.horizon),
            ],
            hsv(rng.uniform(210, 260), 0.25, 0.55),
        )
        scene.paint('mountain', layer)
    _grass(scene, rng, ground)
    _trees(scene, rng, ground, rng.integers(1, 4))


def _beach(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    _sky(scene, rng, ground)
    hue = rng.uniform(190, 215)
    _fill(
        scene,
        'sea',
        ground.horizon - 0.12 * ground.height,
        ground.height,
        hsv(hue, 0.7, 0.5),
        hsv(hue, 0.5, 0.75),
    )
    _fill(scene, 'sand', ground.horizon, ground.height, hsv(42, 0.3, 0.9), hsv(38, 0.4, 0.75))


def _street(scene: Scene, rng: np.random.Generator, ground: _Ground) -> None:
    _sky(scene, rng, ground)
    left = -rng.uniform(0, 0.1) * ground.width
    while left < ground.width:
        width = rng.uniform(0.12, 0.25) * ground.width
        if rng.random() < 0.8:
            layer = Layer(scene.size)
            objects.building(
                layer, rng, left, ground.row(0.02), width, rng.uniform(0.35, 0.95) * ground.horizon
            )
            scene.paint('building', layer)
        left += width
    _grass(scene, rng, ground)
    _trees(scene, rng, ground, rng.integers(0, 3))
    _strip(scene, ground, 'sidewalk', 0.28, hsv(20, 0.1, 0.68))
    _strip(scene, ground, 'road', 0, hsv(230, 0.08, 0.36))


def _strip(scene: Scene, ground: _Ground, name: str, wider: float, colour: Colour) -> None:
    """Lay the road, or a strip that shows on both sides of it, by `wider` image widths in front."""

    def across(nearness: float, margin: float) -> list[tuple[float, float]]:
        left, right = ground.road(nearness)
        row = ground.row(nearness)
        return [(left - margin, row), (right + margin, row)]

    margin = wider * ground.width
    layer = Layer(scene.size)
    layer.polygon([*across(0, 0.1 * margin), *across(1, margin)[::-1]], colour)
    if name == 'road':
        for start in np.arange(0.05, 1, 0.25):
            marks = []
            for nearness in (start, start + 0.12):
                left, right = ground.road(nearness)
                middle, half = (left + right) / 2, 0.025 * (right - left)
                row = ground.row(nearness)
                marks += [(middle - half, row), (middle + half, row)]
            layer.polygon([*marks[:2], *marks[:1:-1]], objects.WHITE)
    scene.paint(name, layer)


_PLACES: dict[str, Callable[[Scene, np.random.Generator, _Ground], None]] = {
    'park': _park,
    'beach': _beach,
    'street': _street,
}
