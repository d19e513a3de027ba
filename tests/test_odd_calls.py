# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""A call with odd arguments works, or says which argument is wrong. `make soak` tries 10,000."""

import pytest
from odd_calls import complaints, targets, try_one


@pytest.mark.parametrize('seed', range(4))
def test_odd_arguments(seed):
    found = complaints(120, seed)
    assert not found, '\n'.join(found)


@pytest.mark.parametrize('name', targets())
def test_arguments_that_work(name):
    """Without them a refusal would say nothing."""
    assert try_one(name, targets()[name], {}) is None
