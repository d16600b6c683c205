"""Write a custom optimizer in the legacy style and train with it in Keras 3.

Lion (Chen et al., 2023) moves every weight by the sign of an interpolation
between its momentum and its gradient.  The model looks up an embedding for each
pixel of a digit, so the optimizer sees dense and sparse gradients.
"""

import argparse
import sys
import time

import keras
import numpy as np
import tensorflow as tf
from common import digits, positive

import keras_legacy_opt

ACCURACY_GOAL = 0.91


# --8<-- [start:optimizer]
@keras.saving.register_keras_serializable("examples")
class Lion(keras_legacy_opt.Optimizer):
    """Lion: m is the momentum, beta_1 and beta_2 weigh it against gradients."""

    _HAS_AGGREGATE_GRAD = True

    def __init__(
        self, learning_rate=1e-4, beta_1=0.9, beta_2=0.99, name="Lion", **kwargs
    ):
        super().__init__(name, **kwargs)
        self._set_hyper("learning_rate", learning_rate)
        self._set_hyper("decay", self._initial_decay)
        self._set_hyper("beta_1", beta_1)
        self._set_hyper("beta_2", beta_2)

    def _create_slots(self, var_list):
        for var in var_list:
            self.add_slot(var, "m")

    def _step(self, m, grad, dtype):
        """Return the update of the variable and the new momentum."""
        beta_1 = self._get_hyper("beta_1", dtype)
        beta_2 = self._get_hyper("beta_2", dtype)
        update = self._decayed_lr(dtype) * tf.sign(
            m + (1 - beta_1) * (grad - m)
        )
        return update, m + (1 - beta_2) * (grad - m)

    def _resource_apply_dense(self, grad, var, apply_state=None):
        m = self.get_slot(var, "m")
        update, new_m = self._step(m, grad, var.dtype.base_dtype)
        return tf.group(var.assign_sub(update), m.assign(new_m))

    def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
        m = self.get_slot(var, "m")
        rows = tf.gather(m, indices)
        update, new_rows = self._step(rows, grad, var.dtype.base_dtype)
        return tf.group(
            self._resource_scatter_add(var, indices, -update),
            self._resource_scatter_update(m, indices, new_rows),
        )

    def get_config(self):
        names = ("learning_rate", "decay", "beta_1", "beta_2")
        values = {n: self._serialize_hyperparameter(n) for n in names}
        return {**super().get_config(), **values}


# --8<-- [end:optimizer]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=positive, default=20)
    args = parser.parse_args()
    keras.utils.set_random_seed(0)

    # One row of the embedding for each of 64 pixels and 5 shades of grey.
    x_train, x_test, y_train, y_test = digits()
    x_train, x_test = (
        x.reshape(-1, 64).astype(np.int32) // 4 + 5 * np.arange(64)
        for x in (x_train, x_test)
    )
    model = keras.Sequential(
        [
            keras.layers.Input((64,)),
            keras.layers.Embedding(64 * 5, 32),
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(10),
        ]
    )
    schedule = keras_legacy_opt.schedules.CosineDecay(
        5e-3, decay_steps=args.epochs * -(-len(x_train) // 32)
    )
    model.compile(
        optimizer=Lion(schedule),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    start = time.perf_counter()
    model.fit(x_train, y_train, epochs=args.epochs, verbose=2)
    seconds = time.perf_counter() - start
    _, accuracy = model.evaluate(x_test, y_test, verbose=0)
    ok = accuracy > ACCURACY_GOAL
    print(
        f"{seconds:.1f} s, test accuracy {accuracy:.2%}, "
        f"above {ACCURACY_GOAL:.0%}: {ok}"
    )

    copy = keras_legacy_opt.get(keras_legacy_opt.serialize(model.optimizer))
    same = copy.get_config() == model.optimizer.get_config()
    print(f"{type(copy).__name__} comes back from its configuration: {same}")
    return 0 if ok and same else 1


if __name__ == "__main__":
    sys.exit(main())
