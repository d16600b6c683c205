"""Files of TensorFlow 2.4's Ftrl with L2 shrinkage, which differ from others.

That release stored the slot `linear` of a variable with dense gradients
multiplied by the learning rate, and divided it again when it used it.  No file
says so, but the values do: after each step the weights are a function of the
slots (see `keras_legacy_opt.Ftrl`), and only one of the two readings gives the
weights that are in the file.
"""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from keras_legacy_opt.checkpoints.plan import Plan
from keras_legacy_opt.checkpoints.values import readable
from keras_legacy_opt.rules.ftrl import Ftrl

# Rounding is of the order of 1e-6; a wrong reading is off by a whole factor.
_TOLERANCE = 1e-3


def repair(plan: Plan) -> None:
    """Divides the slots `linear` of the plan that need it."""
    for prefix, optimizer in plan.targets.optimizers:
        if (
            isinstance(optimizer, Ftrl)
            and optimizer._l2_shrinkage_regularization_strength > 0
            and isinstance(optimizer._hyper["learning_rate"], tf.Variable)
        ):
            with readable(plan.report.path):
                _repair(prefix, plan)


def _repair(prefix: str, plan: Plan) -> None:
    """Likewise, of the optimizer whose names begin so."""
    hypers = {
        name.removeprefix(prefix): plan.result_of(variable)
        for name, variable in plan.targets.optimizer_children.items()
        if name.startswith(prefix)
    }
    lr = hypers["learning_rate"]
    for weight in plan.targets.weights:
        slots = plan.targets.slots(weight)
        stored = plan.value_of(slots.get("linear"))
        if stored is None or plan.targets.owner_of(slots["linear"]) != prefix:
            continue
        variables = (slots["accumulator"], slots["linear"], weight)
        n, z, w = map(plan.result_of, variables)
        if not np.shape(n) == np.shape(z) == np.shape(w):
            continue
        if _error(w, n, z, hypers) > _TOLERANCE > _error(w, n, z / lr, hypers):
            plan.assign(
                stored.map(
                    lambda linear, lr=lr: linear / lr,
                    "divided by the learning rate: written by TensorFlow"
                    " 2.4 or older",
                ),
                slots["linear"],
            )


def _error(
    w: np.ndarray,
    n: np.ndarray,
    z: np.ndarray,
    hypers: dict[str, np.ndarray],
) -> float:
    """How far the weights are from what the slots say, relative to them."""
    moved = z != 0
    if not moved.any():
        return 0.0
    lr = hypers["learning_rate"]
    l1 = hypers["l1_regularization_strength"]
    l2 = hypers["l2_regularization_strength"] + hypers["beta"] / (2 * lr)
    quadratic = n ** -hypers["learning_rate_power"] / lr + 2 * l2
    expected = (np.clip(z, -l1, l1) - z) / quadratic
    scale = np.abs(w[moved]).max() or 1.0
    return float(np.abs(expected - w)[moved].max() / scale)
