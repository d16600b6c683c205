"""What `compile` of Keras 3 makes, in the scope of several workers.

Outside of it, the state of a metric is each worker's own: workers would log
different losses, and callbacks that look at these would act differently.
"""

from __future__ import annotations

import functools
import inspect
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.clusters import multi_worker, switch


def correct(model: Any) -> list[switch.Fault]:
    """Lets `compile` make what it makes in the scope of the model.

    Args:
      model: Keras' trainer, the base of its models.

    Returns:
      What may be wrong there.
    """
    # Where it is defined: Keras asks whether a model has a method of its own.
    cls = next(c for c in model.__mro__ if "compile" in vars(c))
    compile_model = cls.compile
    names = private_api.names_in(inspect.unwrap(compile_model))
    fault = switch.Fault(
        "compile, outside of the scope of several workers",
        lambda: "scope" not in names,
    )

    @functools.wraps(compile_model)
    def compile_in_scope(self: Any, *args: Any, **kwargs: Any) -> Any:
        strategy = getattr(self, "_distribute_strategy", None)
        if not (multi_worker.is_wanted(strategy) and fault.is_present()):
            return compile_model(self, *args, **kwargs)
        with strategy.scope():
            return compile_model(self, *args, **kwargs)

    cls.compile = compile_in_scope
    for name in ("make_train_function", "make_test_function"):
        _check_before(model, name)
    return [fault]


def _check_before(cls: Any, name: str) -> None:
    make_function = getattr(cls, name)

    @functools.wraps(make_function)
    def check_and_make_function(self: Any, force: bool = False) -> Any:
        if multi_worker.is_wanted(self.distribute_strategy):
            _check_metrics(self)
            _check_compiler(self)
        return make_function(self, force)

    setattr(cls, name, check_and_make_function)


def _check_metrics(model: Any) -> None:
    strategy = model.distribute_strategy
    for metric in model.metrics:
        for variable in metric.variables:
            value = variable._value
            if value is None or strategy.extended.variable_created_in_scope(
                value
            ):
                continue
            raise ValueError(
                "The state of a metric was made outside of the scope of"
                f" {type(strategy).__name__}: each worker would have its own,"
                " and log another result. Make the metric in `with"
                " strategy.scope():`, or give `compile` its name. Found:"
                f" variable {variable.path!r} of {metric.name!r}."
            )


def _check_compiler(model: Any) -> None:
    devices = model.distribute_strategy.extended.worker_devices
    kinds = {tf.DeviceSpec.from_string(d).device_type for d in devices}
    if model.jit_compile and kinds == {"CPU"}:
        raise ValueError(
            "XLA cannot compile steps in which workers communicate on CPUs."
            " Received: compile(jit_compile=True), on the devices"
            f" {list(devices)}. Leave it out, or give False."
        )
