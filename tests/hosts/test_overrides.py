"""What a subclass overrides, called with `keras.Variable`s by Keras 3."""

import copy
import inspect
import pickle
from unittest import mock

import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras
import third_party

import keras_legacy_opt
from keras_legacy_opt import Adam, originals
from keras_legacy_opt.hosts import overrides


def make_block_model(host):
    """A model whose layers are inside of a layer, under known names."""
    layers = host.layers

    class Block(layers.Layer):
        def __init__(self):
            super().__init__(name="block")
            self.dense = layers.Dense(3, name="dense")
            self.norm = layers.LayerNormalization(name="LayerNorm")

        def call(self, inputs):
            return self.norm(self.dense(inputs))

    class Model(host.Model):
        def __init__(self):
            super().__init__(name="model")
            self.block = Block()

        def call(self, inputs):
            return self.block(inputs)

    return Model()


NAMES = {
    f"model/block/{name}:0"
    for name in (
        "dense/kernel",
        "dense/bias",
        "LayerNorm/gamma",
        "LayerNorm/beta",
    )
}
X, Y = np.ones((4, 2), "float32"), np.ones((4, 3), "float32")


def _fit(opt, model):
    model.compile(opt, "mse")
    model.fit(X, Y, verbose=0)


def _train_on_batch(opt, model):
    model.compile(opt, "mse", run_eagerly=True)
    model.train_on_batch(X, Y)


def _variables(model):
    model.compile(keras_legacy_opt.SGD(), "mse")
    model.train_on_batch(X, Y)  # Here the variables come into being.
    return model.trainable_variables


def _loss(model, variables):
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(X) - Y) ** 2)
    return loss, tape.gradient(loss, variables)


def _apply_gradients(opt, model):
    variables = _variables(model)
    grads = [tf.ones(v.shape) for v in variables]
    opt.apply_gradients(zip(grads, variables, strict=True))


def _apply(opt, model):
    variables = _variables(model)
    opt.apply([tf.ones(v.shape) for v in variables], variables)


def _minimize(opt, model):
    variables = _variables(model)
    opt.minimize(lambda: tf.reduce_mean(model(X) ** 2), variables)


def _minimize_by_callable(opt, model):
    variables = _variables(model)
    opt.minimize(
        lambda: tf.reduce_mean(model(X) ** 2), var_list=lambda: variables
    )


def _minimize_tape(opt, model):
    variables = _variables(model)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(model(X) ** 2)
    opt.minimize(loss, variables, tape=tape)


def _build(opt, model):
    opt.build(_variables(model))


def _slots(opt, model):
    for variable in _variables(model):
        slot = opt.add_slot(variable, "mine")
        assert opt.get_slot(variable, "mine") is slot


def _fit_in_float16(opt, model):
    model = make_block_model(keras)
    model.compile(keras.optimizers.LossScaleOptimizer(opt), "mse")
    model.fit(X, Y, verbose=0)


def _fit_in_our_float16(opt, model):
    model.compile(keras_legacy_opt.LossScaleOptimizer(opt), "mse")
    model.fit(X, Y, verbose=0)


# Which methods are called, at least, on each route.
ROUTES = {
    _fit: {"apply_gradients", "_create_slots"},
    _train_on_batch: {"apply_gradients", "_transform_gradients"},
    _fit_in_float16: {"apply", "apply_gradients", "build"},
    _fit_in_our_float16: {"_aggregate_gradients", "_create_slots"},
    _apply_gradients: {"apply_gradients", "_prepare", "_aggregate_gradients"},
    _apply: {"apply", "apply_gradients", "_create_all_weights"},
    _minimize: {"minimize", "_get_gradients", "apply_gradients"},
    _minimize_by_callable: {"minimize", "_compute_gradients"},
    _minimize_tape: {"minimize", "_compute_gradients", "_get_gradients"},
    _build: {"build", "_create_all_weights", "_create_slots"},
    _slots: {"add_slot", "get_slot"},
}


def legacy_override(name, seen, inherited):
    """An override that uses variables as only legacy's can be used."""

    def override(*args, **kwargs):
        given = tf.nest.flatten([args, kwargs])
        if callable(kwargs.get("var_list")):
            given += kwargs["var_list"]()
        for variable in given:
            assert not isinstance(variable, keras.Variable), name
            if isinstance(variable, tf.Variable):
                assert variable.ref()
                assert not variable._in_graph_mode
                assert "CPU" in variable.device
                variable.assign(variable, use_locking=True)
                seen.setdefault(name, set()).add(variable.name)
        return inherited(*args, **kwargs)

    return override


def in_class(names, seen):
    cls = type("Mine", (Adam,), {})

    def method(name):
        def override(self, *args, **kwargs):
            inherited = getattr(super(cls, self), name)
            return legacy_override(name, seen, inherited)(*args, **kwargs)

        return override

    # As the body of a class would: all are there when it is made.
    body = {name: method(name) for name in names}
    cls = type("Mine", (Adam,), body)
    return cls()


def in_mixin(names, seen):
    def method(name):
        def override(self, *args, **kwargs):
            inherited = getattr(super(Mixin, self), name)
            return legacy_override(name, seen, inherited)(*args, **kwargs)

        return override

    Mixin = type("Mixin", (), {name: method(name) for name in names})
    before = dict(vars(Mixin))
    optimizer = type("Mine", (Mixin, Adam), {})()
    assert dict(vars(Mixin)) == before  # Others may use it, too.
    return optimizer


def in_class_later(names, seen):
    cls = type("Mine", (Adam,), {})
    optimizer = cls()

    def method(name):
        def override(self, *args, **kwargs):
            inherited = getattr(super(cls, self), name)
            return legacy_override(name, seen, inherited)(*args, **kwargs)

        return override

    for name in names:
        setattr(cls, name, method(name))
    return optimizer


def on_instance(names, seen):
    optimizer = Adam()
    for name in names:
        inherited = getattr(optimizer, name)
        setattr(optimizer, name, legacy_override(name, seen, inherited))
    return optimizer


@pytest.mark.parametrize("where", [in_class, in_mixin, on_instance])
@pytest.mark.parametrize("route", ROUTES)
def test_overrides_see_variables_of_legacy(route, where):
    names = set(overrides.TAKE_VARIABLES)
    if "fit" in route.__name__ or "train" in route.__name__:
        names -= {"minimize", "_compute_gradients", "_get_gradients"}
    seen = {}

    route(where(names, seen), make_block_model(keras))

    assert ROUTES[route] <= seen.keys()
    assert set().union(*seen.values()) == NAMES


def test_class_that_is_patched_after_its_instance_was_made():
    seen = {}
    optimizer = in_class_later({"apply_gradients"}, seen)
    _fit(optimizer, make_block_model(keras))
    assert seen == {"apply_gradients": NAMES}


def test_every_method_that_takes_variables_is_on_the_list():
    variables = {
        "grads_and_vars",
        "params",
        "trainable_variables",
        "var",
        "var_list",
    }
    base = keras_legacy_opt.Optimizer
    taking = {
        name
        for name, method in inspect.getmembers(base, inspect.isfunction)
        if variables & set(inspect.signature(method).parameters)
    }
    # Called by this package alone, or without effect.
    assert taking - overrides.TAKE_VARIABLES == {
        "_create_slots_for_sharded_variables",
        "_distributed_apply",
        "_first_slots",
        "finalize_variable_values",
    }


@pytest.mark.parametrize("decorator", [staticmethod, tf.function])
def test_overrides_that_are_no_plain_functions(decorator):
    seen = []

    def override(*args):
        *_, grads_and_vars = args
        seen.extend(type(v) for _, v in grads_and_vars)
        return grads_and_vars

    cls = type("Mine", (Adam,), {"_aggregate_gradients": decorator(override)})
    variable = keras.Variable([1.0])
    cls()._aggregate_gradients([(tf.ones([1]), variable)])
    assert seen == [type(tf.Variable(1.0))]


def test_exclusion_from_weight_decay_by_name_of_the_layer():
    """As for BERT: in Keras 3 the same as in tf_keras with legacy."""
    results = {}
    for host, base in ((keras, keras_legacy_opt), (tf_keras, None)):
        base = base or tf_keras.optimizers.legacy
        model = make_block_model(host)
        model(X)
        rng = np.random.default_rng(0)
        values = [rng.uniform(0.5, 1, w.shape) for w in model.get_weights()]
        model.set_weights(values)
        optimizer = third_party.adam_weight_decay(base)(
            0.01,
            weight_decay_rate=5.0,
            exclude_from_weight_decay=["LayerNorm", "bias"],
        )
        # Nothing but the decay: LayerNormalization's gradient is wrong in
        # Keras 3.0.
        model.compile(optimizer, lambda y, prediction: 0.0 * prediction)
        model.fit(X, Y, epochs=3, verbose=0)
        results[host] = model.get_weights()
    for actual, expected in zip(*results.values(), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_names_are_paths_and_unique():
    with keras.name_scope("model"), keras.name_scope("dense"):
        first, second, third = (
            keras.Variable([1.0], name="kernel") for _ in range(3)
        )
    other = keras.Variable([1.0], name="kernel")
    variables = [first, second, other, third]
    optimizer = Adam()

    optimizer.build(variables)

    names = [v.value.name for v in variables]
    assert names == [
        "model/dense/kernel:0",
        "model/dense/kernel_1:0",
        "kernel:0",
        "model/dense/kernel_2:0",
    ]
    # Slots are called, and saved, as ever.
    assert [s.name for s in optimizer.weights[1:3]] == [
        "Adam/model/dense/kernel/m:0"
    ] * 2
    # Another optimizer leaves a name that is unique among its variables, ...
    Adam().build([third, first])
    assert [v.value.name for v in variables] == names
    # ... and so does this one when the variable inside is another.
    second._value = tf.Variable([1.0], name="new")
    optimizer.build(variables)
    assert [v.value.name for v in variables] == names


def test_names_of_replicas():
    devices = tf.config.list_logical_devices("CPU")
    strategy = tf.distribute.MirroredStrategy([d.name for d in devices[:1]])
    with strategy.scope(), keras.name_scope("model"):
        variable = keras.Variable([1.0], name="kernel")
        variable.value.values[0]._handle_name = "scope/kernel:0"
        variable.value._common_name = "scope/kernel"
        Adam().build([variable])
    assert variable.value.name == "model/kernel:0"
    assert variable.value._shared_name == "model/kernel"
    assert [v.name for v in variable.value.values] == ["model/kernel:0"]


class Passing(keras_legacy_opt.SGD):
    """Overrides with no change but that it hands on other objects."""

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        pairs = [(g * 1.0, v) for g, v in grads_and_vars]
        return super().apply_gradients(pairs, name=name, **kwargs)


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_what_only_keras_variables_know_is_not_lost(steps, wrapped):
    """Constraints, and `overwrite_with_gradient` of float8's scales."""
    constrained = keras.Variable([1.0, -1.0])
    constrained.constraint = keras.constraints.NonNeg()
    scale = keras.Variable([1.0])
    scale.overwrite_with_gradient = True
    optimizer = Passing(1.0)
    if wrapped:
        optimizer = keras_legacy_opt.LossScaleOptimizer(
            optimizer, dynamic=False, initial_scale=1.0
        )
    for _ in range(steps):
        optimizer.apply_gradients(
            [(tf.zeros([2]), constrained), (tf.constant([5.0]), scale)]
        )
    np.testing.assert_array_equal(constrained, [1.0, 0.0])
    np.testing.assert_array_equal(scale, [5.0])


def test_autograph_converts_an_override():
    class Skipping(Adam):
        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            grads_and_vars = list(grads_and_vars)
            if tf.reduce_sum(grads_and_vars[0][0]) > 2.0:
                grads_and_vars[0][1].assign([7.0])
            return super().apply_gradients(grads_and_vars, name=name)

    optimizer, variable = Skipping(), keras.Variable([1.0])
    optimizer.build([variable])

    @tf.function
    def step(grad):
        optimizer.apply_gradients([(grad, variable)])

    step(tf.constant([3.0]))
    assert float(variable[0]) > 6
    variable.assign([1.0])
    step(tf.constant([1.0]))
    assert float(variable[0]) < 1


def test_override_of_an_instance_is_that_of_its_copy():
    def apply_gradients(self, grads_and_vars, **kwargs):
        self.applied = [v.name for _, v in grads_and_vars]

    optimizer, variable = Adam(), keras.Variable([1.0], name="kernel")
    optimizer.apply_gradients = apply_gradients.__get__(optimizer)
    copied = copy.deepcopy(optimizer)
    copied.apply_gradients([(tf.ones([1]), variable)])
    assert copied.applied == ["kernel:0"]
    assert not hasattr(optimizer, "applied")


def test_override_of_an_instance_is_pickled():
    optimizer = Adam()
    optimizer.get_slot = dict.get  # Any function that pickle finds.
    assert pickle.loads(pickle.dumps(optimizer)).get_slot({"a": 1}, "a") == 1


def test_mock_in_place_of_a_method():
    optimizer, variable = Adam(), keras.Variable([1.0])
    optimizer.apply_gradients = mock.Mock()
    optimizer.apply_gradients([(tf.ones([1]), variable)], name="x")
    optimizer.apply_gradients.assert_called_once()
    ((pairs,), options) = optimizer.apply_gradients.call_args
    assert pairs[0][1] is variable.value
    assert options == {"name": "x"}
    with mock.patch.object(optimizer, "minimize") as minimize:
        optimizer.minimize(lambda: 1.0, [variable])
    minimize.assert_called_once()
    assert originals.is_own(optimizer, ("minimize",))


def test_a_class_of_no_module():
    """`type` makes one where globals have no `__name__`."""
    scope = {"Base": keras_legacy_opt.SGD}
    exec("Made = type('Made', (Base,), {})", scope)
    var = tf.Variable([1.0])
    for _ in range(3):
        scope["Made"](0.5).apply_gradients([(tf.constant([1.0]), var)])
    np.testing.assert_array_equal(var, [-0.5])


@pytest.mark.parametrize("host", [keras, tf_keras], ids=lambda k: k.__name__)
def test_mixins_of_ours_override_nothing(host):
    """And who derives from them changes no class of ours."""
    addons = keras_legacy_opt.addons

    class Derived(addons.DecoupledWeightDecayExtension, keras_legacy_opt.SGD):
        pass

    extended = addons.extend_with_decoupled_weight_decay(keras_legacy_opt.SGD)
    for cls in (Derived, extended, addons.AdamW):
        model = host.Sequential([host.layers.Input((4,)), host.layers.Dense(1)])
        model.compile(cls(weight_decay=0.5), "mse")
        model.fit(np.ones((4, 4)), np.ones((4, 1)), verbose=0)
        assert model.optimizer.iterations == 1
