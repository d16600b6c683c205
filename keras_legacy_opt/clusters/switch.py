"""Whether Keras is corrected: as far as it needs that, and unless switched off.

What is wrong in a Keras is found by calling it, not by its version: one that
has mended a fault itself is left alone, and so is one that cannot be judged.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from absl import logging

SWITCH = "KERAS_LEGACY_OPT_CLUSTERS"

_is_disabled = False


def disable() -> None:
    """Leaves Keras as it is from now on: `fit` on clusters, too.

    The same as `KERAS_LEGACY_OPT_CLUSTERS=0` in the environment.  What was
    traced before stays as it is: compile the model again.
    """
    global _is_disabled
    _is_disabled = True


def enable() -> None:
    """Takes `disable()` back."""
    global _is_disabled
    _is_disabled = False


def why_off() -> str | None:
    """Who switched the corrections off; None if nobody did."""
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    return "clusters.disable() was called" if _is_disabled else None


def is_on() -> bool:
    """Whether Keras is to be corrected where it needs that."""
    return why_off() is None


class Fault:
    """Something that a Keras may do wrong."""

    def __init__(self, what: str, is_in_keras: Callable[[], bool]):
        """Remembers a test, which is run at most once.

        Args:
          what: the fault, in words.
          is_in_keras: whether it is there; raises if that cannot be said.
        """
        self.what = what
        self._is_in_keras = is_in_keras
        self._found: bool | None = None
        self._error: Exception | None = None

    def is_present(self) -> bool:
        """Whether it is there; if that cannot be said, logs it once."""
        if self._found is None:
            try:
                self._found = self._is_in_keras()
            except Exception as error:
                self._found, self._error = False, error
                logging.warning("keras_legacy_opt: %s", self.describe())
        return self._found

    def describe(self) -> str:
        """A sentence on the fault, and whether it is corrected."""
        present = self.is_present()
        if self._error is not None:
            return (
                f"{self.what}: not known of this Keras, which is left as it is"
                f" ({type(self._error).__name__}: {self._error})"
            )
        return f"{self.what}: {'corrected' if present else 'right in Keras'}"
