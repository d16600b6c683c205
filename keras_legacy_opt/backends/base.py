"""What a backend is."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, ClassVar

from keras_legacy_opt.step.update import Step, Update


class Backend:
    """One way to update variables.

    A backend says of each update why it refuses it, and runs what it takes.
    It is the only one that knows what it can do: a step asks one after the
    other, and the first that does not refuse gets the update.

    Attributes:
      name: for people.
      folds: whether it does to gradients what `Update.transform` and
        `Update.condition` say.  Others are given neither.
      takes_own: whether it decays variables, and moves their averages, as
        `Update.own` says.  Others are given neither.  The coefficients of a
        variable are those that `Step.coefficients` has for it.
    """

    name: ClassVar[str]
    folds: ClassVar[bool] = False
    takes_own: ClassVar[bool] = False

    def concerns(self, update: Update) -> bool:
        """Whether people want to know why it refuses an update."""
        del update
        return True

    def refuses(self, step: Step, update: Update) -> str | None:
        """Why it does not take an update, in words; None if it does."""
        raise NotImplementedError

    def group(self, update: Update) -> Hashable:
        """What updates have in common that it runs together; None: nothing."""
        del update
        return None

    def run(self, step: Step, updates: Sequence[Update]) -> Any:
        """Runs updates that it took: one, or some of one `group`.

        It is called where the variables are: under a strategy once for each
        replica, with the variables and gradients of that.

        Returns:
          The operation, in functions and graphs.
        """
        raise NotImplementedError
