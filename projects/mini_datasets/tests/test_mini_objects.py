# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The drawings themselves: joints, occlusion and what a scene promises."""

import numpy as np
import pytest

from projects.mini_datasets.canvas import Layer, Scene
from projects.mini_datasets.objects import (
    ANKLE,
    BLACK,
    ELBOW,
    KNEE,
    LEFT_EAR,
    LEFT_EYE,
    NOSE,
    RIGHT_EAR,
    RIGHT_EYE,
    SHOULDER,
    WRIST,
    person,
)
from projects.mini_datasets.scene import COUNTS, draw_scene


def _people(number=40, size=(420, 420)):
    for seed in range(number):
        layer = Layer(size)
        yield layer, person(layer, np.random.default_rng(seed), (size[1] / 2, 400), 320)


def test_joints_are_where_they_are_drawn():
    views = set()
    for layer, joints in _people():
        at = joints.astype(int)
        assert all(layer.mask[y, x] for x, y, _ in at)
        assert (joints[:, :2] == at[:, :2]).all()
        colour = [tuple(layer.image[y, x].tolist()) for x, y, _ in at]
        # Nothing but the head is drawn over the hands.
        assert colour[WRIST] == colour[WRIST + 1]
        seen = joints[[NOSE, LEFT_EYE, RIGHT_EYE], 2]
        front = bool(seen.all())
        assert front or not seen.any()
        views.add(front)
        if front:
            assert colour[LEFT_EYE] == colour[RIGHT_EYE] == BLACK
            assert colour[NOSE] != BLACK
    assert views == {True, False}


def test_left_is_right_in_the_picture_exactly_when_the_face_is_seen():
    for _, joints in _people():
        side = 1 if joints[NOSE, 2] else -1
        for left in (SHOULDER, ELBOW, KNEE, ANKLE):
            assert side * (joints[left, 0] - joints[left + 1, 0]) > 0
        assert side * (joints[LEFT_EAR, 0] - joints[RIGHT_EAR, 0]) > 0


def test_no_limb_is_marked_as_left_by_its_colour():
    # Flip augmentation exchanges left and right, so their looks may not differ.
    for layer, joints in _people():
        (left, row), (right, other_row) = joints[KNEE : KNEE + 2, :2].astype(int)
        assert (layer.image[row, left] == layer.image[other_row, right]).all()


def test_paint_in_front_takes_the_pixels():
    scene = Scene((40, 40))
    back, front = Layer(scene.size), Layer(scene.size)
    back.box(0, 0, 39, 39, (10, 20, 30))
    front.box(5, 6, 14, 9, (200, 100, 50))
    scene.paint('sky', back)
    scene.paint('car', front, thing=True)
    assert scene.mask(1).sum() == 40
    assert scene.mask(1)[6:10, 5:15].all()
    assert scene.mask(0).sum() == 1600 - 40
    assert scene.image[6, 5].tolist() == [200, 100, 50]
    assert scene.label_map({'car': 7}, other=3)[[0, 6], [0, 5]].tolist() == [3, 7]


def test_a_thing_may_not_be_hidden_by_more_than_a_part():
    scene = Scene((40, 40))
    car = Layer(scene.size)
    car.box(0, 0, 19, 9, (200, 100, 50))
    scene.paint('car', car, thing=True)
    a_fifth, a_half, nothing = (Layer(scene.size) for _ in range(3))
    a_fifth.box(0, 0, 3, 9, (0, 0, 0))
    a_half.box(0, 0, 9, 9, (0, 0, 0))
    assert scene.has_room(a_fifth)
    assert not scene.has_room(a_half)
    assert not scene.has_room(nothing)


@pytest.mark.parametrize('size', [(32, 32), (48, 200), (300, 64)])
@pytest.mark.parametrize('place', ['park', 'beach', 'street'])
def test_scenes_of_any_shape(size, place):
    for seed in range(6):
        scene = draw_scene(np.random.default_rng(seed), size, [place], list(COUNTS), crowd=True)
        assert scene.image.shape == (*size, 3)
        assert scene.image.dtype == np.uint8
        assert (scene.owner >= 0).all()
        assert sum(region.crowd for region in scene.regions) == 1
        for index, region in enumerate(scene.regions):
            if region.thing:
                assert scene.mask(index).sum() >= scene.MIN_VISIBLE * region.area > 0


def test_large_pictures_have_small_things_too():
    areas = []
    for seed in range(12):
        scene = draw_scene(np.random.default_rng(seed), (600, 800), ['park'], ['kite'])
        areas += [region.area for region in scene.regions if region.thing]
    assert min(areas) < 32**2 < max(areas)
