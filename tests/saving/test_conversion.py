"""`convert` where the file alone does not say which weight is which."""

import json
import os

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import test_keras_2_names as models
import test_tf1 as tf1
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints.conversion import convert
from keras_legacy_opt.checkpoints.formats import h5, object_graph

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__:DeprecationWarning",
    "ignore:You are saving your model as an HDF5:UserWarning",
)

# The models that an architecture can be written of.
MODELS = [m for m in models.MODELS if m is not models.subclassed]


def compiled(library, make, optimizer=klo.Nadam):
    model = make(library)
    model.compile(optimizer(0.05), "mse", run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    return model


def trained(library, make, optimizer=klo.Nadam):
    model = compiled(library, make, optimizer)
    models.train(model, make, range(2))
    return model


def assert_restores(path, make, expected, library=keras):
    model = compiled(library, make)
    assert not checkpoints.restore(path, model).problems
    assert_same(model, expected)


def assert_same(model, expected):
    for array, other in zip(
        [*model.get_weights(), *model.optimizer.get_weights()],
        [*expected.get_weights(), *expected.optimizer.get_weights()],
        strict=True,
    ):
        np.testing.assert_array_equal(array, other)


@pytest.mark.parametrize("make", MODELS)
def test_checkpoint_to_hdf5_and_back(make, tmp_path):
    model = trained(tf_keras, make)
    (tmp_path / "model.json").write_text(model.to_json())
    path = checkpoints.save(tmp_path / "a", model)
    convert(path, f"{tmp_path}/b.h5", model=f"{tmp_path}/model.json")
    assert_restores(tmp_path / "b.h5", make, model)
    other = compiled(tf_keras, make)
    other.load_weights(tmp_path / "b.h5")
    for array, expected in zip(
        other.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    convert(f"{tmp_path}/b.h5", f"{tmp_path}/c", model=f"{tmp_path}/model.json")
    assert_restores(tmp_path / "c", make, model, tf_keras)


@pytest.mark.filterwarnings("ignore:.*HDF5 file via")
@pytest.mark.parametrize(
    "library", [keras, tf_keras], ids=["keras3", "tf_keras"]
)
@pytest.mark.parametrize("make", MODELS)
def test_whole_model_hdf5_has_its_architecture(make, library, tmp_path):
    model = trained(library, make)
    model.save(tmp_path / "model.h5")
    convert(f"{tmp_path}/model.h5", f"{tmp_path}/a")
    assert_restores(tmp_path / "a", make, model)


@pytest.mark.parametrize("make", MODELS)
def test_files_of_keras_3(make, tmp_path):
    model = trained(keras, make)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/a")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/b.h5")
    convert(
        f"{tmp_path}/m.weights.h5",
        f"{tmp_path}/c",
        model=f"{tmp_path}/m.keras",
    )
    for name in ("a", "b.h5", "c"):
        for library in (keras, tf_keras):
            assert_restores(tmp_path / name, make, model, library)
    # And without this package.
    status = tf.train.Checkpoint(
        model=make(tf_keras), optimizer=tf_keras.optimizers.legacy.Nadam()
    ).read(f"{tmp_path}/a")
    status.assert_existing_objects_matched()


def test_layers_that_were_frozen_at_first(tmp_path):
    """Their slots have the last numbers."""
    model = trained(keras, models.sequential)
    model.layers[0].trainable = False
    model.compile(klo.Nadam(0.05), "mse", run_eagerly=True)
    models.train(model, models.sequential, range(1))
    optimizer = model.optimizer
    model.layers[0].trainable = True
    model.compile(optimizer, "mse", run_eagerly=True)
    models.train(model, models.sequential, range(2))
    model.save(tmp_path / "m.keras")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/a")
    other = compiled(keras, models.sequential)
    checkpoints.restore(tmp_path / "a", other)
    for ours, theirs in zip(
        other.trainable_variables, model.trainable_variables, strict=True
    ):
        for slot in ("m", "v"):
            np.testing.assert_array_equal(
                other.optimizer.get_slot(ours, slot),
                optimizer.get_slot(theirs, slot),
            )


def computing(lib):
    """Layers that compute with what they create or load."""
    model = lib.Sequential(
        [
            lib.layers.Input((4,)),
            lib.layers.Normalization(mean=[1.0] * 4, variance=[2.0] * 4),
            lib.layers.Normalization(),
            lib.layers.Dropout(0.1),
            lib.layers.SpectralNormalization(lib.layers.Dense(3)),
            lib.layers.Dense(2),
        ]
    )
    model.layers[1].adapt(np.linspace(0, 1, 12, dtype="f").reshape(3, 4))
    return model


def test_layers_that_compute_with_their_weights(tmp_path):
    model = trained(keras, computing)
    model.save(tmp_path / "m.keras")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/a")
    assert_restores(tmp_path / "a", computing, model)


def test_large_variables_are_written_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr(object_graph, "_SHARD_BYTES", 20)
    model = trained(tf_keras, models.sequential)
    model.save_weights(tmp_path / "a")
    convert(f"{tmp_path}/a", f"{tmp_path}/b")
    assert sum(".data-" in name for name in os.listdir(tmp_path)) > 20
    monkeypatch.setattr(object_graph, "_SHARD_BYTES", 80)
    convert(f"{tmp_path}/a", f"{tmp_path}/b", overwrite=True)
    shards = [n for n in os.listdir(tmp_path) if n.startswith("b.data-")]
    assert len({n.rpartition("-of-")[2] for n in shards}) == 1
    assert_restores(tmp_path / "b", models.sequential, model)
    other = compiled(tf_keras, models.sequential)
    other.load_weights(tmp_path / "b").assert_consumed()
    assert_same(other, model)


def test_tf1_to_hdf5(tmp_path):
    expected = tf1.train_in_tf1(tf1.PAIRS["adam"][0], tmp_path / "m")
    model = keras.Sequential(
        [keras.Input((3,)), keras.layers.Dense(2, name="dense")]
    )
    model.compile(klo.Adam(0.1), "mse", run_eagerly=True)
    (tmp_path / "m.json").write_text(model.to_json())
    with pytest.raises(checkpoints.CheckpointError, match="in which order"):
        convert(f"{tmp_path}/m", f"{tmp_path}/m.h5")
    convert(f"{tmp_path}/m", f"{tmp_path}/m.h5", model=f"{tmp_path}/m.json")
    report = checkpoints.restore(tmp_path / "m.h5", model, strict=False)
    assert all("optimizer/" in e.target for e in report.problems)
    kernel, bias = model.trainable_variables
    for gradient in tf1.gradients()[tf1.SAVE_AT :]:
        model.optimizer.apply_gradients(
            [(gradient, kernel), (gradient.sum(0), bias)]
        )
    for variable, array in zip((kernel, bias), expected, strict=True):
        np.testing.assert_allclose(variable, array, rtol=1e-4)


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
def test_tf1_momentum_needs_the_learning_rate(name, tmp_path):
    make_tf1, make_ours, _ = tf1.PAIRS[name]
    tf1.train_in_tf1(make_tf1, tmp_path / "m")
    with pytest.raises(checkpoints.CheckpointError, match="--learning-rate"):
        convert(f"{tmp_path}/m", f"{tmp_path}/a")
    convert(f"{tmp_path}/m", f"{tmp_path}/a", learning_rate=0.1)
    kernel, bias = tf1.build_model().weights
    variables = {"dense": {"kernel": kernel, "bias": bias}}
    direct, converted = make_ours(), make_ours()
    checkpoints.restore(
        tmp_path / "m",
        {"dense/kernel": kernel, "dense/bias": bias},
        direct,
    )
    checkpoints.restore(tmp_path / "a", variables, converted, strict=False)
    for array, expected in zip(
        converted.get_weights(), direct.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    assert int(converted.iterations) == tf1.SAVE_AT


def test_what_cannot_be_converted(tmp_path):
    """Says why, and what to do instead; and leaves nothing behind."""
    folder = str(tmp_path)
    sequential = trained(keras, models.sequential)
    sequential.save(tmp_path / "m.keras")
    sequential.save_weights(tmp_path / "m.weights.h5")
    with open(tmp_path / "other.json", "w") as file:
        file.write(models.nested(keras).to_json())
    with open(tmp_path / "keras_2.json", "w") as file:
        file.write(models.sequential(tf_keras).to_json())
    (tmp_path / "no.json").write_text("{")
    theirs = compiled(keras, models.sequential, keras.optimizers.Adam)
    theirs.save(tmp_path / "theirs.keras")
    of_tf_keras = trained(tf_keras, models.sequential)
    of_tf_keras.save(tmp_path / "tf_keras.keras")
    nested = trained(tf_keras, models.nested)
    checkpoints.save(tmp_path / "nested", nested)
    nested.save_weights(tmp_path / "weights_of_nested.h5")
    subclassed = trained(keras, models.subclassed)
    subclassed.save(tmp_path / "subclassed.keras")
    before = sorted(os.listdir(tmp_path))
    for source, model, words in (
        ("m.weights.h5", None, "what its weights are called.*--model"),
        ("m.weights.h5", "m.weights.h5", "holds no architecture"),
        ("m.weights.h5", "other.json", "cannot be read"),
        ("m.weights.h5", "keras_2.json", "one of tf_keras"),
        ("m.weights.h5", "no.json", "no.json cannot be read"),
        ("m.weights.h5", "nothing", "nothing cannot be read"),
        ("m.weights.h5", "subclassed.keras", "the model's own classes"),
        ("theirs.keras", None, "from_keras_3"),
        ("tf_keras.keras", None, "tf_keras.models.load_model"),
        ("nested", None, "where HDF5 has.*--model"),
        ("nested.index", None, "where HDF5 has.*--model"),
        ("nested", "m.keras", "does not fit the architecture.*no place"),
        ("weights_of_nested.h5", None, "attached to its layer.*--model"),
        ("subclassed.keras", None, "checkpoints.save"),
    ):
        destination = "out.h5" if source.startswith("nested") else "out"
        with pytest.raises(checkpoints.CheckpointError, match=words):
            convert(
                f"{folder}/{source}",
                f"{folder}/{destination}",
                model=model and f"{folder}/{model}",
            )
        assert sorted(os.listdir(tmp_path)) == before
    with pytest.raises(checkpoints.CheckpointError, match="Momentum"):
        convert(f"{folder}/nested", f"{folder}/out", learning_rate=0.1)


def test_hyperparameters_of_a_converted_file(tmp_path):
    model = trained(keras, models.sequential, klo.Adam)
    model.save(tmp_path / "m.keras")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/a.h5")
    optimizer = checkpoints.optimizer_of(tmp_path / "a.h5")
    assert json.dumps(optimizer.get_config()) == json.dumps(
        model.optimizer.get_config()
    )


def test_names_that_hdf5_has_no_room_for(tmp_path):
    """An attribute takes 64 kB; Keras splits longer ones."""
    model = keras.Sequential([keras.layers.Input((1,))])
    for i in range(24):
        model.add(keras.layers.Dense(1, name=f"{'long' * 80}_{i}"))
    model.compile(klo.Adam(0.1), "mse")
    optimizer = model.optimizer
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    optimizer.set_weights(
        [rng.random(w.shape).astype("f") for w in optimizer.get_weights()]
    )
    model.save(tmp_path / "m.keras")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/m.h5")
    with h5py.File(tmp_path / "m.h5") as file:
        assert len(h5.names(file["optimizer_weights"], "weight_names")) == 97
    other = keras.models.clone_model(model)
    other.compile(klo.Adam(0.1), "mse")
    checkpoints.restore(f"{tmp_path}/m.h5", other)
    for ours, theirs in zip(
        other.optimizer.get_weights(), optimizer.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_without_an_optimizer(tmp_path):
    model = models.sequential(keras)
    model.save(tmp_path / "m.keras")
    convert(f"{tmp_path}/m.keras", f"{tmp_path}/a")
    other = models.sequential(keras)
    checkpoints.restore(tmp_path / "a", other)
    for array, expected in zip(
        other.get_weights(), model.get_weights(), strict=True
    ):
        np.testing.assert_array_equal(array, expected)
