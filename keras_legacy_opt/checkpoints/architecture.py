"""What the weights of a model are called, from its architecture alone.

A file of Keras 3 numbers its weights, one of Keras 2 says only in which order
they are.  The architecture tells the rest: the model is built from it, but its
large variables get no values, and so take no memory.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import tensorflow as tf

from keras_legacy_opt import hosts, model_parts, private_api
from keras_legacy_opt.checkpoints import (
    architecture_check,
    archive,
    h5,
    safe_hdf5,
)
from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import readable

# In bytes. Layers may compute with what they create or load, but none of Keras'
# does so with larger values than this.
_SMALL = 1 << 20


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a weight is.

    Attributes:
      path: the names that lead to it from the model, as Keras 2 had them.
      name: its own name.
      layer: the name of the model's layer that it belongs to.
      shape: tuple of integers.
      trainable: whether it is trained.
    """

    path: tuple[str, ...]
    name: str
    layer: str
    shape: tuple[int, ...]
    trainable: bool


def model_of(
    path: str, *, safe_mode: bool = True, max_size: int | None = None
) -> Any | None:
    """The model in a .keras, .json or whole-model HDF5 file, without values.

    Args:
      path: of the file.
      safe_mode: whether to refuse an architecture with parts that are neither
        built-in nor registered: it can run any code.
      max_size: what the file may unpack to, in bytes; see `Limits.of`.

    Returns:
      A model of Keras 3, or of tf_keras if it was written by Keras 2; or `None`
      if the file does not hold the architecture.

    Raises:
      CheckpointError: if the file cannot be read, or the model not be built.
    """
    with readable(path):
        config, version = _config_of(path, Limits.of(path, max_size))
        if config is None:
            return None
        library = "tf_keras" if str(version).startswith("2.") else "keras"
        config = {k: v for k, v in config.items() if k != "compile_config"}
    try:
        keras = importlib.import_module(library)
        if safe_mode:
            find = keras.saving.get_registered_object
            config = architecture_check.checked(config, find)
        with tf.variable_creator_scope(_create_if_small):
            if "module" in config:
                model = keras.saving.deserialize_keras_object(
                    config, safe_mode=safe_mode
                )
            else:
                model = keras.models.model_from_json(json.dumps(config))
        if not model.weights:
            raise ValueError("it has no weights until it is called.")
        return model
    except architecture_check.Untrusted as error:
        raise CheckpointError(
            f"The model in {path} is not built, as that could run any code:"
            f" {error}. If you trust whoever made the file, pass"
            " --trust-source (in Python, safe_mode=False). If the model's own"
            " classes are yours, load it in Python, and write it with"
            " keras_legacy_opt.checkpoints.save."
        ) from error
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0][:300]
        raise CheckpointError(
            f"The model in {path} cannot be built. That needs {library} and the"
            " model's own classes: load it in Python, and write it with"
            f" keras_legacy_opt.checkpoints.save. The reason was: {reason}"
        ) from error


def _create_if_small(next_creator: Any, **kwargs: Any) -> Any:
    value = kwargs["initial_value"]
    with tf.Graph().as_default():  # Where nothing is computed.
        value = tf.convert_to_tensor(
            value() if callable(value) else value, kwargs.get("dtype")
        )
    if value.shape.num_elements() * value.dtype.size <= _SMALL:
        zeros = np.zeros(value.shape, value.dtype.as_numpy_dtype)
        return next_creator(**{**kwargs, "initial_value": zeros})
    return private_api.variable_without_value(
        value.shape, value.dtype, kwargs.get("name"), kwargs.get("trainable")
    )


def _config_of(path: str, limits: Limits) -> tuple[dict[str, Any] | None, Any]:
    """(configuration of a model, version of the Keras that wrote it)."""
    if archive.is_archive(path):
        config = archive.read_json(path, "config.json", limits)
        metadata = archive.read_json(path, "metadata.json", limits)
        return config, metadata["keras_version"]
    if h5.is_hdf5(path):
        with safe_hdf5.open_file(path, limits) as file:
            config = file.attrs.get("model_config")
            if config is not None:
                config = limits.json(config, "the architecture")
            return config, h5.text(file.attrs.get("keras_version", "2."))
    with open(path, "rb") as file:
        text = file.read(limits.text + 1)
    config = limits.json(text, "the architecture")
    return config, config.get("keras_version", "3.")


def places(model: Any) -> dict[int, Place]:
    """{id of a variable: its place}, layer by layer, as HDF5 files have them.

    Args:
      model: a model of Keras 3 or tf_keras.
    """
    paths = {
        id(hosts.unwrap(weight)): path
        for path, weight in model_parts.reached(model)
    }
    result: dict[int, Place] = {}
    for layer in model.layers:
        for weight in h5.weights_in_order(layer):
            variable = hosts.unwrap(weight)
            if id(variable) not in result and id(variable) in paths:
                name = getattr(weight, "path", None)
                result[id(variable)] = Place(
                    path=paths[id(variable)],
                    name=name or weight.name.removesuffix(":0"),
                    layer=layer.name,
                    shape=tuple(weight.shape),
                    trainable=any(weight is w for w in layer.trainable_weights),
                )
    return result


def each_weight(
    model: Any,
    weights_file: str,
    path: str,
    take: Callable[[Any, np.ndarray], None],
) -> None:
    """Lets Keras 3 read a file into a model without values, one by one.

    Args:
      model: from `model_of`.
      weights_file: a `.weights.h5` file.
      path: the file that it is from, for messages.
      take: function of a variable and the value that it would have got.

    Raises:
      CheckpointError: if the model is not of Keras 3, or the file unfit.
    """
    keras = importlib.import_module("keras")
    if not isinstance(model, keras.Model):
        raise CheckpointError(
            f"{path}: only Keras 3 tells which weight is which in such a file,"
            " and the architecture is one of tf_keras. If the file is, too,"
            " load it with tf_keras.models.load_model, and write it with"
            " keras_legacy_opt.checkpoints.save."
        )

    for variable in model.variables:
        variable.assign = functools.partial(_told, variable, take)
    with readable(path):
        model.load_weights(weights_file)


def _told(
    variable: Any, take: Callable[[Any, np.ndarray], None], value: Any
) -> None:
    """Stands for `variable.assign(value)`."""
    value = np.asarray(value)
    if value.nbytes <= _SMALL:
        type(variable).assign(variable, value)
    take(hosts.unwrap(variable), value)
