# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0

import pytest

from .utils import GPU


@pytest.fixture(params=['cpu', pytest.param(GPU, marks=pytest.mark.cuda, id='cuda')])
def device(request):
    """Where an op's test runs."""
    return request.param
