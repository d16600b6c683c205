"""`python -m keras_legacy_opt run`: an unedited program, our optimizers."""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from typing import Any

from keras_legacy_opt import drop_in


def add_commands(subparsers: Any) -> None:
    """Adds `run` to the subcommands of a parser."""
    parser = subparsers.add_parser(
        "run",
        help="run an unedited program with these optimizers",
        description="Run a program in which tf.keras.optimizers are this"
        " package's, as install(top_level=True) makes them.",
        usage="%(prog)s [-h] [--legacy-only] (SCRIPT | -m MODULE) ...",
    )
    parser.add_argument(
        "--legacy-only",
        action="store_true",
        help="tf.keras.optimizers.legacy only; tf.keras.optimizers stay Keras'",
    )
    parser.add_argument(
        "-m", dest="module", action="store_true", help="run a module"
    )
    parser.add_argument(
        "program", metavar="SCRIPT | MODULE", help="a file, or a module's name"
    )
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="its own")
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    if not parsed.module and not os.path.exists(parsed.program):
        print(f"run: there is no {parsed.program!r}", file=sys.stderr)
        return 2
    drop_in.install(top_level=not parsed.legacy_only)
    sys.argv = [parsed.program, *parsed.arguments]
    if parsed.module:
        sys.path[0] = os.getcwd()
        runpy.run_module(parsed.program, run_name="__main__", alter_sys=True)
    else:
        sys.path[0] = os.path.dirname(os.path.abspath(parsed.program))
        runpy.run_path(parsed.program, run_name="__main__")
    return 0
