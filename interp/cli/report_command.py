"""`interp report`: one page from the files of some results."""

from __future__ import annotations

import argparse


def run(args: argparse.Namespace) -> None:
    """Read every result, write the page, print its path."""
    from interp.cli.files import read, write_page

    results = [read(path) for path in args.results]
    print(write_page(results, args.out, args.title))
