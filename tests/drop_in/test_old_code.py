"""Code in the styles of ten years, unedited, ends with legacy's bits."""

import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt

# Of what other tests have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*imported from Keras before")

KERASES = {"keras": keras, "tf_keras": tf_keras}
LEGACY = tf_keras.optimizers.legacy
SCHEDULES = tf_keras.optimizers.schedules


def decayed(cls, schedules):
    return cls(schedules.ExponentialDecay(0.5, 2, 0.5), momentum=0.9)


# {style: (code, how legacy makes the same optimizer)}
TOP_LEVEL = {
    "attribute": (
        """
        import tensorflow as tf
        optimizer = tf.keras.optimizers.Adam(lr=0.1, decay=0.01, clipnorm=0.5)
        """,
        lambda: LEGACY.Adam(lr=0.1, decay=0.01, clipnorm=0.5),
    ),
    "without keras": (
        """
        import tensorflow as tf
        optimizer = tf.optimizers.Nadam(0.1)
        """,
        lambda: LEGACY.Nadam(0.1),
    ),
    "version 1": (
        """
        import tensorflow.compat.v1 as tf
        optimizer = tf.keras.optimizers.Adagrad(0.1)
        """,
        lambda: LEGACY.Adagrad(0.1),
    ),
    "class from a module": (
        """
        from tensorflow.keras.optimizers import RMSprop
        optimizer = RMSprop(learning_rate=0.1, momentum=0.9)
        """,
        lambda: LEGACY.RMSprop(0.1, momentum=0.9),
    ),
    "module in a list": (
        """
        from tensorflow.keras import layers, optimizers, losses
        optimizer = optimizers.SGD(
            optimizers.schedules.ExponentialDecay(0.5, 2, 0.5), momentum=0.9)
        """,
        lambda: decayed(LEGACY.SGD, SCHEDULES),
    ),
    "module by another name": (
        """
        import tensorflow.keras.optimizers as ko
        optimizer = ko.Adamax(lr=0.1)
        """,
        lambda: LEGACY.Adamax(0.1),
    ),
    "keras alone": (
        """
        import keras
        from keras.optimizers import SGD
        schedule = keras.optimizers.schedules.ExponentialDecay(0.5, 2, 0.5)
        optimizer = SGD(schedule, momentum=0.9)
        """,
        lambda: decayed(LEGACY.SGD, SCHEDULES),
    ),
    "by name": (
        """
        import tensorflow as tf
        optimizer = tf.keras.optimizers.get("Adadelta")
        """,
        lambda: LEGACY.Adadelta(),
    ),
    "config and back": (
        """
        import tensorflow as tf
        ko = tf.keras.optimizers
        old = {"class_name": "Ftrl", "config": {"learning_rate": 0.1}}
        config = ko.serialize(ko.deserialize(old))
        optimizer = ko.get(config)
        """,
        lambda: LEGACY.Ftrl(0.1),
    ),
    "subclass through an alias": (
        """
        from tensorflow import keras as k
        Base = k.optimizers.Optimizer
        class Halving(Base):
            def __init__(self, learning_rate=0.1, name="Halving", **kwargs):
                super().__init__(name, **kwargs)
                self._set_hyper(
                    "learning_rate", kwargs.get("lr", learning_rate))
            def _create_slots(self, var_list):
                for var in var_list:
                    self.add_slot(var, "halves")
            def _resource_apply_dense(self, grad, var, apply_state=None):
                halves = self.get_slot(var, "halves")
                halves.assign(0.5 * (halves + grad))
                lr = self._decayed_lr(var.dtype.base_dtype)
                return var.assign_sub(lr * halves)
            def _resource_apply_sparse(self, grad, var, indices, **kwargs):
                halves = self.get_slot(var, "halves")
                halves.scatter_add(
                    __import__("tensorflow").IndexedSlices(grad, indices))
                lr = self._decayed_lr(var.dtype.base_dtype)
                return var.assign_sub(lr * halves)
            def get_config(self):
                return super().get_config()
        optimizer = Halving(clipvalue=0.5)
        """,
        None,
    ),
    "loss scale": (
        """
        import tensorflow as tf
        inner = tf.keras.optimizers.SGD(0.1, nesterov=True, momentum=0.9)
        scaled = tf.keras.mixed_precision.LossScaleOptimizer(inner)
        assert scaled.inner_optimizer is inner
        optimizer = inner
        """,
        lambda: LEGACY.SGD(0.1, nesterov=True, momentum=0.9),
    ),
}
EVERYWHERE = {
    "legacy": (
        """
        import tensorflow as tf
        optimizer = tf.keras.optimizers.legacy.Adam(0.1, amsgrad=True)
        assert isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer)
        """,
        lambda: LEGACY.Adam(0.1, amsgrad=True),
    ),
    "class from legacy": (
        """
        from tensorflow.keras.optimizers.legacy import RMSprop as Prop
        optimizer = Prop(0.1, centered=True)
        """,
        lambda: LEGACY.RMSprop(0.1, centered=True),
    ),
    "legacy if there is one": (
        """
        import tensorflow as tf
        ko = tf.keras.optimizers
        if hasattr(ko, "legacy"):
            ko = ko.legacy
        optimizer = ko.Adam(lr=0.1)
        """,
        lambda: LEGACY.Adam(lr=0.1),
    ),
    "file of Keras 2.4": (
        """
        from keras.optimizer_v2.gradient_descent import SGD
        from keras.optimizer_v2 import learning_rate_schedule
        optimizer = SGD(
            learning_rate_schedule.ExponentialDecay(0.5, 2, 0.5), momentum=0.9)
        """,
        lambda: decayed(LEGACY.SGD, SCHEDULES),
    ),
    "file of Keras 2.10": (
        """
        from keras.optimizers.optimizer_v2 import adam, optimizer_v2
        optimizer = adam.Adam(0.1)
        assert isinstance(optimizer, optimizer_v2.OptimizerV2)
        """,
        lambda: LEGACY.Adam(0.1),
    ),
    "file of TensorFlow": (
        """
        from tensorflow.python.keras.optimizer_v2 import adam as adam_module
        optimizer = adam_module.Adam(0.1)
        """,
        lambda: LEGACY.Adam(0.1),
    ),
}
STYLES = {**TOP_LEVEL, **EVERYWHERE}


def optimizer_of(code):
    scope = {"__name__": "old_code"}
    exec(textwrap.dedent(code), scope)
    return scope["optimizer"]


def trained(optimizer):
    """Values after steps in a loop, and in a function, of both kinds."""
    rng = np.random.default_rng(0)
    dense = tf.Variable(rng.normal(size=(3, 2)).astype("f"), name="dense")
    table = tf.Variable(rng.normal(size=(4, 2)).astype("f"), name="table")

    def step(target):
        with tf.GradientTape() as tape:
            rows = tf.gather(table, [0, 2, 0])
            loss = tf.reduce_sum((rows @ tf.transpose(dense) - target) ** 2)
        grads = tape.gradient(loss, [dense, table])
        optimizer.apply_gradients(zip(grads, [dense, table], strict=True))

    function = tf.function(step)
    for how in (step, step, function, function):
        how(tf.constant(rng.normal(size=(3, 3)), tf.float32))
    return [dense.numpy(), table.numpy(), *optimizer.get_weights()]


def assert_same(values, expected):
    for value, other in zip(values, expected, strict=True):
        np.testing.assert_array_equal(value, other)


@pytest.mark.filterwarnings("ignore:The .*`lr`:UserWarning")
@pytest.mark.parametrize(
    ("style", "top_level"),
    [
        *((style, True) for style in STYLES),
        *((style, False) for style in EVERYWHERE),
    ],
)
def test_loop(style, top_level, plain_path):
    code, make = STYLES[style]
    with keras_legacy_opt.installed(top_level):
        optimizer = optimizer_of(code)
        assert isinstance(optimizer, keras_legacy_opt.Optimizer)
        values = trained(optimizer)
    if make is None:  # The class itself is the user's: on legacy's base.
        code = code.replace("k.optimizers.Optimizer", "legacy.Optimizer")
        scope = {"__name__": "old_code", "legacy": LEGACY}
        exec(textwrap.dedent(code), scope)
        legacy = scope["optimizer"]
    else:
        legacy = make()
    assert_same(values, trained(legacy))


def fitted(library, optimizer):
    library.utils.set_random_seed(1)
    model = library.Sequential(
        [
            library.layers.Input((3,), dtype="int32"),
            library.layers.Embedding(5, 2),
            library.layers.Flatten(),
            library.layers.Dense(2, activation="tanh"),
            library.layers.Dense(1),
        ]
    )
    model.compile(optimizer, loss="mse")
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 5, (16, 3)), rng.normal(size=(16, 1))
    model.fit(x, y, batch_size=4, epochs=2, shuffle=False, verbose=0)
    return model.get_weights()


@pytest.mark.parametrize("host", KERASES)
def test_fit_by_name(host, plain_path):
    library = KERASES[host]
    with keras_legacy_opt.installed(top_level=True):
        weights = fitted(library, "rmsprop")
    expected = (
        LEGACY.RMSprop() if host == "tf_keras" else keras_legacy_opt.RMSprop()
    )
    assert_same(weights, fitted(library, expected))
