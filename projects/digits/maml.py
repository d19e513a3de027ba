# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Few-shot learning of digits by MAML with different activations.

Table 3 of the AReLU paper (section 4.5): MNIST-Conv learns a start from which 5 steps of gradient
descent tell 5 classes apart by 1 or by 5 examples of each; 32 tasks an iteration, 100 iterations
with a learning rate of 0.005. The rest is that of learn2learn's example for MNIST, as that learning
rate, these steps and this number of tasks are: Adam, 0.01 in the inner steps (the authors' program
has 0.005: --inner-lr), as many other examples of each class to be judged by, 5 outputs, and pixels
of mean 0 and standard deviation 1. A task is 5 of the 10 digits, in any order. Gradients go through
the inner steps: second order.

Test tasks are made of test digits, ten times as many as an iteration has. The authors' program
prints the best accuracy of the 100 iterations on their own 32 tasks, of training digits; Table 3's
of 1 shot are whole numbers of the 160 examples of such an iteration. Run it again to continue after
an interruption; results are in a file of this folder.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F

from mmact.cli import one_line_errors

from .data import Digits, load_digits
from .journal import Journal, complete, format_mean, positive, study_parser
from .training import MNISTConv, check_activations

RESULTS = Path(__file__).with_name('maml.jsonl')
WAYS, STEPS, LR = 5, 5, 0.005
#: Table 3, by shots.
PAPER = {
    'ELU': {1: 82.50, 5: 94.30},
    'GELU': {1: 81.88, 5: 69.37},
    'Maxout': {1: 83.13, 5: 93.12},
    'ReLU': {1: 70.00, 5: 78.00},
    'SELU': {1: 83.75, 5: 93.50},
    'Softplus': {1: 25.63, 5: 22.12},
    'APL': {1: 71.25, 5: 63.00},
    'Comb': {1: 75.63, 5: 88.25},
    'PAU': {1: 43.13, 5: 40.12},
    'PReLU': {1: 88.13, 5: 91.75},
    'SLAF': {1: 84.38, 5: 77.00},
    'AReLU': {1: 92.50, 5: 94.30},
}


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parses the command line."""
    parser = study_parser(__doc__, RESULTS, [*PAPER, 'PWLU'])
    parser.add_argument(
        '--shots',
        nargs='+',
        type=positive(int),
        default=[1, 5],
        help='examples of each class (default: 1 5)',
    )
    parser.add_argument(
        '--iterations', type=positive(int), default=100, help='outer steps (default: 100)'
    )
    parser.add_argument(
        '--tasks', type=positive(int), default=32, help='tasks of an iteration (default: 32)'
    )
    parser.add_argument(
        '--inner-lr',
        type=positive(float),
        default=0.01,
        help='learning rate of the inner steps (default: 0.01)',
    )
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> None:
    """Trains what was not trained yet, then prints the table."""
    args = parse_args(argv)
    torch.set_num_threads(1)
    with one_line_errors():
        digits = load_digits(args.data).normalized()
        check_activations({name: dict(type=name) for name in args.activations})
    keys = [
        {
            'data': digits.identity,
            'act_cfg': dict(type=name),
            'shots': shots,
            'iterations': args.iterations,
            'tasks': args.tasks,
            'inner_lr': args.inner_lr,
            'outputs': WAYS,
            'seed': seed,
        }
        for seed, shots, name in product(range(args.runs), args.shots, args.activations)
    ]

    def describe(key: dict, result: dict) -> str:
        return (
            f'{key["act_cfg"]["type"]}, {key["shots"]} shots, run {key["seed"]}: '
            f'{result["accuracy"]:.2f} % in {result["seconds"]:.0f} s'
        )

    results = complete(keys, Journal(args.results), lambda key: run(key, digits), describe)
    print(table(results, args, digits))


def run(key: dict, digits: Digits) -> dict:
    """Learns a start, and tries it on test tasks.

    Args:
        key: Activation, shots, iterations, tasks, learning rate of the inner steps, outputs and
            seed.
        digits: The data.

    Returns:
        ``accuracy`` in % on 10 times as many test tasks as an iteration has; ``seconds``.
    """
    start = time.monotonic()
    torch.manual_seed(key['seed'])
    net = MNISTConv(key['act_cfg'], classes=key['outputs'])
    chance = torch.Generator().manual_seed(key['seed'])
    optimizer = torch.optim.Adam(net.parameters(), lr=LR)
    of_classes = by_class(digits.train_images, digits.train_labels)
    for _ in range(key['iterations']):
        optimizer.zero_grad()
        for _ in range(key['tasks']):
            task = draw_task(of_classes, key['shots'], chance)
            loss, _ = adapt_and_judge(net, *task, key['inner_lr'])
            (loss / key['tasks']).backward()
        optimizer.step()
    of_classes = by_class(digits.test_images, digits.test_labels)
    tasks = [draw_task(of_classes, key['shots'], chance) for _ in range(10 * key['tasks'])]
    right = [adapt_and_judge(net, *task, key['inner_lr'], second_order=False)[1] for task in tasks]
    return {
        'accuracy': 100 * sum(right) / len(right),
        'seconds': round(time.monotonic() - start, 2),
    }


def by_class(images: Tensor, labels: Tensor) -> list[Tensor]:
    """The images of each class."""
    return [images[labels == label] for label in range(10)]


def draw_task(
    of_classes: Sequence[Tensor], shots: int, chance: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws classes and examples of them.

    Args:
        of_classes: The images of each class.
        shots: Examples of each.
        chance: Decides.

    Returns:
        Images to adapt to and images to be judged by, (WAYS * shots, 1, 28, 28) each, and the
        labels of both.
    """
    drawn = []
    for label in torch.randperm(len(of_classes), generator=chance)[:WAYS].tolist():
        images = of_classes[label]
        drawn.append(images[torch.randperm(len(images), generator=chance)[: 2 * shots]])
    images = torch.stack(drawn)
    labels = torch.arange(WAYS).repeat_interleave(shots)
    return images[:, :shots].flatten(0, 1), images[:, shots:].flatten(0, 1), labels


def adapt_and_judge(
    net: nn.Module,
    given: Tensor,
    judged: Tensor,
    labels: Tensor,
    lr: float,
    second_order: bool = True,
) -> tuple[Tensor, float]:
    """Adapts a copy of the network's parameters to images, and judges it by others.

    Args:
        net: The network, whose parameters stay as they are.
        given: Images to adapt to.
        judged: Images to be judged by.
        labels: Of both.
        lr: Learning rate of the steps.
        second_order: Whether the loss is to be differentiated through the steps.

    Returns:
        The loss on ``judged``, differentiable with respect to the parameters of ``net`` through
        the steps; and the share of right answers.
    """
    adapted = dict(net.named_parameters())
    for _ in range(STEPS):
        loss = F.cross_entropy(functional_call(net, adapted, (given,)), labels)
        gradients = torch.autograd.grad(loss, list(adapted.values()), create_graph=second_order)
        adapted = {
            name: p - lr * g for (name, p), g in zip(adapted.items(), gradients, strict=True)
        }
    answers = functional_call(net, adapted, (judged,))
    right = (answers.argmax(1) == labels).float().mean().item()
    return F.cross_entropy(answers, labels), right


def table(results: list[dict], args: argparse.Namespace, digits: Digits) -> str:
    """The table as Markdown, the paper's numbers in brackets."""
    lines = [
        f'Accuracy (%) on test tasks of {WAYS} classes after {args.iterations} iterations of '
        f'{args.tasks} tasks, inner steps of {args.inner_lr:g}, mean ± standard deviation of '
        f'{args.runs} runs; in brackets Table 3.',
        f'Data: {digits.description}',
        '',
        f'| activation | {" | ".join(f"{shots} shots" for shots in args.shots)} |',
        f'|---|{"---:|" * len(args.shots)}',
    ]
    for name in args.activations:
        cells = []
        for shots in args.shots:
            found = [
                r['accuracy']
                for r in results
                if r['act_cfg']['type'] == name and r['shots'] == shots
            ]
            paper = PAPER.get(name, {}).get(shots)
            cells.append(format_mean(found) + (f' ({paper:.2f})' if paper else ''))
        lines.append(f'| {name} | {" | ".join(cells)} |')
    return '\n'.join(lines) + '\n'


if __name__ == '__main__':
    main()
