"""`python -m keras_legacy_opt migrate`: a diff, or the files, rewritten."""

from __future__ import annotations

import argparse
import difflib
import io
import os
import pathlib
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from typing import Any

_IGNORED = ("node_modules", "site-packages", "__pycache__")


def add_commands(subparsers: Any) -> None:
    """Adds `migrate` to the subcommands of a parser."""
    parser = subparsers.add_parser(
        "migrate",
        help="rewrite code that names legacy optimizers",
        description="Rewrite Python files and notebooks that name legacy"
        " optimizers of TensorFlow 2.0 to 2.15: prints a diff, and what it"
        " cannot change.",
    )
    parser.add_argument(
        "paths", metavar="PATH", nargs="+", help="a file, or a folder of files"
    )
    parser.add_argument(
        "--write", action="store_true", help="change the files, print no diff"
    )
    parser.set_defaults(run=_run)


def _run(parsed: argparse.Namespace) -> int:
    try:
        from keras_legacy_opt.migrate import codemod, notebooks
    except ImportError:
        print(
            "migrate needs LibCST: pip install 'keras-legacy-opt[migrate]'",
            file=sys.stderr,
        )
        return 1
    failed = False
    roots = [pathlib.Path(os.path.realpath(path)) for path in parsed.paths]
    for path in _files(parsed.paths):
        target = pathlib.Path(os.path.realpath(path))
        if not any(target.is_relative_to(root) for root in roots):
            print(f"{path}: left: a link to {target}", file=sys.stderr)
            continue
        try:
            encoding, text = _read(path)
            if path.suffix == ".ipynb":
                done = notebooks.rewritten(text, codemod.rewritten)
            else:
                result = codemod.rewritten(text)
                places = [(f"{line}", note) for line, note in result.notes]
                done = notebooks.Notebook(
                    result.code, text, result.code, places, []
                )
            if parsed.write and done.text != text:
                _replace(path, done.text.encode(encoding))
        except (OSError, ValueError, codemod.SyntaxError) as error:
            failed = True
            reason = " ".join(str(error).split())
            print(f"{path}: not rewritten: {reason}", file=sys.stderr)
            continue
        if parsed.write and done.text != text:
            print(f"{path}: rewritten")
        elif not parsed.write:
            sys.stdout.writelines(_diff(path, done.before, done.after))
        for place, note in done.notes:
            print(f"{path}:{place}: {note}", file=sys.stderr)
        for place, reason in done.left:
            failed = True
            print(f"{path}: not rewritten: {place}: {reason}", file=sys.stderr)
    return int(failed)


def _read(path: pathlib.Path) -> tuple[str, str]:
    """The encoding of a file, and its text."""
    content = path.read_bytes()
    encoding = "utf-8"
    if path.suffix != ".ipynb":
        try:
            encoding, _ = tokenize.detect_encoding(io.BytesIO(content).readline)
        except SyntaxError as error:
            raise ValueError(error.msg) from error
    return encoding, content.decode(encoding)


def _files(paths: list[str]) -> Iterator[pathlib.Path]:
    for path in map(pathlib.Path, paths):
        if not path.is_dir():
            yield path
            continue
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(
                name
                for name in folders
                if not name.startswith(".") and name not in _IGNORED
            )
            for name in sorted(files):
                if name.endswith((".py", ".ipynb")):
                    yield pathlib.Path(folder, name)


def _diff(path: pathlib.Path, old: str, new: str) -> Iterator[str]:
    lines = difflib.unified_diff(
        old.splitlines(keepends=True),
        new.splitlines(keepends=True),
        f"{path}",
        f"{path} (rewritten)",
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n"


def _replace(path: pathlib.Path, content: bytes) -> None:
    """Replaces a file as a whole, or not at all, with its permissions."""
    mode = path.stat().st_mode
    with tempfile.NamedTemporaryFile(
        "wb", dir=path.resolve().parent, prefix=f".{path.name}.", delete=False
    ) as part:
        try:
            part.write(content)
            part.flush()
            os.fchmod(part.fileno(), mode)
            os.replace(part.name, path.resolve())
        except BaseException:
            os.remove(part.name)
            raise
