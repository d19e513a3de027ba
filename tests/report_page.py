# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Reads what write_report has written."""

import base64
import json
import re
import zlib
from pathlib import Path

import numpy as np


class Page:
    """What a page holds, read as the page reads it."""

    def __init__(self, path: Path) -> None:
        self.text = path.read_text()
        self.meta = json.loads(self._script('application/json" id="meta'))
        self.bytes = zlib.decompress(base64.b64decode(self._script('text/plain" id="blob')))
        self.layers = {layer['name']: layer for layer in self.meta['layers']}

    def _script(self, kind: str) -> str:
        return re.search(f'<script type="{kind}">(.*?)</script>', self.text, re.S)[1]

    def array(self, layer: str, name: str) -> np.ndarray:
        offset, bits, shape, low, high = self.layers[layer][name]
        codes = np.frombuffer(self.bytes, f'<u{bits // 8}', int(np.prod(shape)), offset)
        top = 2**bits - 1
        values = low + codes * (high - low) / (top - 1)
        return np.where(codes == top, np.nan, values).reshape(shape)
