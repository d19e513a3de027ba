# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Mix-ins with which ResNets of MMDetection and MMSegmentation take ``act_cfg``.

Both codebases' blocks call one ReLU two or three times, at places of different width and
distribution. These mix-ins, put before a codebase's class, give every place a module of its own.
All other modules keep their names, so that checkpoints and ImageNet weights load.
"""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ...activations import norm_act
from ...ops._arguments import indices, integer
from ..activation import build_activation

#: In place of the codebase's class, which each mix-in is put before.
_Codebase: Any = object


class _Residual(_Codebase):
    """A residual block: ``last(norm(branch(x)) + shortcut(x))``.

    The sum can be recomputed in backward instead of kept.
    """

    def _branch(self, x: Tensor) -> Tensor:
        """The result of the last convolution."""
        raise NotImplementedError

    def _shortcut(self, x: Tensor) -> Tensor:
        return x if self.downsample is None else self.downsample(x)

    def _sum(self, x: Tensor, norm: nn.Module) -> Tensor:
        out = self._plugins(norm(self._branch(x)), 'after_conv3')
        out += self._shortcut(x)
        return out

    def _plugins(self, x: Tensor, position: str) -> Tensor:
        if not getattr(self, 'with_plugins', False):
            return x
        return self.forward_plugin(x, getattr(self, f'{position}_plugin_names'))

    def _residual(self, x: Tensor, norm: nn.Module, act: nn.Module) -> Tensor:
        if self.with_cp and x.requires_grad:
            return act(checkpoint(self._sum, x, norm, use_reentrant=False))
        if getattr(self, 'with_plugins', False):
            return act(self._sum(x, norm))
        return norm_act(norm, act, self._branch(x), self._shortcut(x))


class BasicBlockMixin(_Residual):
    """The block of ResNet-18 and 34, with activations ``act1`` and ``act2``.

    Args:
        inplanes: Channels of the input.
        planes: Channels of both convolutions.
        act_cfg: Config of the activations.
        **kwargs: As in the codebase's BasicBlock.
    """

    def __init__(self, inplanes: int, planes: int, act_cfg: dict, **kwargs) -> None:
        super().__init__(inplanes, planes, **kwargs)
        del self.relu
        self.act1 = build_activation(act_cfg, planes)
        self.act2 = build_activation(act_cfg, planes)

    def _branch(self, x: Tensor) -> Tensor:
        return self.conv2(norm_act(self.norm1, self.act1, self.conv1(x)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inplanes, H, W) to (B, planes, H / stride, W / stride)."""
        return self._residual(x, self.norm2, self.act2)


class BottleneckMixin(_Residual):
    """The block of ResNet-50, 101 and 152, with activations ``act1``, ``act2`` and ``act3``.

    Args:
        inplanes: Channels of the input.
        planes: Channels of the first two convolutions; the third has four times as many.
        act_cfg: Config of the activations.
        **kwargs: As in the codebase's Bottleneck.
    """

    def __init__(self, inplanes: int, planes: int, act_cfg: dict, **kwargs) -> None:
        super().__init__(inplanes, planes, **kwargs)
        del self.relu
        self.act1 = build_activation(act_cfg, planes)
        self.act2 = build_activation(act_cfg, planes)
        self.act3 = build_activation(act_cfg, planes * self.expansion)

    def _branch(self, x: Tensor) -> Tensor:
        out = norm_act(self.norm1, self.act1, self.conv1(x))
        out = self._plugins(out, 'after_conv1')
        out = norm_act(self.norm2, self.act2, self.conv2(out))
        return self.conv3(self._plugins(out, 'after_conv2'))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inplanes, H, W) to (B, 4 * planes, H / stride, W / stride)."""
        return self._residual(x, self.norm3, self.act3)


def _integers(owner: str, depth: int, given: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Raises a ValueError for what the codebases take for a number and fail on later, or never.

    What they refuse themselves they go on refusing with errors of their own.

    Returns:
        The arguments with Python's integers.
    """
    found = dict(given)
    last = found['num_stages'] = integer(owner, 'num_stages', given.get('num_stages', 4))
    for name in ('in_channels', 'stem_channels', 'base_channels'):
        if name in given and not (name == 'stem_channels' and given[name] is None):
            found[name] = integer(owner, name, given[name], 1)
    frozen = given.get('frozen_stages', -1)
    found['frozen_stages'] = integer(owner, 'frozen_stages', frozen, -1, max(last, 0))
    for name, low in (('strides', 1), ('dilations', 1), ('out_indices', 0)):
        if name in given:
            found[name] = indices(owner, name, given[name], low)
    return integer(owner, 'depth', depth), found


class ResNetMixin(_Codebase):
    """A ResNet built from the blocks in ``blocks``, with its stem's activations.

    Args:
        depth: 18, 34, 50, 101 or 152.
        act_cfg: Config of the activations; ReLU by default.
        **kwargs: All other arguments of the codebase's ResNet.
    """

    # The codebase's block, and the one with activations that takes its place.
    blocks: dict[type[nn.Module], type[nn.Module]]

    def __init__(self, depth: int, act_cfg: dict | None = None, **kwargs) -> None:
        depth, kwargs = _integers(type(self).__name__, depth, kwargs)
        # Needed by the methods that the parent's constructor calls.
        self.act_cfg = act_cfg or dict(type='ReLU', inplace=True)
        super().__init__(depth=depth, **kwargs)

    def make_res_layer(self, block: type[nn.Module], **kwargs) -> nn.Module:
        """Builds one stage from the block with activations of the same kind."""
        return super().make_res_layer(block=self.blocks[block], act_cfg=self.act_cfg, **kwargs)

    def _make_stem_layer(self, in_channels: int, stem_channels: int) -> None:
        super()._make_stem_layer(in_channels, stem_channels)
        if self.deep_stem:
            for i, layer in enumerate(self.stem):
                if isinstance(layer, nn.ReLU):
                    width = self.stem[i - 2].out_channels
                    self.stem[i] = build_activation(self.act_cfg, width)
        else:
            del self.relu
            self.act1 = build_activation(self.act_cfg, stem_channels)

    def _freeze_stages(self) -> None:
        super()._freeze_stages()
        if self.frozen_stages >= 0 and not self.deep_stem:
            self.act1.eval()
            self.act1.requires_grad_(False)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Computes the feature maps of the stages in ``out_indices`` from images (B, 3, H, W)."""
        x = self.stem(x) if self.deep_stem else norm_act(self.norm1, self.act1, self.conv1(x))
        x = self.maxpool(x)
        outs = []
        for i, name in enumerate(self.res_layers):
            x = getattr(self, name)(x)
            if i in self.out_indices:
                outs.append(x)
        return tuple(outs)
