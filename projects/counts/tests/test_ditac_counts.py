# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""ditac.md: what it says about the paper's Table 10 holds, and the page is current."""

import pytest
from marks import slow

pytest.importorskip('mmpretrain')

from projects.counts import ditac as tool

# In one process, which counts each network once.
pytestmark = pytest.mark.xdist_group('ditac_counts')


@slow
def test_convnext_by_hand():
    """Blocks of 7x7 depthwise convolution and two linear layers, 4 C between them, with a scale."""
    params = madds = elements = blocks = 0
    channels_before, size = 3, 224
    for depth, channels in zip((3, 3, 27, 3), (96, 192, 384, 768), strict=True):
        kernel = 4 if channels_before == 3 else 2
        size //= kernel
        weights = kernel**2 * channels_before * channels
        # Each down-sampling has a layer norm, after it in the stem and else before it.
        norm = 2 * (channels if channels_before == 3 else channels_before)
        params += weights + channels + norm
        madds += weights * size**2
        block = 49 * channels + 8 * channels**2
        madds += depth * block * size**2
        params += depth * (block + channels + 2 * channels + 4 * channels + channels + channels)
        elements += depth * 4 * channels * size**2
        blocks += depth
        channels_before = channels
    params += 2 * 768 + 50 * 769
    madds += 50 * 768
    static, ditac = tool.static('ConvNeXt-S', 50), tool.ditac('ConvNeXt-S', 50, tool.ALL)
    assert static.params * 1e6 == pytest.approx(params, abs=0.5)
    assert static.madds * 1e6 == pytest.approx(madds, abs=0.5)
    assert ditac.elements * 1e6 == pytest.approx(elements, abs=0.5)
    exact = tool.PER_ELEMENT['exact'] * ditac.elements
    assert ditac.madds - static.madds == pytest.approx(exact, abs=1e-6)
    assert (ditac.params - static.params) * 1e6 == pytest.approx(9 * blocks, abs=0.5)


def test_elements_of_mobilenet_by_hand():
    """Stem, after expansion and depthwise convolution of each block, last, and classifier."""
    # The first block has no expansion.
    relu = 16 * 56**2 + 72 * (56**2 + 28**2) + 88 * 2 * 28**2
    hswish = 16 * 112**2 + 96 * (28**2 + 14**2) + (240 + 240 + 120 + 144) * 2 * 14**2
    hswish += 288 * (14**2 + 7**2) + 2 * 576 * 2 * 7**2 + 576 * 7**2 + 1024
    replaced = tool.ditac('MobileNetV3', 50, tool.HSWISH)
    assert replaced.elements * 1e6 == pytest.approx(hswish, abs=0.5)
    everything = tool.ditac('MobileNetV3', 50, tool.ALL).elements * 1e6
    assert everything == pytest.approx(hswish + relu, abs=0.5)
    added = replaced.params - tool.static('MobileNetV3', 50).params
    assert added * 1e6 == pytest.approx(9 * 19, abs=0.5)


@slow
def test_table_10():
    """Rounded as the paper prints them; FLOPs as the page explains them."""
    small, large = tool.static('MobileNetV3', 50), tool.static('ConvNeXt-S', 50)
    (plain, ditac), other = tool.PAPER['MobileNetV3'], tool.other_elements()
    assert round(small.params, 2) == plain.params == ditac.params
    assert round(tool.ditac('MobileNetV3', 50, tool.HSWISH).params, 2) == ditac.params
    assert round(small.madds + other.normalised + other.gated, 1) == plain.madds
    hswish = tool.ditac('MobileNetV3', 50, tool.HSWISH).elements
    assert round(4 * hswish, 1) == pytest.approx(ditac.madds - plain.madds)
    plain, ditac = tool.PAPER['ConvNeXt-S']
    assert round(large.params, 1) == plain.params == ditac.params
    assert large.madds // 100 * 100 == plain.madds
    elements = tool.ditac('ConvNeXt-S', 50, tool.ALL).elements
    assert (large.madds + 4 * elements) // 100 * 100 == ditac.madds
    # With the 1000 classes of ImageNet-1K neither fits.
    assert round(tool.static('MobileNetV3', 1000).params, 2) == 2.54
    assert round(tool.static('ConvNeXt-S', 1000).params, 1) == 50.2


@slow
def test_the_page_is_current():
    assert tool.PAGE.read_text(encoding='utf-8') == tool.page()
