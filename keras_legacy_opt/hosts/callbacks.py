"""Callbacks for models of every Keras."""

from __future__ import annotations

from typing import Any

from keras_legacy_opt import hosts


class HostCallback:
    """A callback that is one of the Keras that the model is of.

    Which one that is comes out in `fit`; the callback is made then, and anew if
    the next model is of another one.
    """

    # In words: whose methods this has.
    _KIND = "callback"
    _callback: Any = None
    _package: str | None = None  # The Keras that it is of.
    _params: Any = None

    def _made(self, callbacks: Any) -> Any:
        """The callback, made of what a Keras has in `keras.callbacks`."""
        raise NotImplementedError

    def _shown(self, model: Any) -> Any:
        """The model as the callback shall see it.

        Raises:
          TypeError: if it is none for this callback.
        """
        return model

    def set_model(self, model: Any) -> None:
        """Called by `fit`.

        Raises:
          TypeError: if the model's optimizer is none for this callback.
        """
        shown = self._shown(model)
        keras = hosts.keras_of_model(model)
        if self._package != keras.__name__:
            self._package = keras.__name__
            self._callback = self._made(keras.callbacks)
            if self._params is not None:
                self._callback.set_params(self._params)
        self._callback.set_model(shown)

    def set_params(self, params: Any) -> None:
        """Called by `fit`."""
        self._params = params
        if self._callback is not None:
            self._callback.set_params(params)

    def __getattr__(self, name: str) -> Any:
        """All else is the callback's."""
        if name.startswith("__") or self.__dict__.get("_callback") is None:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}; the"
                f" methods of a {self._KIND} it has once `fit` has given it"
                " a model."
            )
        return getattr(self._callback, name)
