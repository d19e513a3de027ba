# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Drawings of single objects. Each paints into a `Layer`; sizes and places are in pixels."""

import cv2
import numpy as np

from .canvas import Layer, Point, hsv, shaded

WHITE, BLACK, GREY = (245, 245, 245), (25, 25, 25), (120, 120, 120)

# Rows of a person's joints in COCO's order. SHOULDER to ANKLE are the left ones, one row before
# their right counterparts.
NUM_JOINTS = 17
NOSE, LEFT_EYE, RIGHT_EYE, LEFT_EAR, RIGHT_EAR = range(5)
SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE = range(5, NUM_JOINTS, 2)


def _ray(length: float, degrees: float) -> np.ndarray:
    """Vector of a length; 0 degrees points down the picture, 90 degrees to its right."""
    angle = np.deg2rad(degrees)
    return length * np.array([np.sin(angle), np.cos(angle)])


def _pose(rng: np.random.Generator, front: bool) -> tuple[np.ndarray, np.ndarray]:
    """Draw a pose of a person of height 1 whose hips are centred at the origin.

    Returns:
        (17, 3) joints (the flag is 0 where the head hides the joint) and the head's centre.
    """
    joints = np.ones((NUM_JOINTS, 3))
    neck = _ray(0.31, 180 + rng.uniform(-10, 10))
    # Seen from the front, a person's left is on the right of the picture.
    for right, side in enumerate((1, -1) if front else (-1, 1)):
        thigh = rng.uniform(-2, 28)
        shank = thigh - rng.uniform(0, 22)
        upper_arm = rng.uniform(14, 60) if rng.random() < 0.7 else rng.uniform(60, 140)
        forearm = upper_arm + rng.uniform(-20, 60)
        shoulder, hip = neck + (side * 0.125, 0.02), np.array([side * 0.075, 0])
        elbow, knee = shoulder + _ray(0.16, side * upper_arm), hip + _ray(0.22, side * thigh)
        wrist, ankle = elbow + _ray(0.15, side * forearm), knee + _ray(0.22, side * shank)
        places = zip(
            (SHOULDER, ELBOW, WRIST, HIP, KNEE, ANKLE),
            (shoulder, elbow, wrist, hip, knee, ankle),
            strict=True,
        )
        for joint, place in places:
            joints[joint + right, :2] = place
    head = neck - (0, 0.13)
    outward = 1 if front else -1
    turn = rng.uniform(-0.4, 0.4)
    joints[NOSE, :2] = head + (turn * 0.1, 0.02)
    joints[[LEFT_EYE, RIGHT_EYE], :2] = head + np.array(
        [[outward * 0.038 + turn * 0.08, -0.02], [-outward * 0.038 + turn * 0.08, -0.02]]
    )
    joints[[LEFT_EAR, RIGHT_EAR], :2] = head + np.array(
        [[outward * 0.085, 0], [-outward * 0.085, 0]]
    )
    if not front:
        joints[[NOSE, LEFT_EYE, RIGHT_EYE], 2] = 0
    elif abs(turn) > 0.2:
        # Turned to the picture's right, the head hides the ear on that side, the left one.
        joints[LEFT_EAR if turn > 0 else RIGHT_EAR, 2] = 0
    return joints, head


def person(layer: Layer, rng: np.random.Generator, feet: Point, height: float) -> np.ndarray:
    """Draw a person seen from the front or from behind, in a random pose and clothes.

    Left and right are told apart as on real people, by the face or the back of the head, and never
    by the colour of a limb: a mirrored picture with left and right exchanged is a valid picture
    again, which is what flip augmentation assumes.

    Args:
        layer: What to draw on.
        rng: Source of pose and clothes.
        feet: (x, y) of the lower foot, below the middle of the hips.
        height: About the length from the feet to the top of the head.

    Returns:
        (17, 3) joints in COCO's order: the pixel x, y drawn, and 1, or 0 where the person's own
        head hides the joint.
    """
    front = rng.random() < 0.75
    joints, head = _pose(rng, front)
    origin = np.array(feet) - (0, height * (joints[ANKLE:, 1].max() + 0.02))
    joints[:, :2] = np.rint(joints[:, :2] * height + origin)
    head = head * height + origin
    at = joints[:, :2]

    skin = hsv(rng.uniform(14, 30), rng.uniform(0.3, 0.6), rng.uniform(0.5, 0.95))
    hair = hsv(rng.uniform(15, 40), rng.uniform(0.4, 0.8), rng.uniform(0.1, 0.4))
    shirt = hsv(rng.uniform(0, 360), rng.uniform(0.6, 0.95), rng.uniform(0.7, 1))
    trousers = hsv(rng.uniform(200, 260), rng.uniform(0.3, 0.8), rng.uniform(0.2, 0.5))
    arm, leg = 0.075 * height, 0.1 * height
    for i in (0, 1):
        layer.limb(at[HIP + i], at[KNEE + i], leg, trousers)
        layer.limb(at[KNEE + i], at[ANKLE + i], 0.9 * leg, trousers)
        layer.disc(at[ANKLE + i], 0.055 * height, BLACK, 0.7)
    layer.limb(at[SHOULDER:ELBOW].mean(0), head, arm, skin)
    layer.polygon(at[[SHOULDER, SHOULDER + 1, HIP + 1, HIP]], shirt)
    for a, b in ((SHOULDER, SHOULDER + 1), (SHOULDER, HIP), (SHOULDER + 1, HIP + 1)):
        layer.limb(at[a], at[b], 0.08 * height, shirt)
    layer.limb(at[HIP], at[HIP + 1], 0.08 * height, trousers)
    for i in (0, 1):
        layer.limb(at[SHOULDER + i], at[ELBOW + i], 1.1 * arm, shaded(shirt, 0.75))
        layer.limb(at[ELBOW + i], at[WRIST + i], arm, skin)
        layer.disc(at[WRIST + i], 0.045 * height, skin)

    radius = 0.085 * height
    layer.disc(head, 1.05 * radius, hair, 1.25)
    for ear in at[[LEFT_EAR, RIGHT_EAR]]:
        layer.disc(ear, 0.25 * radius, skin)
    if front:
        layer.disc((at[NOSE] + head) / 2 + (0, 0.25 * radius), 0.85 * radius, skin, 1.15)
        for eye in at[[LEFT_EYE, RIGHT_EYE]]:
            layer.disc(eye, 0.16 * radius, BLACK)
        layer.disc(at[NOSE], 0.14 * radius, shaded(skin, 0.6), 1.6)
    return joints


def car(layer: Layer, rng: np.random.Generator, base: Point, width: float) -> None:
    """Draw a car from the side; `base` is the middle of the line its wheels stand on."""
    paint = hsv(rng.uniform(0, 360), rng.uniform(0.5, 0.95), rng.uniform(0.5, 1))
    facing = rng.choice((-1, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        return base[0] + facing * x * width, base[1] - y * width

    layer.polygon(
        [
            at(-0.5, 0.07),
            at(-0.5, 0.22),
            at(-0.44, 0.25),
            at(0.3, 0.25),
            at(0.46, 0.21),
            at(0.5, 0.17),
            at(0.5, 0.07),
        ],
        paint,
    )
    layer.polygon([at(-0.4, 0.25), at(-0.28, 0.41), at(0.1, 0.41), at(0.27, 0.25)], paint)
    glass = hsv(205, 0.35, 0.75)
    layer.polygon([at(-0.31, 0.26), at(-0.24, 0.37), at(-0.09, 0.37), at(-0.09, 0.26)], glass)
    layer.polygon([at(-0.05, 0.26), at(-0.05, 0.37), at(0.08, 0.37), at(0.19, 0.26)], glass)
    layer.disc(at(0.47, 0.175), 0.02 * width, hsv(55, 0.4, 1))
    layer.disc(at(-0.48, 0.19), 0.02 * width, hsv(0, 0.9, 0.8))
    for x in (-0.29, 0.3):
        layer.disc(at(x, 0.09), 0.095 * width, BLACK)
        layer.disc(at(x, 0.09), 0.045 * width, (190, 190, 190))


def car_from_behind(layer: Layer, rng: np.random.Generator, base: Point, width: float) -> None:
    """Draw a car from behind; `base` is the middle of the line its wheels stand on."""
    paint = hsv(rng.uniform(0, 360), rng.uniform(0.5, 0.95), rng.uniform(0.5, 1))

    def at(x: float, y: float) -> tuple[float, float]:
        return base[0] + x * width, base[1] - y * width

    for x in (-0.36, 0.36):
        layer.box(*at(x - 0.1, 0.2), *at(x + 0.1, 0), BLACK)
    layer.polygon([at(-0.5, 0.12), at(-0.48, 0.48), at(0.48, 0.48), at(0.5, 0.12)], paint)
    layer.polygon([at(-0.43, 0.48), at(-0.33, 0.78), at(0.33, 0.78), at(0.43, 0.48)], paint)
    layer.polygon(
        [at(-0.36, 0.5), at(-0.29, 0.72), at(0.29, 0.72), at(0.36, 0.5)], hsv(205, 0.35, 0.6)
    )
    layer.box(*at(-0.16, 0.33), *at(0.16, 0.22), WHITE)
    for x in (-0.4, 0.4):
        layer.box(*at(x - 0.07, 0.44), *at(x + 0.07, 0.33), hsv(0, 0.95, 0.9))


def ball(layer: Layer, rng: np.random.Generator, centre: Point, radius: float) -> None:
    """Draw a white ball with dark patches."""
    layer.disc(centre, radius, WHITE)
    spin = rng.uniform(0, 72)
    layer.disc(centre, 0.34 * radius, BLACK)
    for i in range(5):
        layer.disc(np.array(centre) + _ray(0.74 * radius, spin + 72 * i), 0.2 * radius, BLACK)


def kite(layer: Layer, rng: np.random.Generator, centre: Point, radius: float) -> None:
    """Draw a diamond of two colours in four panels, with a tail."""
    hue, tilt = rng.uniform(0, 360), rng.uniform(-40, 40)
    one, two = hsv(hue, 0.9, 1), hsv(hue + rng.uniform(100, 260), 0.9, 0.95)
    centre = np.array(centre)
    bottom, right, top, left = (
        centre + _ray(length * radius, tilt + angle)
        for length, angle in ((1.15, 0), (0.75, 90), (0.85, 180), (0.75, 270))
    )
    tail = bottom + _ray(0.75 * radius, tilt + rng.uniform(-40, 40))
    layer.limb(bottom, tail, 0.16 * radius, two)
    for a, b, colour in (
        (top, right, one),
        (right, bottom, two),
        (bottom, left, one),
        (left, top, two),
    ):
        layer.polygon([centre, a, b], colour)


def stop_sign(layer: Layer, centre: Point, radius: float) -> None:
    """Draw a red octagon with a white rim and the word on it, or a bar where it is too small."""
    for size, colour in ((1, WHITE), (0.86, hsv(355, 0.9, 0.8))):
        layer.polygon(
            [np.array(centre) + _ray(size * radius, 22.5 + 45 * i) for i in range(8)], colour
        )
    scale = radius / 28
    if radius < 13:
        x, y = centre
        layer.box(x - 0.5 * radius, y - 0.12 * radius, x + 0.5 * radius, y + 0.12 * radius, WHITE)
        return
    thickness = max(1, round(2 * scale))
    (width, height), _ = cv2.getTextSize('STOP', cv2.FONT_HERSHEY_SIMPLEX, 0.54 * scale, thickness)
    origin = round(centre[0] - width / 2), round(centre[1] + height / 2)
    cv2.putText(
        layer.image, 'STOP', origin, cv2.FONT_HERSHEY_SIMPLEX, 0.54 * scale, WHITE, thickness
    )


def traffic_light(layer: Layer, rng: np.random.Generator, centre: Point, radius: float) -> None:
    """Draw a dark case, `radius` being half its height, with one of three lamps lit."""
    x, y = centre
    layer.box(x - 0.42 * radius, y - radius, x + 0.42 * radius, y + radius, (35, 45, 40))
    lit = rng.integers(3)
    for i, hue in enumerate((0, 45, 130)):
        lamp = hsv(hue, 0.9, 1 if i == lit else 0.3)
        layer.disc((x, y + (i - 1) * 0.62 * radius), 0.26 * radius, lamp)


def pole(layer: Layer, foot: Point, top: float) -> None:
    """Draw a grey pole from its foot up to the row `top`."""
    layer.limb(foot, (foot[0], top), 0.05 * (foot[1] - top), GREY)


def tree(layer: Layer, rng: np.random.Generator, foot: Point, height: float) -> None:
    """Draw a trunk and a crown of several shades of green."""
    x, y = foot
    layer.limb(foot, (x, y - 0.6 * height), 0.11 * height, hsv(28, 0.5, 0.35))
    green = hsv(rng.uniform(85, 135), rng.uniform(0.5, 0.8), rng.uniform(0.3, 0.55))
    for angle in rng.uniform(0, 360, 7):
        spot = (x, y - 0.66 * height) + _ray(0.17 * height, angle)
        layer.disc(spot, 0.2 * height, shaded(green, rng.uniform(0.8, 1.25)))


def building(
    layer: Layer, rng: np.random.Generator, left: float, base: float, width: float, height: float
) -> None:
    """Draw a front with rows of windows; (left, base) is its lower left corner."""
    wall = hsv(rng.uniform(0, 50), rng.uniform(0.1, 0.5), rng.uniform(0.45, 0.85))
    layer.box(left, base - height, left + width, base, wall)
    window = shaded(wall, 0.45) if rng.random() < 0.7 else hsv(50, 0.4, 0.95)
    columns, rows = rng.integers(2, 5), rng.integers(2, 6)
    pitch_x, pitch_y = width / columns, height / rows
    for column in range(columns):
        for row in range(rows):
            x, y = left + (column + 0.25) * pitch_x, base - height + (row + 0.25) * pitch_y
            layer.box(x, y, x + 0.5 * pitch_x, y + 0.5 * pitch_y, window)
