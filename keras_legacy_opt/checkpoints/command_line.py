"""The commands `inspect` and `convert`."""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from keras_legacy_opt.checkpoints import conversion, inspection, report
from keras_legacy_opt.checkpoints.report import CheckpointError

_EXIT_CODES = "Exit code: 0, or 1 if the file cannot be read or converted."


def add_commands(subparsers: Any) -> None:
    """Adds the commands to a parser of `keras_legacy_opt`."""
    _add_inspect(subparsers)
    _add_convert(subparsers)


def _add_inspect(subparsers: Any) -> None:
    inspect = subparsers.add_parser(
        "inspect",
        help="tell which optimizer, hyperparameters and slots a file holds",
        description="Tells which optimizer a file belongs to, its"
        " hyperparameters and iterations, and its slots with shapes, dtypes and"
        " norms.",
        epilog=_EXIT_CODES,
    )
    inspect.add_argument(
        "path",
        help="prefix or folder of a TensorFlow checkpoint of any age, folder of"
        " a SavedModel, or .h5, .keras or .weights.h5 file",
    )
    _add_max_size(inspect)
    inspect.set_defaults(run=_inspect)


def _add_convert(subparsers: Any) -> None:
    convert = subparsers.add_parser(
        "convert",
        help="convert a checkpoint or file, without the model's code",
        description="Converts a TensorFlow checkpoint (of tf.train.Checkpoint,"
        " tf.train.Saver or a SavedModel), an HDF5 file of Keras 2, or a .keras"
        " or .weights.h5 file of Keras 3, into an object checkpoint or HDF5"
        " file of Keras 2, variable by variable. The output appears when it is"
        " complete, or not at all.",
        epilog=_EXIT_CODES,
    )
    convert.add_argument(
        "source",
        help="prefix or folder of a checkpoint, folder of a SavedModel, or .h5,"
        " .keras or .weights.h5 file",
    )
    convert.add_argument(
        "destination",
        help="an .h5 file, or else the prefix of an object checkpoint",
    )
    convert.add_argument(
        "--optimizer",
        metavar="CLASS",
        help="the optimizer's class, where the source does not tell; with those"
        " inside it, as in 'MovingAverage(Adam)'",
    )
    convert.add_argument(
        "--model",
        metavar="FILE",
        help="a .keras, .h5 or .json file with the model's architecture, where"
        " the source does not tell which weight is which",
    )
    convert.add_argument(
        "--learning-rate",
        metavar="RATE",
        type=float,
        help="the constant learning rate of TF1's MomentumOptimizer, which its"
        " slots have to be multiplied by",
    )
    _add_switches(convert)
    _add_max_size(convert)
    convert.set_defaults(run=_convert)


def _add_switches(convert: argparse.ArgumentParser) -> None:
    convert.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the destination if it exists",
    )
    convert.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        default=sys.stderr.isatty(),
        help="show how much is done; by default, on a terminal",
    )
    convert.add_argument(
        "--trust-source",
        action="store_true",
        help="build any architecture that the source or --model holds, although"
        " it can run any code",
    )


def _add_max_size(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--max-size",
        metavar="BYTES",
        type=_bytes,
        help="what a file may unpack to, as 5000000, 200M or 10G; by default,"
        " 64 MB and 16 times its size",
    )


def _bytes(text: str) -> int:
    unit = {"K": 10**3, "M": 10**6, "G": 10**9}.get(text[-1:].upper(), 1)
    size = float(text[:-1] if unit > 1 else text) * unit
    if not 0 <= size < 2**63:
        raise ValueError(text)
    return int(size)


def _inspect(options: argparse.Namespace) -> int:
    try:
        print(inspection.describe(options.path, options.max_size), flush=True)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    except BrokenPipeError:  # Nobody reads on: `inspect PATH | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def _convert(options: argparse.Namespace) -> int:
    try:
        notes = conversion.convert(
            options.source,
            options.destination,
            optimizer=options.optimizer,
            model=options.model,
            learning_rate=options.learning_rate,
            overwrite=options.overwrite,
            progress=_Progress() if options.progress else None,
            safe_mode=not options.trust_source,
            max_size=options.max_size,
        )
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        state = str(interrupt) or "nothing was changed."
        print(f"Interrupted: {state}", file=sys.stderr)
        return 130
    for note in notes:
        print(report.printable(note), file=sys.stderr)
    return 0


class _Progress:
    """A line on the standard error stream that tells how much is done."""

    def __init__(self) -> None:
        self._percent = -1

    def __call__(self, done: int, total: int) -> None:
        percent = 100 * done // max(total, 1)
        if percent != self._percent:
            self._percent = percent
            print(
                f"\r{percent:3d}% of {total / 1e6:.1f} MB",
                end="\n" if done >= total else "",
                file=sys.stderr,
                flush=True,
            )
