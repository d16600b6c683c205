"""`python -m keras_legacy_opt convert`: one format into another.

No model is needed, and never more than a few variables are in memory.
"""

from __future__ import annotations

import os
from collections.abc import Callable

import numpy as np

from keras_legacy_opt import hosts
from keras_legacy_opt.checkpoints import (
    architecture,
    contents,
    memory,
    opening,
    optimizers,
    placing,
)
from keras_legacy_opt.checkpoints.contents import Contents, Item
from keras_legacy_opt.checkpoints.destination import Destination
from keras_legacy_opt.checkpoints.formats import h5, keras_3, object_graph, tf1
from keras_legacy_opt.checkpoints.report import CheckpointError
from keras_legacy_opt.checkpoints.values import readable
from keras_legacy_opt.optimizer import Optimizer


def convert(
    source: str,
    destination: str,
    *,
    optimizer: str | None = None,
    model: str | None = None,
    learning_rate: float | None = None,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
    safe_mode: bool = True,
    max_size: int | None = None,
) -> list[str]:
    """Writes what `source` holds in the format that `destination` asks for.

    The output appears under its name when it is complete, or not at all; what
    it replaces stays until then, even if the process is killed.

    Args:
      source: TensorFlow checkpoint (object-based, name-based, or a
        SavedModel's), HDF5 file of Keras 2, or `.keras` or `.weights.h5` file
        of Keras 3.
      destination: a name ending in .h5 or .hdf5 becomes an HDF5 file of Keras
        2, any other the prefix of a TensorFlow object checkpoint with the names
        of Keras 2.
      optimizer: the class of the optimizer, with those inside it, as in
        "MovingAverage(Adam)", where the source does not say it.
      model: file with the architecture (`.keras`, whole-model HDF5, or
        `.json` from `model.to_json()`), where the source does not say which
        weight is which.
      learning_rate: that of TF1's MomentumOptimizer, if it was constant.  Its
        slots are sums of gradients, ours are sums of steps.
      overwrite: whether `destination` may exist.
      progress: function of the bytes written and the bytes to write.
      safe_mode: whether to refuse architectures with parts that are neither
        built-in nor registered, which can run any code.
      max_size: what a file may unpack to, in bytes; if `None`, that depends on
        its own size.

    Returns:
      What the source did not say of the optimizer, as sentences.

    Raises:
      CheckpointError: if the source cannot be read or converted, or the
        destination not be written.
    """
    output = Destination(destination, overwrite)
    try:
        with (
            opening.open_file(source, max_size) as file,
            output.folder() as temporary,
        ):
            _check_optimizer(file)
            file = _with_learning_rate(file, learning_rate)
            if model is not None or file.codec.unsaid(file, output.is_h5):
                path = model or _file_with_architecture(file, output.is_h5)
                built = architecture.model_of(
                    path, safe_mode=safe_mode, max_size=max_size
                )
                if built is None:
                    raise _no_architecture(file, model, output.is_h5)
                with readable(file.path):
                    file = placing.placed(file, built, temporary)
            _check_slots(file)
            read = _counter(file, progress or (lambda done, total: None))
            return _write(file, output, temporary, read, optimizer)
    except KeyboardInterrupt:
        if output.is_replaced:
            raise KeyboardInterrupt(f"{destination} is complete.") from None
        raise


def _write(
    file: Contents,
    output: Destination,
    temporary: str,
    read: Callable[[Item], np.ndarray],
    optimizer: str | None,
) -> list[str]:
    """Writes the output, and returns what the file did not say."""
    name = "file.h5" if output.is_h5 else "checkpoint"
    path = os.path.join(temporary, name)
    with output.writing():
        if output.is_h5:
            notes = h5.write(file, path, read, optimizer)
        else:
            notes = _without_hyperparameters(file)
            taken = output.taken_shards()
            object_graph.write(file, path, read, temporary, taken)
    output.take(path)
    return notes


def _check_optimizer(file: Contents) -> None:
    """Refuses the state of optimizers that is not known well enough."""
    if file.is_of_another_optimizer:
        raise CheckpointError(
            f"{file.path} holds the state of {' or '.join(file.class_names)},"
            " not of a legacy optimizer: load it with Keras, convert"
            " model.optimizer with"
            " keras_legacy_opt.checkpoints.from_keras_3, and write both with"
            " keras_legacy_opt.checkpoints.save."
        )
    if file.obstacle:
        raise CheckpointError(f"{file.path}: {file.obstacle}")


def _without_hyperparameters(file: Contents) -> list[str]:
    """Of which classes of a configuration it is not known what becomes of it.

    Checkpoints have hyperparameters, but no configuration.
    """
    if not file.config:
        return []
    having = {item.owner for item in file.of(contents.HYPERPARAMETER)}
    inner = optimizers.without_loss_scale(file.config)
    return [
        f"Nothing is known of {part.class_name!r}: its hyperparameters are not"
        " in the output. Restore the source in Python, with"
        " keras_legacy_opt.checkpoints.restore, and write that with"
        " keras_legacy_opt.checkpoints.save."
        for part in optimizers.parts(inner)
        if part.way not in having
        and hosts.public_class(part.registered, Optimizer) is None
    ]


def _check_slots(file: Contents) -> None:
    """Refuses slots of variables that the file does not have."""
    paths = {item.path for item in file.of(contents.MODEL)}
    for item in file.of(contents.SLOT):
        if item.path not in paths:
            raise CheckpointError(
                f"{file.path} contradicts itself: the variable of"
                f" {item.value.name!r} is not in it."
            )


def _with_learning_rate(
    file: Contents, learning_rate: float | None
) -> Contents:
    """Converts the slots of TF1's MomentumOptimizer."""
    if file.codec is not tf1 or "SGD" not in file.class_names:
        if learning_rate is not None:
            raise CheckpointError(
                f"{file.path} ({file.format}): --learning-rate is for the slots"
                " of TF1's MomentumOptimizer, and it has none."
            )
        return file
    if learning_rate is None:
        raise CheckpointError(
            f"{file.path}: TF1's MomentumOptimizer sums gradients where"
            " OptimizerV2 sums steps. The one is the other times minus the"
            " learning rate, if that was constant, but the file does not have"
            " it: pass it with --learning-rate."
        )
    return tf1.with_learning_rate(file, learning_rate)


def _file_with_architecture(file: Contents, to_h5: bool) -> str:
    """The source itself, if its kind has the architecture."""
    if file.codec in (h5, keras_3):
        return file.path
    raise _no_architecture(file, None, to_h5)


def _no_architecture(
    file: Contents, model: str | None, to_h5: bool
) -> CheckpointError:
    return CheckpointError(
        f"{model} holds no architecture."
        if model is not None
        else f"{file.path} ({file.format}) does not say"
        f" {file.codec.unsaid(file, to_h5)}. Pass the architecture with"
        " --model: a .keras or .h5 file of the whole model, or a .json file of"
        " what model.to_json() returned. Or load it in Python into the model,"
        " and write that with keras_legacy_opt.checkpoints.save."
    )


def _counter(
    file: Contents, progress: Callable[[int, int], None]
) -> Callable[[Item], np.ndarray]:
    """The function that reads an item, and tells how far that is."""
    total = sum(
        item.number_of_bytes
        for item in file.items
        if item.kind != contents.FOREIGN
    )
    done = 0

    def read(item: Item) -> np.ndarray:
        nonlocal done
        memory.give_back(item.number_of_bytes)  # Of the last ones.
        array = item.value.checked(file.path)
        done += item.number_of_bytes
        progress(done, total)
        return array

    return read
