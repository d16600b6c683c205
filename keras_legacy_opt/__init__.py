"""TensorFlow's legacy Keras optimizers (OptimizerV2), for every Keras."""

import importlib
import types
from typing import TYPE_CHECKING, Any

from keras_legacy_opt import addons, hosts, schedules, supported
from keras_legacy_opt.backends.explain import explain
from keras_legacy_opt.drop_in import install, installed, uninstall
from keras_legacy_opt.hosts import keras_3_api
from keras_legacy_opt.hosts.training import train_step, with_minimize
from keras_legacy_opt.loss_scale import LossScaleOptimizer
from keras_legacy_opt.optimizer import Optimizer
from keras_legacy_opt.rules.adadelta import Adadelta
from keras_legacy_opt.rules.adagrad import Adagrad
from keras_legacy_opt.rules.adam import Adam
from keras_legacy_opt.rules.adamax import Adamax
from keras_legacy_opt.rules.ftrl import Ftrl
from keras_legacy_opt.rules.nadam import Nadam
from keras_legacy_opt.rules.rmsprop import RMSprop
from keras_legacy_opt.rules.sgd import SGD
from keras_legacy_opt.serialization import deserialize, get, serialize
from keras_legacy_opt.state import saving

if TYPE_CHECKING:
    from keras_legacy_opt import checkpoints, summaries

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Ftrl",
    "LossScaleOptimizer",
    "Nadam",
    "Optimizer",
    "RMSprop",
    "addons",
    "checkpoints",
    "deserialize",
    "explain",
    "get",
    "install",
    "installed",
    "schedules",
    "serialize",
    "summaries",
    "train_step",
    "uninstall",
    "with_minimize",
]


# Imported when somebody asks: they take a third of the time of all.
_LATER = "checkpoints", "summaries"


def __getattr__(name: str) -> types.ModuleType:
    if name in _LATER:
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _complete_saved_model(path: str, model: Any, optimizer: Any) -> None:
    restoring = importlib.import_module(f"{__name__}.checkpoints.restoring")
    restoring.restore_optimizer(path, model, optimizer)


def _complete_hdf5(
    file: Any, model: Any, optimizer: Any, weights: list[Any]
) -> None:
    by_names = importlib.import_module(f"{__name__}.checkpoints.by_names")
    by_names.place(file, model, optimizer, weights)


def _note_hdf5(
    file: Any, model: Any, optimizer: Any, weights: list[Any]
) -> None:
    by_names = importlib.import_module(f"{__name__}.checkpoints.by_names")
    by_names.note(file, model, optimizer, weights)


hosts.watch_imports(
    hosts.Hooks(
        complete_saved_model=_complete_saved_model,
        complete_hdf5=_complete_hdf5,
        note_hdf5=_note_hdf5,
        complete_archive=saving.complete_loading,
        pass_loss_on=keras_3_api.passed_on,
    )
)
supported.warn_if_unknown()
