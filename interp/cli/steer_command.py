"""`interp steer fit | sweep | generate | calibrate | bake`: each verb is the module of its name."""

from __future__ import annotations

import argparse
import importlib


def run(args: argparse.Namespace) -> None:
    """The work of one verb."""
    importlib.import_module(f"interp.cli.steer_{args.verb}").run(args)
