"""The subcommands `doctor` and `build`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import pathlib
import sys
from typing import Any


def add_commands(subparsers: Any) -> None:
    """Adds the subcommands of this module."""
    doctor = subparsers.add_parser(
        "doctor",
        help="say which path updates variables here, and why",
        description=(
            "Says which TensorFlow, Keras and native library are used, and what"
            " runs fused. The exit code is 0 if the native library is active, 1"
            " if variables are updated through TensorFlow's own ops."
        ),
    )
    doctor.set_defaults(run=_doctor)
    build = subparsers.add_parser(
        "build",
        help="compile the native library for the installed TensorFlow",
        description=(
            "Compiles the native library into the user's cache, unless it is"
            " there, undamaged. It needs g++ or"
            " clang; set CXX to choose. The exit code is 0 if the library is"
            " there afterwards."
        ),
    )
    build.add_argument(
        "--folder", type=pathlib.Path, help="instead of the user's cache"
    )
    build.add_argument(
        "--jobs", type=_positive, help="how many compilers to run at once"
    )
    build.add_argument(
        "--force", action="store_true", help="also if it is there already"
    )
    build.add_argument(
        "--sanitize",
        action="store_true",
        help="with AddressSanitizer, which then has to be preloaded",
    )
    build.set_defaults(run=_build)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise ValueError
    return number


def _build(arguments: argparse.Namespace) -> int:
    from keras_legacy_opt.fused import build

    try:
        build.build(
            arguments.folder,
            jobs=arguments.jobs,
            force=arguments.force,
            sanitize=arguments.sanitize,
        )
    except build.BuildError as error:
        print(f"The native library cannot be built: {error}", file=sys.stderr)
        print("Everything works without it, more slowly.", file=sys.stderr)
        return 1
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import keras_legacy_opt
    from keras_legacy_opt import clusters, supported
    from keras_legacy_opt.backends import explain
    from keras_legacy_opt.fused import library, loader, places
    from keras_legacy_opt.fused.gpu import devices

    def line(what: str, is_what: object) -> None:
        text = f"{what:<17} {loader.printable(str(is_what))}"
        encoding = sys.stdout.encoding or "utf-8"
        print(text.encode(encoding, "backslashreplace").decode(encoding))

    ops = loader.load()
    line("keras_legacy_opt", keras_legacy_opt.__version__)
    line("Python", sys.version.split()[0])
    for package in supported.PACKAGES:
        line(package.name, supported.describe(package))
    with contextlib.suppress(ImportError):
        importlib.import_module("keras")  # It may be installed, or not.
    for number, text in enumerate(clusters.report()):
        line("" if number else "fit on clusters", text)
    line("library cache", library.user_cache() or "none: there is no home")
    for name, value in library.ignored_variables().items():
        line("", f"not {name}: {value!r} is no absolute path")
    if ops is None:
        line("native library", f"none: {loader.why_not()}")
        line("fused", "nothing; TensorFlow's own ops yield the same numbers")
        return 1
    line("native library", ops.path)
    line("instruction set", ops.isa)
    line("fused", ", ".join(explain.with_native_ops()))
    line("", "dense and sparse gradients, of variables of")
    line("", ", ".join(dtype.name for dtype in places.DTYPES))
    for number, text in enumerate(devices.report()):
        line("" if number else "on GPUs", text)
    for number, example in enumerate(explain.without_native_ops()):
        line("" if number else "not fused", example)
    line("", "See keras_legacy_opt.explain(optimizer, variables)")
    return 0
