# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""Writes a miniature data set in the layout of COCO, ADE20K, Cityscapes, LGG or ImageNet."""

import argparse
import inspect

from . import MAKERS


class _Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message: str) -> None:
        self.exit(2, f'{self.prog}: error: {message} (--help explains)\n')


def main() -> None:
    """Writes the data set and says what is there."""
    parser = _Parser(description=__doc__)
    parser.add_argument('dataset', choices=sorted(MAKERS), help='layout to write')
    parser.add_argument(
        'root',
        help='folder to make: missing, empty, or the result of the same '
        'command; nothing that exists is changed',
    )
    parser.add_argument('--num-train', type=int, help='number of training pictures (default: 200)')
    parser.add_argument('--num-val', type=int, help='number of validation pictures (default: 50)')
    parser.add_argument('--num-patients', type=int, help='lgg: number of patients (default: 12)')
    parser.add_argument('--num-slices', type=int, help='lgg: slices of a patient (default: 16)')
    parser.add_argument(
        '--size',
        type=int,
        nargs=2,
        metavar=('HEIGHT', 'WIDTH'),
        help='size of the pictures in pixels (default: 128 160; cityscapes: 128 256; lgg: 128 128)',
    )
    parser.add_argument('--seed', type=int, help='the same seed gives the same data (default: 0)')
    parser.add_argument('--quiet', action='store_true', help='print nothing but errors')
    args = parser.parse_args()
    options = {
        name: value
        for name, value in vars(args).items()
        if name not in ('dataset', 'root') and value is not None
    }
    takes = inspect.signature(MAKERS[args.dataset]).parameters
    for name in options:
        if name not in takes:
            parser.error(f'--{name.replace("_", "-")} does not apply to {args.dataset}')
    try:
        root = MAKERS[args.dataset](args.root, **options)
    except (OSError, ValueError) as error:
        parser.error(str(error))
    if args.quiet:
        return
    print(f'mini {args.dataset} in {root}:')
    for folder in sorted({path.parent for path in root.glob('*/**/*') if path.is_file()}):
        print(f'  {folder.relative_to(root)}: {len(list(folder.iterdir()))} files')


if __name__ == '__main__':
    main()
