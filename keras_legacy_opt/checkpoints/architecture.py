"""Models without values, from their architectures alone.

A file of Keras 3 numbers its weights, one of Keras 2 says only in which order
they are.  The architecture tells the rest: the model is built from it, but its
large variables get no values, and so take no memory.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import tensorflow as tf

from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints import architecture_check, memory, sources
from keras_legacy_opt.checkpoints.formats import h5, keras_3
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.values import readable


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
    with readable(path), sources.opened(path, max_size) as source:
        config, version = _config_of(source)
        if config is None:
            return None
        library = "tf_keras" if str(version).startswith("2.") else "keras"
        config = {k: v for k, v in config.items() if k != "compile_config"}
    try:
        return _built(config, importlib.import_module(library), safe_mode)
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


def _built(config: dict[str, Any], keras: Any, safe_mode: bool) -> Any:
    if safe_mode:
        find = keras.saving.get_registered_object
        config = architecture_check.checked(config, find)
    with tf.variable_creator_scope(_create_if_small):
        if "module" in config:
            model = keras.saving.deserialize_keras_object(
                config, safe_mode=safe_mode
            )
        elif keras.__name__ == "keras":  # As Keras 3 has it in HDF5.
            model = private_api.model_of_legacy_config(keras, config)
        else:
            model = keras.models.model_from_json(json.dumps(config))
    if not model.weights:
        raise ValueError("it has no weights until it is called.")
    return model


def _create_if_small(next_creator: Any, **kwargs: Any) -> Any:
    with tf.Graph().as_default():  # Where nothing is computed.
        value = tf.convert_to_tensor(
            _called(kwargs["initial_value"]), kwargs.get("dtype")
        )
    if value.shape.num_elements() * value.dtype.size <= memory.SMALL:
        zeros = tf.zeros(value.shape, value.dtype)
        return next_creator(**{**kwargs, "initial_value": zeros})
    return private_api.variable_without_value(
        value.shape, value.dtype, kwargs.get("name"), kwargs.get("trainable")
    )


def _called(value: Any) -> Any:
    return value() if callable(value) else value


def _config_of(source: Source) -> tuple[dict[str, Any] | None, Any]:
    """(configuration of a model, version of the Keras that wrote it)."""
    if source.is_archive:
        return keras_3.model_config(source)
    if source.is_hdf5:
        return h5.model_config(source)
    with open(source.path, "rb") as file:
        text = file.read(source.limits.text + 1)
    config = source.limits.json(text, "the architecture")
    return config, config.get("keras_version", "3.")
