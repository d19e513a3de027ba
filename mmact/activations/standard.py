# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own activations under the names that configs use."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn


class Softplus(nn.Softplus):
    """PyTorch's Softplus, which can be built by mmcv's ConvModule.

    Args:
        beta: Factor beta of ``log(1 + exp(beta * x)) / beta``.
        threshold: Above this value of ``beta * x`` the function is x.
        inplace: Accepted because mmcv's ConvModule passes it; there is no in-place form.

    Shape:
        Input and output: any shape.
    """

    def __init__(self, beta: float = 1.0, threshold: float = 20.0, inplace: bool = False) -> None:
        super().__init__(beta, threshold)


@dataclass(frozen=True)
class StandardActivation:
    """An activation of PyTorch.

    Args:
        cls: Class that is built where mmcv has none of this name.
        paper: Where it comes from.
        description: The function, in one line.
        parameter_count: Number of parameters, and what has that many of its own.
    """

    cls: type[nn.Module]
    paper: str
    description: str
    parameter_count: tuple[int, str] = (0, '')


#: By the name in configs. Most are mmcv's names, too, and there mean the same function.
STANDARD: dict[str, StandardActivation] = {
    'CELU': StandardActivation(
        nn.CELU,
        'Barron, Continuously Differentiable Exponential Linear Units, 2017',
        'x from 0 on, alpha * (exp(x / alpha) - 1) below',
    ),
    'ELU': StandardActivation(
        nn.ELU,
        'Clevert, Unterthiner, Hochreiter, Fast and Accurate Deep Network Learning by Exponential '
        'Linear Units, ICLR 2016',
        'x from 0 on, alpha * (exp(x) - 1) below',
    ),
    'GELU': StandardActivation(
        nn.GELU,
        'Hendrycks, Gimpel, Gaussian Error Linear Units, 2016',
        'x times the standard normal distribution function of x',
    ),
    'LeakyReLU': StandardActivation(
        nn.LeakyReLU,
        'Maas, Hannun, Ng, Rectifier Nonlinearities Improve Neural Network Acoustic Models, 2013',
        'x from 0 on, negative_slope * x (0.01 by default) below',
    ),
    'Mish': StandardActivation(
        nn.Mish,
        'Misra, Mish: A Self Regularized Non-Monotonic Activation Function, BMVC 2020',
        'x * tanh(softplus(x))',
    ),
    'PReLU': StandardActivation(
        nn.PReLU,
        'He, Zhang, Ren, Sun, Delving Deep into Rectifiers, ICCV 2015',
        'x from 0 on, a learned slope times x below; num_parameters=C: a slope for each channel',
        (1, 'layer'),
    ),
    'RReLU': StandardActivation(
        nn.RReLU,
        'Xu, Wang, Chen, Li, Empirical Evaluation of Rectified Activations in Convolutional '
        'Network, 2015',
        'x from 0 on, a slope drawn for each element in training times x below',
    ),
    'ReLU': StandardActivation(
        nn.ReLU,
        'Nair, Hinton, Rectified Linear Units Improve Restricted Boltzmann Machines, ICML 2010',
        'max(0, x)',
    ),
    'ReLU6': StandardActivation(
        nn.ReLU6,
        'Krizhevsky, Convolutional Deep Belief Networks on CIFAR-10, 2010',
        'min(max(0, x), 6)',
    ),
    'SELU': StandardActivation(
        nn.SELU,
        'Klambauer, Unterthiner, Mayr, Hochreiter, Self-Normalizing Neural Networks, NIPS 2017',
        'ELU times a constant, both constants chosen so that activations normalise themselves',
    ),
    'SiLU': StandardActivation(
        nn.SiLU,
        'Elfwing, Uchibe, Doya, Sigmoid-Weighted Linear Units for Neural Network Function '
        'Approximation in Reinforcement Learning, 2017',
        'x * sigmoid(x)',
    ),
    'Sigmoid': StandardActivation(nn.Sigmoid, '', '1 / (1 + exp(-x))'),
    'Softplus': StandardActivation(
        Softplus,
        'Dugas, Bengio, Belisle, Nadeau, Garcia, Incorporating Second-Order Functional Knowledge '
        'for Better Option Pricing, NIPS 2000',
        'log(1 + exp(beta * x)) / beta',
    ),
    'Swish': StandardActivation(
        nn.SiLU,
        'Ramachandran, Zoph, Le, Searching for Activation Functions, 2017',
        'x * sigmoid(x); the same function as SiLU',
    ),
    'Tanh': StandardActivation(nn.Tanh, '', 'tanh(x)'),
}
