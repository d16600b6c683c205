"""`install` before, between and after the imports of Kerases."""

import os
import subprocess
import sys
import textwrap

import pytest

pytestmark = pytest.mark.processes

BEFORE = "import keras_legacy_opt.auto"
ORDERS = {
    "first": f"""
        {BEFORE}
        from tensorflow.keras.optimizers import Adam
        import tensorflow as tf, keras, tf_keras
        """,
    "other Keras first": f"""
        import OTHER
        {BEFORE}
        from tensorflow.keras.optimizers import Adam
        import tensorflow as tf, keras, tf_keras
        """,
    "last": f"""
        import tensorflow as tf, keras, tf_keras
        from tensorflow.keras import optimizers
        {BEFORE}
        from tensorflow.keras.optimizers import Adam
        assert optimizers.Adam is Adam
        """,
    "upgraded": """
        import keras_legacy_opt
        keras_legacy_opt.install()
        from tensorflow.keras import optimizers
        Legacy = optimizers.legacy.Adam
        import tensorflow as tf, keras, tf_keras
        keras_legacy_opt.install(top_level=True)
        Adam = tf.keras.optimizers.Adam
        assert Legacy is Adam
        """,
}
CHECKS = """
import keras_legacy_opt
assert Adam is keras_legacy_opt.Adam
for ko in (keras.optimizers, tf_keras.optimizers, tf.keras.optimizers,
           tf.optimizers, tf.compat.v1.keras.optimizers):
    assert ko.Adam is ko.legacy.Adam is Adam, ko
    assert ko.experimental.Adam is not Adam, ko
for library in (keras, tf_keras):
    model = library.Sequential([library.layers.Dense(1)])
    model.compile("adam")
    assert type(model.optimizer) is Adam
keras_legacy_opt.uninstall()
for ko in (keras.optimizers, tf_keras.optimizers, tf.keras.optimizers,
           tf.optimizers, tf.compat.v1.keras.optimizers):
    assert ko.Adam is not Adam, ko
    assert ko.legacy.Adam is not Adam, ko
import os
os._exit(0)  # At once: to take all modules apart takes a second.
"""


@pytest.mark.parametrize("legacy_keras", ["0", "1"])
@pytest.mark.parametrize("order", ORDERS)
def test_order(order, legacy_keras):
    other = {"0": "tf_keras", "1": "keras"}[legacy_keras]
    code = textwrap.dedent(ORDERS[order]).replace("OTHER", other) + CHECKS
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env={**os.environ, "TF_USE_LEGACY_KERAS": legacy_keras},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
