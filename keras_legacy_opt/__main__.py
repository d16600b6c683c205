"""The command line: `python -m keras_legacy_opt COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from keras_legacy_opt.checkpoints import command_line as checkpoint_commands
from keras_legacy_opt.drop_in import command_line as drop_in_commands
from keras_legacy_opt.fused import command_line as fused_commands
from keras_legacy_opt.migrate import command_line as migrate_commands

# Each adds its subcommands to the parser.
_COMMANDS = (
    checkpoint_commands.add_commands,
    drop_in_commands.add_commands,
    fused_commands.add_commands,
    migrate_commands.add_commands,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a subcommand; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m keras_legacy_opt",
        description="Tools for keras_legacy_opt.",
    )
    subparsers = parser.add_subparsers(metavar="COMMAND", required=True)
    for add_commands in _COMMANDS:
        add_commands(subparsers)
    parsed = parser.parse_args(arguments)
    return parsed.run(parsed)


if __name__ == "__main__":
    sys.exit(main())
