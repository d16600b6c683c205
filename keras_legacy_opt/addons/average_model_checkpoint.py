"""A callback that saves the averages of a model's weights."""

from __future__ import annotations

from typing import Any

import numpy as np

from keras_legacy_opt.addons import wrapper
from keras_legacy_opt.addons.average_wrapper import AveragedOptimizerWrapper
from keras_legacy_opt.hosts.callbacks import HostCallback


class AverageModelCheckpoint(HostCallback):
    """Saves models with the averages of their weights, while they train.

    A `ModelCheckpoint` of the Keras that the model is of, for models that are
    trained by a `MovingAverage`, an `SWA`, or another
    `AveragedOptimizerWrapper`, perhaps inside other wrappers.

    >>> import tempfile, os
    >>> model = tf.keras.Sequential([tf.keras.layers.Dense(1)])
    >>> model.compile(keras_legacy_opt.addons.MovingAverage("sgd"), "mse")
    >>> path = os.path.join(tempfile.mkdtemp(), "model.keras")
    >>> callback = keras_legacy_opt.addons.AverageModelCheckpoint(False, path)
    >>> _ = model.fit(
    ...     tf.ones((2, 3)), tf.ones((2, 1)), callbacks=[callback], verbose=0)
    >>> kernel = model.trainable_variables[0]
    >>> average = model.optimizer.get_slot(kernel, "average")
    >>> saved = tf.keras.models.load_model(path).trainable_variables[0]
    >>> bool(tf.reduce_all(saved == average)), bool(
    ...     tf.reduce_all(kernel == average))
    (True, False)
    """

    _KIND = "ModelCheckpoint"

    def __init__(
        self,
        update_weights: bool,
        filepath: Any,
        monitor: str = "val_loss",
        verbose: int = 0,
        save_best_only: bool = False,
        save_weights_only: bool = False,
        mode: str = "auto",
        save_freq: Any = "epoch",
        **kwargs: Any,
    ):
        """Creates the callback.

        Args:
          update_weights: whether the model goes on with the averages; else it
            gets its weights back once they are saved.
          filepath: see `keras.callbacks.ModelCheckpoint`, as for all others.
          monitor: see there.
          verbose: see there.
          save_best_only: see there.
          save_weights_only: see there.
          mode: see there.
          save_freq: see there.
          **kwargs: see there.
        """
        self.update_weights = update_weights
        self._arguments = {
            "filepath": filepath,
            "monitor": monitor,
            "verbose": verbose,
            "save_best_only": save_best_only,
            "save_weights_only": save_weights_only,
            "mode": mode,
            "save_freq": save_freq,
            **kwargs,
        }

    def _made(self, callbacks: Any) -> Any:
        return callbacks.ModelCheckpoint(**self._arguments)

    def _shown(self, model: Any) -> Any:
        averaged_by(model)
        return _Averaged(model, self.update_weights)


class _Averaged:
    """A model that saves averages in place of its weights."""

    def __init__(self, model: Any, update_weights: bool):
        self._model = model
        self._update_weights = update_weights

    def save(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_averages(self._model.save, args, kwargs)

    def save_weights(self, *args: Any, **kwargs: Any) -> Any:
        return self._with_averages(self._model.save_weights, args, kwargs)

    def _with_averages(self, save: Any, args: Any, kwargs: Any) -> Any:
        model = self._model
        weights = [np.array(weight) for weight in model.get_weights()]
        averaged_by(model).assign_average_vars(model.trainable_weights)
        try:
            return save(*args, **kwargs)
        finally:
            if not self._update_weights:
                model.set_weights(weights)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def averaged_by(model: Any) -> AveragedOptimizerWrapper:
    """The wrapper that averages the weights of a model.

    Raises:
      TypeError: if there is none.
    """
    optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    for each in wrapper.wrappers(optimizer):
        if isinstance(each, AveragedOptimizerWrapper):
            return each
    raise TypeError(
        "AverageModelCheckpoint is for models that are trained by a"
        " MovingAverage, an SWA, or another AveragedOptimizerWrapper. Received"
        f" a model whose optimizer is {model.optimizer!r}."
    )
