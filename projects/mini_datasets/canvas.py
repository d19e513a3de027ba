# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The canvas of a scene: layers of paint, and a picture that knows who owns each pixel.

Coordinates are (x, y) in pixels with the centre of the top left pixel at (0, 0); colours are BGR.
Nothing is anti-aliased, so that a pixel belongs to exactly one object and masks are exact.
"""

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[int, int, int]
Point = Sequence[float]


def hsv(hue: float, saturation: float, value: float) -> Colour:
    """Return the BGR colour (0 to 255) of a hue in degrees, a saturation and a value in [0, 1]."""
    red, green, blue = colorsys.hsv_to_rgb(hue / 360 % 1, saturation, value)
    return round(blue * 255), round(green * 255), round(red * 255)


def shaded(colour: Colour, factor: float) -> Colour:
    """Return a colour made darker (factor < 1) or lighter (factor > 1)."""
    return tuple(min(255, round(channel * factor)) for channel in colour)


class Layer:
    """The paint of one object before it is put into a scene.

    Args:
        size: Height and width in pixels.

    Attributes:
        image: (h, w, 3) uint8 colours, meaningful where the mask is set.
        mask: (h, w) uint8, 1 where something was painted.
    """

    def __init__(self, size: tuple[int, int]) -> None:
        self.image = np.zeros((*size, 3), np.uint8)
        self.mask = np.zeros(size, np.uint8)

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """Fill a polygon of (x, y) points."""
        corners = np.rint(np.asarray(points, np.float64)).astype(np.int32)
        cv2.fillPoly(self.image, [corners], colour)
        cv2.fillPoly(self.mask, [corners], 1)

    def box(self, left: float, top: float, right: float, bottom: float, colour: Colour) -> None:
        """Fill an upright rectangle, borders included."""
        self.polygon([(left, top), (right, top), (right, bottom), (left, bottom)], colour)

    def limb(self, start: Point, end: Point, width: float, colour: Colour) -> None:
        """Draw a thick line with round ends, at least two pixels wide."""
        start, end = ([round(float(value)) for value in point] for point in (start, end))
        width = max(2, round(width))
        cv2.line(self.image, start, end, colour, width)
        cv2.line(self.mask, start, end, 1, width)

    def disc(self, centre: Point, radius: float, colour: Colour, squeeze: float = 1.0) -> None:
        """Fill a disc; `squeeze` is its height over its width."""
        centre = [round(float(value)) for value in centre]
        axes = (max(0, round(radius)), max(0, round(radius * squeeze)))
        cv2.ellipse(self.image, centre, axes, 0, 0, 360, colour, -1)
        cv2.ellipse(self.mask, centre, axes, 0, 0, 360, 1, -1)


@dataclass
class Region:
    """One thing or one piece of stuff in a scene.

    Attributes:
        name: What it is, such as 'person' or 'sky'.
        area: Number of pixels painted, before anything in front covered some of them.
        thing: Whether it is a countable object, which later paint must not hide.
        crowd: Whether it is a group of things that are not told apart.
        joints: (17, 3) key points of a person, x, y and 1 where the person's own body does not
            hide them, else 0; None for everything else.
    """

    name: str
    area: int
    thing: bool
    crowd: bool
    joints: np.ndarray | None


class Scene:
    """A picture painted from back to front.

    Args:
        size: Height and width in pixels.

    Attributes:
        image: (h, w, 3) uint8 BGR picture.
        owner: (h, w) int32 index into `regions` of what is seen at a pixel; -1 where nothing is.
        regions: Everything painted so far, from back to front.
    """

    # A thing must keep this share of its pixels when another one is painted in front of it.
    MIN_VISIBLE = 0.7

    def __init__(self, size: tuple[int, int]) -> None:
        self.size = size
        self.image = np.zeros((*size, 3), np.uint8)
        self.owner = np.full(size, -1, np.int32)
        self.regions: list[Region] = []
        # A thing smaller than this could not be told from noise.
        self.min_area = max(8, min(size) ** 2 // 1600)

    def paint(
        self,
        name: str,
        layer: Layer,
        thing: bool = False,
        crowd: bool = False,
        joints: np.ndarray | None = None,
    ) -> None:
        """Put a layer in front of everything painted so far."""
        where = layer.mask > 0
        self.image[where] = layer.image[where]
        self.owner[where] = len(self.regions)
        self.regions.append(Region(name, int(where.sum()), thing, crowd, joints))

    def has_room(self, *layers: Layer) -> bool:
        """Tell whether a thing can be painted: each layer big enough, no earlier thing hidden."""
        if any(layer.mask.sum() < self.min_area for layer in layers):
            return False
        free = np.max([layer.mask for layer in layers], axis=0) == 0
        left = np.bincount(self.owner[free] + 1, minlength=len(self.regions) + 1)[1:]
        return all(
            pixels >= self.MIN_VISIBLE * region.area
            for pixels, region in zip(left, self.regions, strict=True)
            if region.thing
        )

    def shade(self, centre: Point, radius: float, squeeze: float, factor: float = 0.7) -> None:
        """Darken an ellipse of the picture: the shadow that sets a thing on the ground."""
        shadow = Layer(self.size)
        shadow.disc(centre, radius, (0, 0, 0), squeeze)
        where = shadow.mask > 0
        self.image[where] = (self.image[where] * factor).astype(np.uint8)

    def mask(self, index: int) -> np.ndarray:
        """Return the visible (h, w) uint8 mask of a region."""
        return (self.owner == index).astype(np.uint8)

    def label_map(self, labels: dict[str, int], other: int) -> np.ndarray:
        """Return the (h, w) uint8 map of class labels; names without a label become `other`."""
        table = [labels.get(region.name, other) for region in self.regions]
        return np.array([*table, other], np.uint8)[self.owner]

    def expose(self, rng: np.random.Generator) -> None:
        """Make the picture look like a photograph: texture, light, blur and sensor noise."""
        height, width = self.size
        coarse = rng.normal(0, 5, (height // 8 + 2, width // 8 + 2)).astype(np.float32)
        texture = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        picture = self.image.astype(np.float32) + texture[..., None]
        light = rng.uniform(0.75, 1.15) * rng.uniform(0.94, 1.06, 3)
        picture = cv2.GaussianBlur(picture * light, (3, 3), 0.5)
        picture += rng.normal(0, rng.uniform(2, 6), picture.shape)
        self.image = np.clip(np.rint(picture), 0, 255).astype(np.uint8)
