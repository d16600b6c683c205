"""Where Keras is corrected, and what is to be said about it."""

from __future__ import annotations

import types
from collections.abc import Callable
from typing import Any

from keras_legacy_opt import private_api
from keras_legacy_opt.clusters import (
    callbacks,
    compiling,
    data,
    empty_parts,
    multi_worker,
    parameter_server,
    switch,
)

_faults: list[switch.Fault] = []


def correct(keras: types.ModuleType, check: Callable[[Any], Any]) -> None:
    """Makes the trainer of a Keras 3 work on clusters, where it does not.

    Args:
      keras: the module.
      check: raises for a variable that cannot be trained.
    """
    trainer = private_api.tensorflow_trainer(keras)
    if trainer is None:
        return
    _faults.extend(
        multi_worker.correct(
            trainer, keras.metrics.Metric, private_api.variable_class(keras)
        )
    )
    _faults.extend(data.correct(trainer.TFEpochIterator))
    _faults.extend(compiling.correct(trainer.TensorFlowTrainer))
    _faults.extend(empty_parts.correct(keras))
    _faults.extend(
        parameter_server.correct(
            trainer, keras.Variable, keras.StatelessScope, check
        )
    )
    callbacks.correct(keras)


def report() -> list[str]:
    """A line for each fault that a Keras may have on clusters."""
    why_off = switch.why_off()
    if why_off:
        return [f"left as it is: {why_off}"]
    return [fault.describe() for fault in _faults] or [
        "no Keras 3 on TensorFlow is imported"
    ]
