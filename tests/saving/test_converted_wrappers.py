"""Files of wrappers, and of several optimizers: `convert`, and what it says."""

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

from keras_legacy_opt import SGD, Adam, Ftrl, Nadam, addons, checkpoints
from keras_legacy_opt.__main__ import main
from keras_legacy_opt.checkpoints import conversion, inspection

pytestmark = [
    pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5"),
    pytest.mark.filterwarnings("ignore:Skipping full serialization"),
]
NESTED = "GradientAccumulation(MovingAverage(Lookahead(SGD)))"
AROUND = (
    "GradientAccumulation(MovingAverage(MultiOptimizer(Lookahead(SGD), Adam)))"
)
# {classes: function of three layers that makes them}
WRAPPERS = {
    "Lookahead(Adam)": lambda *_: addons.Lookahead(Adam(0.1), 3, 0.4),
    "MovingAverage(Adam)": lambda *_: addons.MovingAverage(Adam(0.1), 0.8),
    "SWA(SGD)": lambda *_: addons.SWA(SGD(0.1), 0, 2),
    "GradientAccumulation(Adam)": lambda *_: addons.GradientAccumulation(
        Adam(0.1), 2
    ),
    "Lookahead(RectifiedAdam)": lambda *_: addons.Lookahead(
        addons.RectifiedAdam(0.1), 2
    ),
    NESTED: lambda *_: addons.GradientAccumulation(
        addons.MovingAverage(addons.Lookahead(SGD(0.1), 2), 0.8), 2
    ),
    "MultiOptimizer(Adam, SGD)": lambda a, b, c: addons.MultiOptimizer(
        [(Adam(0.1), [a, c]), (SGD(0.2, momentum=0.9), b)]
    ),
    "MultiOptimizer(Adam, Adam, Adam)": lambda a, b, c: addons.MultiOptimizer(
        [(Adam(0.1), c), (Adam(0.2, beta_1=0.5), a), (Adam(0.3), b)]
    ),
    "MultiOptimizer(MovingAverage(Nadam), Lookahead(Ftrl), SGD)": (
        lambda a, b, c: addons.MultiOptimizer(
            [
                (addons.MovingAverage(Nadam(0.1), 0.8), b),
                (addons.Lookahead(Ftrl(0.2), 2), a),
                (SGD(0.3), c),
            ]
        )
    ),
    AROUND: lambda a, b, c: addons.GradientAccumulation(
        addons.MovingAverage(
            addons.MultiOptimizer(
                [(addons.Lookahead(SGD(0.1), 2), a), (Adam(0.2), [b, c])]
            ),
            0.8,
        ),
        2,
    ),
    "MultiOptimizer(Adam, MultiOptimizer(Adam, SGD))": (
        lambda a, b, c: addons.MultiOptimizer(
            [
                (Adam(0.1), a),
                (
                    addons.MultiOptimizer(
                        [(Adam(0.2), c), (SGD(0.3, momentum=0.9), b)]
                    ),
                    [b, c],
                ),
            ]
        )
    ),
}
SEVERAL = [name for name in WRAPPERS if "Multi" in name]


def make_model(host, name):
    host.utils.set_random_seed(0)
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((3,)),
            # Slots of equal shapes could be swapped in silence.
            layers.Dense(3, name="a"),
            layers.Dense(3, name="b"),
            layers.Dense(3, name="c"),
        ]
    )
    model.compile(WRAPPERS[name](*model.layers), "mse")
    return model


def trained(host, name, steps=3):
    """In between two steps, where gradients accumulate."""
    model, rng = make_model(host, name), np.random.default_rng(3)
    for _ in range(steps):
        model.optimizer.apply_gradients(
            [
                (tf.constant(rng.normal(size=v.shape).astype("float32")), v)
                for v in model.trainable_variables
            ]
        )
    return model


def as_h5(model, folder):
    model.save(folder / "m.h5")
    return folder / "m.h5"


def as_keras(model, folder):
    model.save(folder / "m.keras")
    return folder / "m.keras"


def as_checkpoint(model, folder):
    return checkpoints.save(folder / "c", model)


def as_tf_checkpoint(model, folder):
    checkpoint = tf.train.Checkpoint(model=model, optimizer=model.optimizer)
    return checkpoint.write(folder / "c")


def as_saved_model(model, folder):
    model.save(folder / "m", save_format="tf")
    return folder / "m"


CASES = [
    (name, host, write)
    for name in WRAPPERS
    for host, write in (
        (tf_keras, as_h5),
        (keras, as_keras),
        (keras, as_checkpoint),
        (tf_keras, as_tf_checkpoint),
        (tf_keras, as_saved_model),
    )
    if write is not as_saved_model
    or name in ("MovingAverage(Adam)", NESTED, AROUND)
]


def assert_same_state(optimizer, other):
    for a, b in zip(optimizer.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


def assert_same(model, other):
    for a, b in zip(model.get_weights(), other.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    assert_same_state(model.optimizer, other.optimizer)


@pytest.mark.parametrize("to_h5", [True, False], ids=["h5", "checkpoint"])
@pytest.mark.parametrize(
    ("name", "host", "write"), CASES, ids=lambda x: getattr(x, "__name__", x)
)
def test_convert(name, host, write, to_h5, tmp_path):
    model = trained(host, name)
    source = str(write(model, tmp_path))
    output = str(tmp_path / ("o.h5" if to_h5 else "o"))
    options = {}
    if write not in (as_h5, as_keras):
        (tmp_path / "model.json").write_text(model.to_json())
        options = {"model": str(tmp_path / "model.json"), "optimizer": name}
    conversion.convert(source, output, **options)
    other = trained(host, name, steps=1)
    assert not checkpoints.restore(output, other).problems
    assert_same(model, other)
    if not to_h5:  # As tf.train.Checkpoint would have written it.
        third = trained(tf_keras, name, steps=1)
        checkpoint = tf.train.Checkpoint(model=third, optimizer=third.optimizer)
        checkpoint.read(output).assert_existing_objects_matched()
        assert_same_state(model.optimizer, third.optimizer)


@pytest.mark.parametrize("host", [keras, tf_keras], ids=["keras3", "tf_keras"])
@pytest.mark.parametrize("write", [as_keras, as_checkpoint])
def test_inspect(write, host, tmp_path):
    model = trained(host, NESTED)
    text = inspection.describe(str(write(model, tmp_path)))
    assert f"optimizer: {NESTED}" in text or f" or {NESTED}" in text
    assert "iterations: 1" in text
    assert "accumulated = 1" in text
    assert "slow" in text
    assert "accumulated_gradient" in text


@pytest.mark.parametrize("name", ["h5", "checkpoint"])
@pytest.mark.parametrize("classes", [NESTED, *SEVERAL])
def test_weights_file(classes, name, tmp_path):
    """Which has no configuration."""
    model = trained(keras, classes)
    model.save_weights(tmp_path / "m.weights.h5")
    (tmp_path / "model.json").write_text(model.to_json())
    conversion.convert(
        str(tmp_path / "m.weights.h5"),
        str(tmp_path / f"o.{name}"),
        model=str(tmp_path / "model.json"),
        optimizer=classes,
    )
    other = trained(keras, classes, steps=1)
    assert not checkpoints.restore(str(tmp_path / f"o.{name}"), other).problems
    assert_same(model, other)


@pytest.mark.parametrize("write", [as_keras, as_checkpoint, as_h5])
def test_inspect_several(write, tmp_path):
    """Whose iterations, hyperparameters and slots it is."""
    model = trained(tf_keras, "MultiOptimizer(Adam, Adam, Adam)")
    model.optimizer.optimizers[1].iterations.assign(7)
    text = inspection.describe(str(write(model, tmp_path)))
    assert "optimizer: MultiOptimizer(Adam, Adam, Adam)" in text
    lines = text.splitlines()
    assert "iterations: 3" in lines
    assert "optimizer_1/iterations: 7" in lines
    assert "  optimizer_1/beta_1 = 0.5" in lines
    assert "  optimizer_2/learning_rate = 0.3" in lines
    assert sum(" optimizer_2/m " in line for line in lines) == 2


def test_classes_that_variables_tell(tmp_path):
    """What two optimizers have in common is not said twice."""
    model = trained(tf_keras, "MultiOptimizer(Adam, SGD)")
    (tmp_path / "model.json").write_text(model.to_json())
    conversion.convert(
        as_checkpoint(model, tmp_path),
        str(tmp_path / "o.h5"),
        model=str(tmp_path / "model.json"),
    )
    optimizer = checkpoints.optimizer_of(tmp_path / "o.h5")
    assert optimizer.get_config() == model.optimizer.get_config()


def of_sgd(a, b, c):
    """Two of these have no slots."""
    return addons.MultiOptimizer([(SGD(0.1), a), (SGD(0.2), b), (Adam(), c)])


@pytest.mark.parametrize(
    ("make", "optimizer", "words"),
    [
        (of_sgd, None, "which variables are under which of .*optimizer_1"),
        (
            WRAPPERS["MultiOptimizer(Adam, Adam, Adam)"],
            "MultiOptimizer(Adam, Adam)",
            r"3 optimizers inside.*'MultiOptimizer\(Adam, Adam, Adam\)'",
        ),
        (
            WRAPPERS["MultiOptimizer(Adam, SGD)"],
            "MultiOptimizer(Adam, SGD",
            "in parentheses, as in",
        ),
    ],
)
def test_what_hdf5_cannot_say_of_several(make, optimizer, words, tmp_path):
    model = make_model(tf_keras, "SWA(SGD)")
    model.compile(make(*model.layers), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    (tmp_path / "model.json").write_text(model.to_json())
    path = as_checkpoint(model, tmp_path)
    with pytest.raises(checkpoints.CheckpointError, match=words):
        conversion.convert(
            path,
            str(tmp_path / "o.h5"),
            model=str(tmp_path / "model.json"),
            optimizer=optimizer,
        )
    assert not (tmp_path / "o.h5").exists()


class Doubling(addons.AveragedOptimizerWrapper):
    """As a user writes one."""

    def average_op(self, var, average_var, local_apply_state):
        return average_var.assign(2 * var)


def test_what_is_refused(tmp_path):
    model = trained(keras, "MovingAverage(Adam)")
    (tmp_path / "model.json").write_text(model.to_json())
    path = as_checkpoint(model, tmp_path)
    options = {"model": str(tmp_path / "model.json"), "overwrite": True}
    output = str(tmp_path / "o.h5")
    for optimizer, words in (
        (None, "MovingAverage\\(Adam\\) or.*SWA\\(Adam\\).*--optimizer"),
        ("Adam", "1 wrappers around its optimizer.*'MovingAverage\\(Adam\\)'"),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=words):
            conversion.convert(path, output, optimizer=optimizer, **options)
    model = make_model(tf_keras, "SWA(SGD)")
    model.compile(Doubling(Adam()), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    path = str(as_h5(model, tmp_path))
    words = "nothing is known of 'Doubling'"
    with pytest.raises(checkpoints.CheckpointError, match=words):
        conversion.convert(path, output, overwrite=True)
    assert "Doubling" in inspection.describe(path)


def written_as_h5(model, optimizer, folder):
    """The HDF5 file that a checkpoint of the model becomes."""
    path = checkpoints.save(folder / "c", model)
    (folder / "model.json").write_text(model.to_json())
    conversion.convert(
        path,
        str(folder / "o.h5"),
        optimizer=optimizer,
        model=str(folder / "model.json"),
        overwrite=True,
    )
    return str(folder / "o.h5")


def converted(model, optimizer, folder):
    """What HDF5 gets of a checkpoint."""
    return checkpoints.optimizer_of(written_as_h5(model, optimizer, folder))


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("MovingAverage(Adam)", "Lookahead(Adam)"),
        ("MovingAverage(Adam)", "MovingAverage(SGD)"),
        ("MovingAverage(Adam)", "MultiOptimizer(Adam)"),
        ("MovingAverage(Adam)", "Adam(MovingAverage)"),
        ("MovingAverage(Adam)", "Unknown(Adam)"),
        ("GradientAccumulation(Adam)", "Lookahead(Adam)"),
        ("MultiOptimizer(Adam, SGD)", "MultiOptimizer(SGD, Adam)"),
        ("MultiOptimizer(Adam, SGD)", "MultiOptimizer(Adam, MovingAverage)"),
        (NESTED, "GradientAccumulation(Lookahead(MovingAverage(SGD)))"),
    ],
)
def test_classes_that_do_not_fit_are_refused(name, given, tmp_path):
    """It is said what was given, and what the file holds."""
    model = trained(keras, name)
    words = "does not hold what '.*' has: it has .* Say which with --optimizer"
    with pytest.raises(checkpoints.CheckpointError, match=words) as caught:
        converted(model, given, tmp_path)
    assert f"Received: {given!r}" in str(caught.value)
    assert not (tmp_path / "o.h5").exists()


@pytest.mark.parametrize(
    ("make", "given"),
    [
        (lambda: Adam(0.1), "SGD"),
        (lambda: SGD(0.1), "RMSprop"),
        (lambda: SGD(0.1), "MovingAverage"),
        (lambda: SGD(0.1), "keras_legacy_opt>Adam"),
        (lambda: addons.Yogi(0.1), "Adam"),
    ],
)
def test_a_class_that_does_not_fit_is_refused(make, given, tmp_path):
    model = make_model(keras, "SWA(SGD)")
    model.compile(make(), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    with pytest.raises(checkpoints.CheckpointError, match="by its variables"):
        converted(model, given, tmp_path)


@pytest.mark.parametrize(
    "case",
    [
        case
        for case in registry.own_cases((*registry.BUILT_IN, *registry.ADDONS))
        if case.option_name == "plain"
    ],
    ids=str,
)
def test_the_right_class_is_believed(case, tmp_path):
    """By hyperparameters and slots, whatever configurations call these."""
    model = make_model(keras, "SWA(SGD)")
    model.compile(case.build(registry.SUBJECT), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    loaded = converted(model, case.row.name, tmp_path)
    assert type(loaded) is type(model.optimizer)
    model.compile(loaded, "mse")
    checkpoints.restore(tmp_path / "o.h5", model)


def test_what_no_checkpoint_holds_is_told(tmp_path, capsys):
    """HDF5 gets none of it: it is the class's default, or lacks."""
    model = trained(keras, "GradientAccumulation(Adam)")
    (tmp_path / "model.json").write_text(model.to_json())
    path = as_checkpoint(model, tmp_path)
    arguments = ["--model", str(tmp_path / "model.json"), "--no-progress"]
    output = str(tmp_path / "o.h5")
    arguments += ["--optimizer", "GradientAccumulation(Adam)"]
    assert main(["convert", path, output, *arguments]) == 0
    told = capsys.readouterr().err
    assert "GradientAccumulation has it by default: steps, which it" in told
    assert "Adam has it by default: epsilon=1e-07, amsgrad=False." in told


def test_hyperparameters_of_unknown_classes_are_told_of(tmp_path):
    """Of which it is not known what becomes a variable."""
    model = make_model(tf_keras, "SWA(SGD)")
    model.compile(registry.DecayingRMSprop(weight_decay=0.1), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    path = str(as_h5(model, tmp_path))
    (told,) = conversion.convert(path, str(tmp_path / "c"))
    assert "Nothing is known of 'DecayingRMSprop'" in told
    model = trained(tf_keras, NESTED)
    path = str(as_h5(model, tmp_path))
    assert not conversion.convert(path, str(tmp_path / "d"))


class OfSomebody(Adam):
    """As a user writes one."""


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("MovingAverage(Adam)", "MovingAverage(OfSomebody)"),
        ("SWA(SGD)", "SWA(OfSomebody)"),
    ],
)
def test_classes_of_others_are_believed(name, given, tmp_path):
    """Nothing is known of them, nor of what they have by default."""
    path = written_as_h5(trained(keras, name), given, tmp_path)
    assert given in inspection.describe(path)


def test_a_class_of_others_alone_is_believed(tmp_path):
    model = make_model(keras, "SWA(SGD)")
    model.compile(OfSomebody(0.1), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    path = checkpoints.save(tmp_path / "c", model)
    (tmp_path / "model.json").write_text(model.to_json())
    arguments = ["--model", str(tmp_path / "model.json"), "--no-progress"]
    output = str(tmp_path / "o.h5")
    arguments += ["--optimizer", "OfSomebody"]
    assert main(["convert", path, output, *arguments]) == 0
    assert "OfSomebody" in inspection.describe(output)


@pytest.mark.parametrize("given", [None, "Adam", "SGD", "OfSomebody"])
def test_epsilon_that_was_a_variable(given, tmp_path):
    """As before TensorFlow 1.15: the configuration gets it."""
    model = make_model(keras, "SWA(SGD)")
    optimizer = Adam(0.5, epsilon=1e-3)
    optimizer._set_hyper("epsilon", 1e-3)
    model.compile(optimizer, "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    if given == "SGD":
        with pytest.raises(checkpoints.CheckpointError, match="does not hold"):
            converted(model, given, tmp_path)
        return
    with keras.saving.custom_object_scope({"OfSomebody": OfSomebody}):
        loaded = converted(model, given, tmp_path)
    assert loaded.epsilon == pytest.approx(1e-3)
    assert loaded.get_config()["learning_rate"] == pytest.approx(0.5)


@pytest.fixture
def of_package():
    """A class that is called as one of ours, registered by another package."""
    cls = type("Adam", (SGD,), {"__module__": "somewhere"})
    keras_name = tf_keras.saving.register_keras_serializable("OfSomebody")
    return keras_name(cls)


def test_a_class_of_another_package_is_none_of_ours(of_package, tmp_path):
    """Of which nothing is known, whatever it is called."""
    model = make_model(tf_keras, "SWA(SGD)")
    model.compile(of_package(0.1), "mse")
    model.fit(tf.ones([2, 3]), tf.ones([2, 3]), verbose=0)
    path = str(as_h5(model, tmp_path))
    (told,) = conversion.convert(path, str(tmp_path / "d"))
    assert "Nothing is known of 'Adam'" in told
    assert not checkpoints.restore(path, model).problems
    source = as_checkpoint(model, tmp_path)
    (tmp_path / "model.json").write_text(model.to_json())
    output, options = str(tmp_path / "o.h5"), {"overwrite": True}
    options["model"] = str(tmp_path / "model.json")
    conversion.convert(source, output, optimizer="OfSomebody>Adam", **options)
    for given in ("Adam", "keras_legacy_opt>Adam", "Addons>Adam"):
        with pytest.raises(checkpoints.CheckpointError, match="not hold what"):
            conversion.convert(source, output, optimizer=given, **options)
