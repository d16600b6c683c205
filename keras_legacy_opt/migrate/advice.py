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

MAGIC = "code in a line for the notebook is not rewritten: do it by hand"
ADDONS = (
    "tensorflow_addons does not run beside Keras 3; keras_legacy_opt.addons has"
    " its optimizers only"
)
MAYBE_NAME = (
    "if this is an optimizer's name or configuration, it means Keras'"
    " optimizer: pass keras_legacy_opt.get(it)"
)
_KEYWORDS = (
    "if there is an optimizer's name among these arguments, it means Keras'"
    " optimizer: it has to be keras_legacy_opt.get(name)"
)
_DEFAULT = (
    "`compile` without an optimizer takes Keras' RMSprop: say"
    " optimizer=keras_legacy_opt.RMSprop()"
)
_RESTORE = (
    "build the model before you restore a tf.train.Checkpoint of it: in Keras 3"
    " an earlier restore destroys the model in silence; or use"
    " keras_legacy_opt.checkpoints.restore"
)
_BACKEND = "Keras 3's `backend` has few of these functions: use TensorFlow's"


# Arguments that no other `compile` has.
_OF_KERAS = ("loss", "metrics", "loss_weights", "weighted_metrics")


def other_optimizer(name: str) -> str:
    """Of an optimizer that legacy never had."""
    if name.startswith("tensorflow_addons."):
        return ADDONS
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


def of_compile_without(node: cst.Call) -> str | None:
    """Of a call of a model's `compile` in which no optimizer is seen."""
    if any(argument.star for argument in node.args):
        return _KEYWORDS
    if any(is_keyword(a, name) for a in node.args for name in _OF_KERAS):
        return _DEFAULT
    return None
