"""`.weights.h5` and `.keras` files, into a model with its optimizer."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

from keras_legacy_opt import loading, saving
from keras_legacy_opt.checkpoints import archive, safe_hdf5
from keras_legacy_opt.checkpoints import report as reports
from keras_legacy_opt.checkpoints.limits import Limits
from keras_legacy_opt.checkpoints.report import CheckpointError, Report
from keras_legacy_opt.checkpoints.targets import Targets

FORMAT = "Keras 3 HDF5"


def restore(
    path: str, model: Any, optimizer: Any | None, strict: bool, limits: Limits
) -> Report:
    """Lets the Keras of the model read the file: all of it, or nothing.

    Raises:
      CheckpointError: if the file does not fit, or holds no state of the
        optimizer and `strict`.
    """
    if not hasattr(type(model), "load_weights"):
        raise CheckpointError(
            f"{path} holds a model of Keras: pass the model to restore it into."
            f" Received: model={model!r}."
        )
    if optimizer is not None and optimizer is not _inner(model.optimizer):
        raise CheckpointError(
            f"{path} is read by model.load_weights, for the optimizer that the"
            " model was compiled with: compile it with this one."
        )
    targets = Targets(model, optimizer)
    if optimizer is not None and not model.optimizer.built:
        model.optimizer.build(model.trainable_variables)  # One around it.
    variables = [*targets.all(), *targets.loss_scale.values()]
    before = saving.fetch_all(variables)
    report = Report(path, FORMAT)
    try:
        with loading.of_everything(), _checked(path, limits) as weights:
            _load(weights, model, strict)
    except Exception as error:  # Whatever Keras says of a damaged file.
        saving.assign_all(variables, before)
        raise CheckpointError(
            f"{path} is damaged, or does not fit the model or its optimizer."
            f" Nothing was changed. The reader said: {error}"
        ) from error
    for variable in variables:
        report.add(
            reports.RESTORED,
            "",
            targets.name(variable),
            tuple(variable.shape),
        )
    return report


@contextlib.contextmanager
def _checked(path: str, limits: Limits) -> Iterator[str]:
    """The name of a file of weights that speaks of no other files.

    Raises:
      CheckpointError: if it does, or would take too much memory.
    """
    with contextlib.ExitStack() as stack:
        if archive.is_archive(path):
            folder = stack.enter_context(tempfile.TemporaryDirectory())
            weights = os.path.join(folder, "model.weights.h5")
            with open(weights, "wb") as file:
                archive.unpack(path, "model.weights.h5", file, limits)
            path = weights
        with safe_hdf5.open_file(path, limits):
            pass
        yield path


def _load(path: str, model: Any, strict: bool) -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.load_weights(path, skip_mismatch=not strict)
    said = [str(warning.message) for warning in caught]
    if strict:
        for message in said:
            if saving.NO_STATE in message:
                raise CheckpointError(message)
    for message in said:
        warnings.warn(message, stacklevel=4)


def _inner(optimizer: Any) -> Any:
    return getattr(optimizer, "inner_optimizer", optimizer)
