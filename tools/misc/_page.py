# Copyright (c) mmact contributors.
# SPDX-License-Identifier: Apache-2.0
"""The command line of the tools that write a page of docs/, which a test keeps up to date."""

import argparse
import sys
from collections.abc import Callable
from pathlib import Path


def write_page(default: Path, description: str, make: Callable[[], str], tool: str) -> None:
    """Writes or, with ``--check``, checks a page.

    Args:
        default: The page; ``--out`` names another file.
        description: What ``--help`` says.
        make: Gives the page's text.
        tool: File name of the tool in tools/misc, for messages.

    Raises:
        SystemExit: With ``--check``, if the file is missing or not up to date.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        '--check',
        action='store_true',
        help='write nothing; exit with status 1 if the file is not up to date',
    )
    parser.add_argument(
        '--out',
        type=Path,
        default=default,
        help=f'file to write or check (default: docs/{default.name} of this clone)',
    )
    args = parser.parse_args()
    text = make()
    if not args.check:
        args.out.write_text(text, encoding='utf-8')
        print(f'{args.out} written')
    elif not args.out.is_file() or args.out.read_text(encoding='utf-8') != text:
        sys.exit(f'{args.out} is not up to date: run python tools/misc/{tool}')
