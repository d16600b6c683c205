"""`python -m keras_legacy_opt inspect` and `convert`."""

import json
import os
import subprocess
import sys

import golden_sets
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import checkpoints

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

CASES = ("adam_tuned", "ftrl_l1_l2", "nadam_tuned", "rmsprop_centered")


def run(*arguments):
    return command_line.main([str(a) for a in arguments])


def case_of(golden, name, release="tf-2.8"):
    return golden_sets.Case(golden / release / "model" / name)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kind", ["checkpoint", "weights", "h5"])
def test_inspect(golden, capsys, name, kind):
    case = case_of(golden, name)
    assert run("inspect", case.artefacts()[kind]) == 0
    text = capsys.readouterr().out
    assert case.info["optimizer"] in text
    assert "iterations: 3" in text
    assert "learning_rate = " in text
    for index, weight in enumerate(case.info["optimizer_weights"]):
        if "slot" in weight:
            array = case.trace[f"opt_{index}"][2].astype(np.float64)
            norm = f"{np.linalg.norm(array):.6g}"
            assert norm in text, weight["name"]


def test_inspect_saved_model_and_tf1(golden, capsys, tmp_path):
    assert (
        run("inspect", case_of(golden, "adam").artefacts()["saved_model"]) == 0
    )
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        v = tf.compat.v1.get_variable("v", initializer=np.ones(3, "f"))
        train = tf.compat.v1.train.AdamOptimizer().apply_gradients([(v + 1, v)])
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(train)
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "m"))
    capsys.readouterr()
    assert run("inspect", tmp_path / "m") == 0
    text = capsys.readouterr().out
    assert "optimizer: Adam" in text
    assert "iterations: 1" in text


def test_inspect_files_of_keras_3(capsys, tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile(klo.Adamax(0.01), "mse")
    model.train_on_batch(np.ones((2, 3)), np.ones((2, 2)))
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    for name, optimizer in (
        ("m.keras", "optimizer: Adamax\n"),
        ("m.weights.h5", " or Adamax or "),
    ):
        assert run("inspect", tmp_path / name) == 0
        text = capsys.readouterr().out
        assert optimizer in text
        assert ("(judged by its variables)" in text) == (" or " in optimizer)
        assert "iterations: 1" in text
        assert "dense" in text.partition("slots:")[2].partition("model:")[0]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("host", [keras, tf_keras])
def test_convert_there_and_back(golden, tmp_path, name, host):
    """Checkpoint to HDF5 to checkpoint: all of the state, to the bit."""
    case = case_of(golden, name)
    h5_file, prefix = tmp_path / "m.h5", tmp_path / "m"
    assert run("convert", case.artefacts()["checkpoint"], h5_file) == 0
    assert run("convert", h5_file, prefix) == 0
    for path in (h5_file, prefix):
        model = golden_sets.build_model(host)
        optimizer = case.optimizer()
        report = checkpoints.restore(path, model, optimizer)
        assert not report.problems
        for kind, arrays in (
            ("model", model.get_weights()),
            ("opt", optimizer.get_weights()),
        ):
            expected = case.expected(kind, golden_sets.SAVED_AT)
            for array, value in zip(arrays, expected, strict=True):
                np.testing.assert_array_equal(array, value)
    assert sorted(os.listdir(tmp_path)) == [
        "m.data-00000-of-00001",
        "m.h5",
        "m.index",
    ]


def test_converted_checkpoint_is_read_by_tf_keras(golden, tmp_path):
    case = case_of(golden, "adam_tuned")
    run("convert", case.artefacts()["h5"], tmp_path / "m")
    model = golden_sets.build_model(tf_keras)
    optimizer = case.optimizer(tf_keras.optimizers.legacy)
    model.compile(optimizer, "mse")
    status = tf.train.Checkpoint(model=model, optimizer=optimizer).read(
        str(tmp_path / "m")
    )
    optimizer._create_all_weights(model.trainable_variables)
    status.assert_existing_objects_matched()
    assert int(optimizer.iterations) == 3
    slot = optimizer.get_slot(model.get_layer("hid").kernel, "v")
    expected = case.expected("opt", 3)
    assert any(np.array_equal(slot.numpy(), array) for array in expected)


def test_convert_tf1(tmp_path):
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        with tf.compat.v1.variable_scope("dense"):
            v = tf.compat.v1.get_variable("kernel", initializer=np.ones(3, "f"))
        train = tf.compat.v1.train.AdamOptimizer(0.1).apply_gradients(
            [(v + 1, v)]
        )
        session.run(tf.compat.v1.global_variables_initializer())
        session.run(train)
        tf.compat.v1.train.Saver().save(session, str(tmp_path / "m"))
        expected = session.run(v)
    assert run("convert", tmp_path / "m", tmp_path / "objects") == 0
    v = tf.Variable(tf.zeros(3))
    optimizer = klo.Adam(0.1)
    report = checkpoints.restore(
        tmp_path / "objects",
        {"dense": {"kernel": v}},
        optimizer,
        strict=False,
    )
    np.testing.assert_array_equal(v.numpy(), expected)
    assert int(optimizer.iterations) == 1
    assert optimizer.get_slot(v, "m").numpy().all()
    # The hyperparameters, which TF1 did not save.
    assert {e.target for e in report.problems if e.status == "missing"} == {
        f"optimizer/{name}"
        for name in ("beta_1", "beta_2", "decay", "learning_rate")
    }


def test_errors_and_exit_codes(golden, tmp_path, capsys):
    source = case_of(golden, "adam_tuned").artefacts()["checkpoint"]
    assert run("inspect", tmp_path / "nothing") == 1
    assert "There is no" in capsys.readouterr().err
    (tmp_path / "m.h5").write_text("mine")
    assert run("convert", source, tmp_path / "m.h5") == 1
    assert "--overwrite" in capsys.readouterr().err
    assert (tmp_path / "m.h5").read_text() == "mine"
    assert run("convert", source, tmp_path / "m.h5", "--overwrite") == 0
    assert run("convert", source, tmp_path / "no" / "folder") == 1
    for arguments in (["fly"], ["inspect"], []):
        with pytest.raises(SystemExit) as exit_:
            run(*arguments)
        assert exit_.value.code == 2
    assert os.listdir(tmp_path) == ["m.h5"]


def test_an_optimizer_without_a_name(tmp_path):
    """As in files of Keras 1, and of Keras 2 that was not TensorFlow's."""
    import h5py

    model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(3,))])
    model.compile(klo.SGD(0.5, momentum=0.5), "mse")
    model.fit(np.ones((4, 3)), np.ones((4, 2)), verbose=0)
    source, result = str(tmp_path / "a.h5"), str(tmp_path / "b.h5")
    with pytest.warns(UserWarning, match="HDF5"):
        model.save(source)
    with h5py.File(source, "r+") as file:
        config = json.loads(file.attrs["training_config"])
        del config["optimizer_config"]["config"]["name"]
        file.attrs["training_config"] = json.dumps(config)
    assert run("convert", source, result) == 0
    model.optimizer.get_slot(model.weights[0], "momentum").assign([[0, 0]] * 3)
    checkpoints.restore(result, model)
    slot = model.optimizer.get_slot(model.weights[0], "momentum").numpy()
    assert slot.any()


def test_a_failed_conversion_leaves_nothing(golden, tmp_path, monkeypatch):
    source = case_of(golden, "adam_tuned").artefacts()["checkpoint"]
    assert run("convert", source, tmp_path / "m") == 0
    data = tmp_path / "m.data-00000-of-00001"
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content)
    before = sorted(os.listdir(tmp_path))
    assert run("convert", tmp_path / "m", tmp_path / "other") == 1
    assert run("convert", tmp_path / "m", tmp_path / "other.h5") == 1
    assert sorted(os.listdir(tmp_path)) == before


# Of this process alone: getrusage() starts at the peak of the parent.
MEASURE = """
import sys
import keras
import tensorflow as tf
import h5py
from keras_legacy_opt import __main__ as command_line
import keras_legacy_opt.checkpoints.conversion
tf.constant(1.0)
def peak():
    with open("/proc/self/status") as status:
        line = next(line for line in status if line.startswith("VmHWM"))
    return int(line.split()[1]) // 1024
before = peak()
assert command_line.main(["convert", *sys.argv[1:]]) == 0
print("MB:", peak() - before)
"""


def checkpoint_of_288_mb(tmp_path):
    variables = {
        f"layer_with_weights-{i}": {
            "kernel": tf.Variable(
                tf.random.stateless_normal([4_000_000], [i, 1])
            )
        }
        for i in range(6)
    }
    optimizer = klo.Adam()
    optimizer.build([v["kernel"] for v in variables.values()])
    checkpoints.save(tmp_path / "a", {"model": variables}, optimizer)
    return tmp_path / "a"


def h5_of_288_mb(tmp_path):
    source = checkpoint_of_288_mb(tmp_path)
    assert run("convert", source, tmp_path / "a.h5") == 0
    return tmp_path / "a.h5"


def keras_archive_of_one_weight(tmp_path):
    tokens = keras.Input((1,), dtype="int32")
    model = keras.Model(tokens, keras.layers.Embedding(400_000, 100)(tokens))
    model.compile(klo.SGD(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "a.keras")
    return tmp_path / "a.keras"


@pytest.mark.parametrize(
    ("make", "destination", "largest"),
    [
        (checkpoint_of_288_mb, "b.h5", 16),
        (h5_of_288_mb, "b", 16),
        (keras_archive_of_one_weight, "b", 160),
    ],
)
@pytest.mark.processes
def test_memory_stays_small(tmp_path, make, destination, largest):
    """No more than the largest variable, and 200 MB."""
    source = make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, source, tmp_path / destination],
        capture_output=True,
        text=True,
        check=True,
    )
    assert int(done.stdout.rpartition("MB:")[2]) < largest + 200, done.stdout


def test_progress(golden, tmp_path, capsys):
    source = case_of(golden, "adam_tuned").artefacts()["h5"]
    assert run("convert", source, tmp_path / "a") == 0
    assert capsys.readouterr() == ("", "")  # On terminals only.
    assert run("convert", "--progress", source, tmp_path / "b") == 0
    out, err = capsys.readouterr()
    assert out == ""
    percents = [int(line.split("%")[0]) for line in err.split("\r")[1:]]
    assert percents == sorted(set(percents))
    assert percents[-1] == 100
    assert err.endswith("MB\n")


@pytest.mark.parametrize("command", ["inspect", "convert"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as exit_:
        run(command, "--help")
    assert exit_.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "Exit code: 0, or 1 if" in text
    options = {"inspect": (), "convert": ("optimizer", "model", "progress")}
    for option in options[command]:
        assert f"--{option} " in text or f"--{option}," in text
