# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0

import pytest


@pytest.fixture(params=['cpu', pytest.param('cuda', marks=pytest.mark.cuda)])
def device(request):
    """Where an op's test runs."""
    return request.param
