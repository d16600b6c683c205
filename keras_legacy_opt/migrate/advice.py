"""What is seen in old code, and has to be changed by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import libcst as cst

STRING = (
    "an optimizer's name as an argument: where `compile` gets it, it has to be"
    " keras_legacy_opt.get(name)"
)
MODULE_AS_VALUE = (
    "the module of Keras' optimizers is handed on: pass keras_legacy_opt"
    " instead, if its receiver wants legacy's"
)
STAR = "`import *` of Keras' optimizers: import keras_legacy_opt's names"

_ADDONS = (
    "tensorflow_addons does not run beside Keras 3: its optimizers as classes"
    " of your own can be derived from keras_legacy_opt.Optimizer"
)
_RESTORE = (
    "build the model before you restore a tf.train.Checkpoint of it: in Keras 3"
    " an earlier restore destroys the model in silence; or use"
    " keras_legacy_opt.checkpoints.restore"
)
_BACKEND = "Keras 3's `backend` has few of these functions: use TensorFlow's"


def other_optimizer(name: str) -> str:
    """Of an optimizer that legacy never had."""
    return f"{name.rpartition('.')[2]} was no legacy optimizer: it stays Keras'"


def is_keyword(argument: cst.Arg, name: str) -> bool:
    """Whether an argument is given by this name."""
    return argument.keyword is not None and argument.keyword.value == name


def of_call(node: cst.Call, names: Collection[str]) -> Iterator[str]:
    """Of a call of what has, by the imports, these full names."""
    for argument in node.args:
        if is_keyword(argument, "save_format"):
            yield (
                "`save_format=`: Keras 3 has none, and goes by the file's name"
                " (.keras, .h5; `model.export` for a SavedModel)"
            )
    if any(name.endswith("train.Checkpoint") for name in names):
        yield _RESTORE
    for name in names:
        module, _, function = name.rpartition(".")
        if module.endswith("keras.backend") and function == "function":
            yield "`K.function`: Keras 3 has none; call a keras.Model"
        elif module == "keras.backend":
            yield _BACKEND


def of_import(name: str) -> Iterator[str]:
    """Of an import of what has this full name."""
    if name.startswith("tensorflow_addons.optimizers"):
        yield _ADDONS
