"""What a restoration did: the report, and the errors that carry one."""

from __future__ import annotations

import dataclasses
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

RESTORED = "restored"
# Harmless: bookkeeping of the saver, or state that is not of the training run.
IGNORED = "ignored"
# The file has it, the model or optimizer has no place for it.
UNUSED = "unused"
# The model or optimizer has it, the file does not.
MISSING = "missing"
# Both have it, and it does not fit.
MISMATCH = "mismatch"

_PROBLEMS = (MISMATCH, MISSING, UNUSED)


@dataclasses.dataclass(frozen=True)
class Entry:
    """One value of a file, or one variable that should have had a value.

    Attributes:
      status: "restored", "ignored", "unused", "missing" or "mismatch".
      source: the name in the file; empty for what is missing.
      target: the name of the variable; empty for what is unused.
      shape: the shape in the file, or of what is missing.
      reason: why it was not restored, or how it was converted.
    """

    status: str
    source: str = ""
    target: str = ""
    shape: tuple[int, ...] = ()
    reason: str = ""


@dataclasses.dataclass
class Report:
    """What was restored, what was not, and why; prints as a table.

    Attributes:
      path: the file.
      format: what kind of file it is.
      entries: list of `Entry`.
    """

    path: str
    format: str
    entries: list[Entry] = dataclasses.field(default_factory=list)

    def add(self, *args: Any, **kwargs: Any) -> None:
        """Adds an `Entry` of these arguments."""
        self.entries.append(Entry(*args, **kwargs))

    def of(self, *statuses: str) -> list[Entry]:
        """The entries with one of these statuses."""
        return [e for e in self.entries if e.status in statuses]

    @property
    def restored(self) -> list[Entry]:
        """What was restored."""
        return self.of(RESTORED)

    @property
    def problems(self) -> list[Entry]:
        """What a strict restoration refuses: mismatch, missing, unused."""
        return [e for s in _PROBLEMS for e in self.of(s)]

    def __str__(self) -> str:
        counts = {
            status: len(self.of(status))
            for status in (RESTORED, IGNORED, UNUSED, MISSING, MISMATCH)
        }
        head = f"{printable(self.path)} ({self.format}): " + ", ".join(
            f"{count} {status}" for status, count in counts.items() if count
        )
        return "\n".join([head, self.table(self.entries)])

    @staticmethod
    def table(entries: Iterable[Entry]) -> str:
        """The entries as lines of aligned columns."""
        return table(
            ("status", "in the file", "variable", "shape", "note"),
            [
                (e.status, e.source, e.target, str(tuple(e.shape)), e.reason)
                for e in entries
            ],
        )


# Of a longer cell of a table, the middle is left out.
_LONGEST_CELL = 300


def printable(text: str) -> str:
    r"""A text from a file, without what a terminal would obey.

    >>> from keras_legacy_opt.checkpoints import report
    >>> print(report.printable("a name\x1b[2J"))
    a name\x1b[2J
    """
    # Control characters, such as escape sequences begin with, and those that
    # change the direction or are no characters at all.
    return "".join(
        c.encode("unicode_escape").decode()
        if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")
        else c
        for c in text
    )


def _cell(text: str) -> str:
    text = printable(text)
    if len(text) > _LONGEST_CELL:
        half = _LONGEST_CELL // 2
        text = f"{text[:half]}...{text[-half:]}"
    return text


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Aligned columns, for a terminal."""
    rows = [[_cell(cell) for cell in row] for row in rows]
    widths = [
        max(map(len, column)) for column in zip(header, *rows, strict=True)
    ]
    return "\n".join(
        "  ".join(
            cell.ljust(width) for cell, width in zip(row, widths, strict=True)
        ).rstrip()
        for row in (header, *rows)
    )


class CheckpointError(ValueError):
    """A file cannot be read, or is not what was asked for.

    Nothing was changed when it is raised.

    Args:
      message: one line.
      details: further lines, fit for a terminal.
    """

    def __init__(self, message: str, details: str = ""):
        super().__init__(printable(message) + details)


class MismatchError(CheckpointError):
    """A file does not fit the model or the optimizer.

    Attributes:
      report: the `Report` of what would have been restored.
    """

    def __init__(self, report: Report):
        self.report = report
        problems = report.problems
        super().__init__(
            f"{report.path} ({report.format}) does not fit: {len(problems)} of"
            f" {len(report.entries)} entries. Nothing was changed.",
            f"\n{report.table(problems)}\n"
            "To restore what fits and leave the rest, pass strict=False.",
        )
