"""How our classes become optimizers of every Keras, whatever comes first."""

import os
import subprocess
import sys
import textwrap
import types

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import private_api

BASES = {
    "keras3": keras.optimizers.Optimizer,
    "tf_keras": tf_keras.optimizers.legacy.Optimizer,
}
LOSS_SCALE_BASES = {
    "keras3": keras.optimizers.LossScaleOptimizer,
    "tf_keras": tf_keras.mixed_precision.LossScaleOptimizer,
}
CLASSES = [getattr(keras_legacy_opt, row.name) for row in registry.BUILT_IN]
DOUBLES = [
    type(registry.Case(row, "plain").build(registry.SUBJECT))
    for row in registry.THIRD_PARTY
]

# Attributes that a host's constructor sets, and why ours go without them.
ABSENT = {
    "_lock": "Keras 3's tracker, which we do not use",
    "_tracker": "Keras 3's tracker, which we do not use",
    "_learning_rate": "Keras 3's variable; ours is a hyperparameter",
    "_trainable_variables": "of Keras 3's moving average",
    "_trainable_variables_indices": "of Keras 3's own update",
    "_variables": "Keras 3's store of what `variables` returns",
    "_clipnorm_fn": "tf_keras' closure over `clipnorm`",
    "_clipvalue_fn": "tf_keras' closure over `clipvalue`",
    "_global_clipnorm_fn": "tf_keras' closure over `global_clipnorm`",
}


def _ours(cls):
    module = cls.__module__.partition(".")[0]
    return module in (keras_legacy_opt.__name__, "third_party") or cls in (
        private_api.Trackable,
        object,
    )


@pytest.mark.parametrize("host", BASES)
@pytest.mark.parametrize("cls", [*CLASSES, *DOUBLES])
def test_no_name_leaks_from_a_host(host, cls):
    """Every name that a host's base has is ours, or is not there."""
    assert not _leaks(BASES[host], cls)
    assert issubclass(cls, BASES[host])


@pytest.mark.parametrize("bases", [BASES, LOSS_SCALE_BASES])
@pytest.mark.parametrize("host", BASES)
def test_no_name_leaks_from_a_loss_scale_optimizer(host, bases):
    cls = keras_legacy_opt.LossScaleOptimizer
    assert not _leaks(bases[host], cls)
    assert issubclass(cls, bases[host])
    assert not issubclass(keras_legacy_opt.Adam, LOSS_SCALE_BASES[host])


def _leaks(base, cls):
    leaks = []
    for name in dir(base):
        definer = next(c for c in cls.__mro__ if name in vars(c))
        if not _ours(definer):
            leaks.append(f"{definer.__module__}.{definer.__name__}.{name}")
    return leaks


def test_every_attribute_of_a_host_is_there_or_known_to_be_absent():
    ours = keras_legacy_opt.Adam()
    theirs = {
        **vars(keras.optimizers.Adam()),
        **vars(tf_keras.optimizers.legacy.Adam()),
    }
    missing = {
        name
        for name in theirs
        if not name.startswith("_self_") and not hasattr(ours, name)
    }
    assert missing == ABSENT.keys()


@pytest.mark.parametrize("name", ["optimizers", "inner_optimizer"])
def test_is_not_taken_for_a_wrapper(name):
    assert not hasattr(keras_legacy_opt.Adam(), name)


def test_hidden_names_are_hidden_and_may_be_reused():
    assert not hasattr(keras_legacy_opt.Adam(), "_clip_gradients")
    with pytest.raises(AttributeError, match="no attribute '_clip_gradients'"):
        keras_legacy_opt.Adam()._clip_gradients([])

    class Own(keras_legacy_opt.SGD):
        def _clip_gradients(self, grads):
            return "own"

    assert Own()._clip_gradients([]) == "own"
    optimizer = keras_legacy_opt.SGD()
    optimizer._set_hyper("_use_weight_decay", 0.5)
    assert float(optimizer._use_weight_decay) == 0.5


def test_attributes_can_be_deleted():
    optimizer = keras_legacy_opt.Adam()
    optimizer.note = 1
    del optimizer.note
    assert not hasattr(optimizer, "note")


def test_attributes_have_no_side_effects():
    """Keras' saver looks at every attribute."""
    optimizer = keras_legacy_opt.Adam()
    optimizer.build([])
    before = len(optimizer.weights), optimizer.get_config()
    for name in dir(optimizer):
        getattr(optimizer, name, None)
    assert (len(optimizer.weights), optimizer.get_config()) == before


ORDERS = {
    "ours first": "import keras_legacy_opt, keras, tf_keras",
    "ours last": "import keras, tf_keras, keras_legacy_opt",
    "ours between": "import tf_keras, keras_legacy_opt, keras",
    "lazily": "import tensorflow as tf, keras_legacy_opt; tf.keras.Model",
}


def _run(code, **environment):
    result = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", code],
        env={**os.environ, **environment, "TF_CPP_MIN_LOG_LEVEL": "3"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.mark.parametrize("legacy", ["0", "1"])
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.processes
def test_import_orders(order, legacy):
    """A subclass made before the hosts came is theirs, too."""
    first, _, rest = ORDERS[order].partition(", ")
    code = textwrap.dedent(f"""
        {first}
        import keras_legacy_opt
        class Own(keras_legacy_opt.Adam):
            pass
        own = Own()
        {"import " + rest if not rest.startswith("keras_legacy_opt;") else ""}
        import numpy as np, tensorflow as tf, keras, tf_keras
        for cls in (Own, keras_legacy_opt.SGD):
            assert issubclass(cls, keras.optimizers.Optimizer)
            assert issubclass(cls, tf_keras.optimizers.legacy.Optimizer)
        assert tf.keras.optimizers.get(own) is own
        schedule = keras_legacy_opt.schedules.CosineDecay(0.1, 10)
        for host in (keras, tf_keras):
            base = host.optimizers.schedules.LearningRateSchedule
            assert isinstance(schedule, base)
            model = host.Sequential([host.layers.Dense(1)])
            model.compile(own, "mse")
            model.fit(np.ones((1, 1)), np.ones((1, 1)), verbose=0)
            config = host.optimizers.serialize(keras_legacy_opt.SGD(schedule))
            again = host.optimizers.deserialize(config)
            assert type(again) is keras_legacy_opt.SGD
        assert int(own.iterations) == 2
        import os
        os._exit(0)  # At once: to take all modules apart takes a second.
    """)
    _run(code, TF_USE_LEGACY_KERAS=legacy)


@pytest.mark.processes
def test_broken_host_becomes_a_warning():
    """An import never fails because of us."""
    code = textwrap.dedent("""
        import types, warnings
        from keras_legacy_opt.hosts import adoption
        broken = types.ModuleType("broken_keras")
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            adoption._adopt_or_warn(broken)
        (warning,) = caught
        assert "could not join broken_keras" in str(warning.message)
    """)
    _run(code)


@pytest.mark.processes
def test_subclass_in_a_module_named_like_keras(tmp_path):
    """tf_keras takes unregistered modules named keras... for its own."""
    module = tmp_path / "keras_like_module.py"
    module.write_text(
        "import keras_legacy_opt\nclass Mine(keras_legacy_opt.SGD): pass\n"
    )
    code = textwrap.dedent("""
        import keras, tf_keras
        from keras_like_module import Mine
        for host in (keras, tf_keras):
            config = host.optimizers.serialize(Mine(0.5))
            again = host.optimizers.deserialize(
                config, custom_objects={"Mine": Mine})
            assert type(again) is Mine
            assert float(again.learning_rate) == 0.5
    """)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    _run(code, PYTHONPATH=path)


def test_variables_of_layers_are_known_by_the_class_of_any_release():
    """Up to Keras 3.6, the exported class is a subclass of what layers make."""
    made = type(keras.layers.Dense(1).add_weight(shape=(1,)))
    exported = type("Variable", (made,), {"__module__": "keras.src.backend"})
    older = types.SimpleNamespace(__name__="keras", Variable=exported)

    for library in (keras, older):
        known = private_api.variable_class(library)
        assert issubclass(made, known)
        assert not issubclass(tf.Variable, known)
        assert not issubclass(keras.KerasTensor, known)


def test_variables_of_a_class_of_ones_own_are_trained():
    class Counted(keras.Variable):
        pass

    variables = [cls([1.0, 2.0]) for cls in (keras.Variable, Counted)]
    optimizer = keras_legacy_opt.SGD(0.5, momentum=0.5)
    for _ in range(2):
        optimizer.apply_gradients([(tf.ones(2), v) for v in variables])
    for variable in variables:
        np.testing.assert_array_equal(variable, [-0.25, 0.75])
        assert optimizer.get_slot(variable, "momentum") is not None


# Attributes of ours that neither legacy nor Keras 3 has.  A subclass of a third
# party may have any name of its own: keep these few, and unlikely.
ADDED = {
    "_adds",
    "_around_planned",
    "_averaging",
    "_check_hyper",
    "_count_skipped_step",
    "_clip_limits",
    "_declaration",
    "_early_slots",
    "_first_slots",
    "_first_values",
    "_init_process_state",
    "_is_checkpointed",
    "_known_variables",
    "_make_hyper",
    "_own_depends_on",
    "_own_of",
    "_pending_weights",
    "_shares",
    "_slots_anew",
    "_slots_out_of_turn",
    "_takes_weights_without_iterations",
    "_traced_without_decay",
    "_watch",
}


# Of Keras' optimizers, but not yet in the oldest Keras 3.
LATER = {"_obj_type", "add_optimizer_variables"}


def test_few_names_are_added_to_those_of_legacy():
    theirs = {
        *LATER,
        *dir(keras.optimizers.Adam()),
        *dir(tf_keras.optimizers.legacy.Adam()),
    }
    added = {
        name
        for name in dir(keras_legacy_opt.Adam())
        # Python mangles the names that are private to one class.
        if name not in theirs and "Mixin__" not in name
        if not name.startswith(("__", "_Optimizer__"))
    }
    assert added == ADDED
