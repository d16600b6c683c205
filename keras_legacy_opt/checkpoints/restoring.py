"""`restore` and `save`: one call each, for every format."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import tensorflow as tf

from keras_legacy_opt import hosts, serialization
from keras_legacy_opt.checkpoints import ftrl_of_tf_2_4, keras_2_view, opening
from keras_legacy_opt.checkpoints.formats import h5, keras_3
from keras_legacy_opt.checkpoints.match import match
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.sources import Source
from keras_legacy_opt.checkpoints.targets import (
    Targets,
    Unchanged,
    trainable_of,
)
from keras_legacy_opt.checkpoints.values import readable
from keras_legacy_opt.hosts import model_parts
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.state import saving


def restore(
    path: str | os.PathLike,
    model: Any,
    optimizer: Optimizer | None = None,
    *,
    strict: bool = True,
    names: Mapping[str, Any] | Callable[[str], Any] | None = None,
    max_size: int | None = None,
) -> Report:
    """Restores a file of any age into a model and its optimizer.

    All or nothing: the file is compared with the model and the optimizer and
    read as a whole before the first variable changes.

    Args:
      path: a checkpoint's prefix or one of its files, a folder of checkpoints
        (the latest counts), a SavedModel's folder, an HDF5 file, or a
        `.weights.h5` or `.keras` file that was written with our optimizers.
      model: a built model of Keras 3 or tf_keras, or a `tf.Module`; or a
        dictionary from the names given to `tf.train.Checkpoint` to variables,
        models or lists of them; or a variable.
      optimizer: the `keras_legacy_opt` optimizer to restore.  If `None`, that
        of `model`, if it was compiled with one.
      strict: whether to raise an error unless every value of the file has its
        place, and everything has a value.  If `False`, what fits is restored,
        and the report names the rest.
      names: for a TF1 checkpoint, a mapping or function from the names in the
        file to the variables (or names of variables) of the model, where they
        differ.
      max_size: what the file may unpack to, in bytes; if `None`, that depends
        on its own size.

    Returns:
      A `Report`: what was restored, what was not, and why.

    Raises:
      CheckpointError: if the file cannot be read, or is none of these.
      MismatchError: if `strict` and something does not fit; its `report` says
        what.
      TypeError: if `model` is none of these.

    >>> import tempfile, keras
    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> opt = keras_legacy_opt.SGD(momentum=0.9)
    >>> opt.build(model.trainable_variables)
    >>> path = keras_legacy_opt.checkpoints.save(
    ...     tempfile.mkdtemp() + "/as_keras_2", model, opt)
    >>> report = keras_legacy_opt.checkpoints.restore(path, model, opt)
    >>> len(report.restored), report.problems
    (8, [])
    """
    path = os.fspath(path)
    optimizer = _optimizer_for(model, optimizer)
    with (
        opening.open_source(path, max_size) as (source, codec),
        Unchanged(optimizer),
    ):
        if codec is keras_3:
            return _restore_keras_3(source, model, optimizer, strict)
        file = opening.read(source, codec)
        plan = match(file, Targets(model, optimizer), names)
        ftrl_of_tf_2_4.repair(plan)
        plan.carry_out(strict)
    return plan.report


def _restore_keras_3(
    source: Source, model: Any, optimizer: Optimizer | None, strict: bool
) -> Report:
    """Has a Keras read the file, or only the model's weights.

    Of an optimizer with other slots than here, a Keras would read nothing.
    """
    keras_3.check_target(source.path, model, optimizer)
    if optimizer is None:
        return keras_3.restore(source, model, optimizer, strict)
    file, targets = opening.read(source, keras_3), Targets(model, optimizer)
    if not keras_3.has_other_form(file, targets):
        return keras_3.restore(source, model, optimizer, strict)
    before = saving.fetch_all(targets.weights)
    try:
        with readable(source.path):
            keras_3.load(source, model, strict)
            plan = match(file, targets)
        for variable in targets.weights:
            plan.arrived(variable)
        plan.carry_out(strict)
    except CheckpointError:
        saving.assign_all(targets.weights, before)
        raise
    return plan.report


def restore_optimizer(path: str, model: Any, optimizer: Optimizer) -> None:
    """Restores the optimizer of a model that tf_keras loaded from `path`.

    Warns of what was not restored, and why.

    Args:
      path: a SavedModel's folder.
      model: the model, as it is in there.
      optimizer: its optimizer, new.
    """
    if not tf.executing_eagerly():
        problem = "In a TF1 graph, this is not done."
    else:
        try:
            report = restore(path, model, optimizer, strict=False)
        except CheckpointError as error:
            problem = str(error)
        else:
            problem = report.table(report.problems) if report.problems else ""
    if problem:
        warnings.warn(
            f"The state of {type(optimizer).__name__} in {path} was not, or not"
            " completely, restored into the loaded model; see"
            f" keras_legacy_opt.checkpoints.restore.\n{problem}",
            stacklevel=4,
        )


def save(
    path: str | os.PathLike,
    model: Any,
    optimizer: Optimizer | None = None,
    *,
    as_weights: bool = False,
) -> str:
    """Writes a checkpoint that Keras 2 and tf_keras read.

    Args:
      path: the prefix of the checkpoint.
      model: a built model of Keras 3 or tf_keras, a `tf.Module`, or a
        dictionary of names and variables.
      optimizer: (Optional) the optimizer.  If `None`, that of `model`, if it
        was compiled with one of ours.
      as_weights: if `False`, the checkpoint is that of
        `tf.train.Checkpoint(model=model, optimizer=optimizer)`.  If `True`,
        that of `model.save_weights(path, save_format="tf")`.

    Returns:
      The prefix.
    """
    optimizer = _optimizer_for(model, optimizer)
    if optimizer is not None:
        optimizer.build(list(trainable_of(model)))
        optimizer = _in_model(model, optimizer)
    return _write(os.fspath(path), model, optimizer, as_weights)


def _in_model(model: Any, optimizer: Optimizer) -> Optimizer:
    """The LossScaleOptimizer that the model has around it, or itself.

    The two are one in checkpoints, and models of tf_keras show theirs.
    """
    own = getattr(model, "optimizer", None)
    if isinstance(own, hosts.LossScaleHost):
        if own.inner_optimizer is optimizer and isinstance(own, Optimizer):
            return own
    return optimizer


def _write(
    prefix: str,
    model: Any,
    optimizer: Optimizer | None,
    as_weights: bool,
) -> str:
    """Writes what Keras 2 would have written of `model` and `optimizer`."""
    checkpoint_args: dict[str, Any] = {}
    if model_parts.is_keras_3_layer(model):
        hung = optimizer if as_weights else None
        model = keras_2_view.Keras2View(model, hung)
    elif isinstance(model, Mapping):
        checkpoint_args, model = dict(model), None
    if as_weights:
        checkpoint = tf.train.Checkpoint(model, **checkpoint_args)
    else:
        if model is not None:
            checkpoint_args["model"] = model
        if optimizer is not None:
            checkpoint_args["optimizer"] = optimizer
        checkpoint = tf.train.Checkpoint(**checkpoint_args)
    return checkpoint.write(prefix)


def optimizer_of(
    path: str | os.PathLike,
    custom_objects: Mapping[str, Any] | None = None,
    *,
    max_size: int | None = None,
) -> Any:
    """A new optimizer, configured as the file says.

    HDF5 and `.keras` files hold the optimizer's configuration, and `restore`
    then wants an equal one.  (TensorFlow checkpoints do not hold it.)

    Args:
      path: an HDF5 or `.keras` file of a compiled model.
      custom_objects: maps names to classes that the configuration names.
      max_size: what the file may unpack to, in bytes; if `None`, that depends
        on its own size.

    Raises:
      CheckpointError: if it holds none, or one that cannot be made.
    """
    path = os.fspath(path)
    config = None
    with opening.open_source(path, max_size) as (source, codec):
        if codec in (h5, keras_3):
            with readable(path):
                config = codec.optimizer_config(source)
    if not isinstance(config, Mapping):
        raise CheckpointError(
            f"{path} does not say which optimizer it belongs to: only .h5 and"
            " .keras files of compiled models do. Make the optimizer as the"
            " training script did."
        )
    try:
        return serialization.deserialize(config, custom_objects)
    except Exception as error:
        raise CheckpointError(
            f"{path}: its optimizer cannot be made. {error}"
        ) from error


def _optimizer_for(model: Any, optimizer: Optimizer | None) -> Optimizer | None:
    if optimizer is None:
        own = getattr(model, "optimizer", None)
        own = getattr(own, "inner_optimizer", own)
        optimizer = own if isinstance(own, Optimizer) else None
    elif not isinstance(optimizer, Optimizer):
        raise TypeError(
            "`optimizer` must be one of keras_legacy_opt (of a wrapper, pass"
            " the inner one; for Keras 3's own, see `to_keras_3`). Received:"
            f" {optimizer!r}."
        )
    # Of a LossScaleOptimizer, files know the inner one, and the loss scale.
    return getattr(optimizer, "inner_optimizer", optimizer)
