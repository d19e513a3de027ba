# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""dyrelu.md: what it says about static networks holds, and the counter counts right."""

import pytest
import torch
from marks import slow

pytest.importorskip('mmpose')
pytest.importorskip('mmdet')

from mmengine.analysis import FlopAnalyzer, parameter_count

from projects.counts import dyrelu as tool

MOBILENETS = (1.0, 0.75, 0.5, 0.35, 'large', 'small_early')
COCO = (1.0, 0.5, 'large', 'small_early')


@pytest.fixture
def meta():
    with torch.device('meta'):
        yield


def printed(value: float) -> float:
    return round(value, 1)


@pytest.mark.parametrize('kind', MOBILENETS)
def test_static_classifiers_fit_table_5(meta, kind):
    paper, ours = tool.PAPER_IMAGENET[kind][0], tool.imagenet(kind)
    if kind == 'large':
        # The numbers of the MobileNetV3 paper: parameters cut off after the first digit, and
        # h-swish and the products of squeeze-and-excitation counted.
        assert paper.params <= ours.params < paper.params + 0.1
        assert ours.madds + tool.elementwise(kind) == pytest.approx(paper.madds, rel=0.005)
    else:
        assert printed(ours.params) == paper.params
        assert ours.madds == pytest.approx(paper.madds, rel=0.005)


@pytest.mark.parametrize('kind', COCO)
def test_static_key_point_networks_fit_table_10(meta, kind):
    paper, ours = tool.PAPER_COCO[kind][0], tool.coco(kind)
    assert printed(ours.params) == paper.params
    assert ours.madds == pytest.approx(paper.madds, rel=0.0035)


@pytest.mark.parametrize('kind', COCO)
def test_placement_that_comes_closest_on_coco(meta, kind):
    """The page says that two MAdds in the backbone and four in the head come within 1.1 M."""
    static, dynamic = tool.PAPER_COCO[kind]
    backbone, head = tool.coco_elements(kind)
    closest = dynamic.params - static.params + 2 * backbone + 4 * head
    assert closest == pytest.approx(dynamic.madds - static.madds, abs=1.1)


def test_dynamic_classifier_by_hand(meta):
    """C -> C / R -> 2 K C with biases, K for every element, at every position."""
    static, dynamic = tool.imagenet(0.35), tool.imagenet(0.35, 3, 16)
    params = weights = elements = 0
    width, size = 16, 112  # after the stem
    layers = [(width, size)]
    for ratio, out, repeats, stride in (
        (1, 8, 1, 1),
        (6, 8, 2, 2),
        (6, 16, 3, 2),
        (6, 24, 4, 2),
        (6, 32, 3, 1),
        (6, 56, 3, 2),
        (6, 112, 1, 1),
    ):
        for i in range(repeats):
            layers += [(width * ratio, size)] * (ratio > 1)
            size //= stride if i == 0 else 1
            layers += [(width * ratio, size), (out, size)]
            width = out
    layers.append((1280, size))
    for channels, size in layers:
        hidden = max(1, channels // 16)
        weights += channels * hidden + hidden * 6 * channels
        params += hidden + 6 * channels
        elements += channels * size**2
    params += weights
    assert (dynamic.params - static.params) * 1e6 == pytest.approx(params)
    assert (dynamic.madds - static.madds) * 1e6 == pytest.approx(weights + 3 * elements)
    assert dynamic.elements * 1e6 == pytest.approx(elements)


@pytest.mark.parametrize(
    ('kind', 'variant'), [(0.5, None), (0.5, 'B'), (0.5, 'C'), ('small_early', None)]
)
def test_counter_agrees_with_mmengine(kind, variant):
    """MMEngine's analysis, at a size that is quick to trace."""
    act = tool.dyrelu(variant) if variant else {}
    model = tool.pose_estimator(kind, act, act).eval()
    size = (64, 64)

    analyzer = FlopAnalyzer(model, (torch.zeros(1, 3, *size),))
    analyzer.unsupported_ops_warnings(False).tracer_warnings('none')
    with torch.no_grad():
        by_operator = analyzer.by_operator()
    params = parameter_count(model)['']
    expected = (
        by_operator['conv']
        + by_operator['upsample_bilinear2d'] / 2  # MMEngine has four for an element
        + by_operator['linear']
        + by_operator['dyrelu']
        + by_operator['dyrelu_squeeze']
    )
    ours = tool.count(model.to('meta'), size)
    assert ours.madds * 1e6 == pytest.approx(expected, abs=0.5)
    assert ours.params * 1e6 == pytest.approx(params)


@slow
def test_the_page_is_current():
    assert tool.PAGE.read_text(encoding='utf-8') == tool.page()
