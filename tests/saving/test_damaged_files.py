"""Damaged, foreign and unfit files: a clear error, and nothing changed."""

import os
import pathlib
import shutil

import golden_sets
import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_legacy_opt as klo
from keras_legacy_opt import checkpoints
from keras_legacy_opt.checkpoints import conversion, inspection

pytestmark = pytest.mark.filterwarnings("ignore:__array__:DeprecationWarning")

CASE = ("tf-2.8", "adam_tuned")


def make_model(extra_layer=False, units=4):
    layers = [
        keras.layers.Embedding(7, 3, name="emb"),
        keras.layers.Flatten(name="flat"),
        keras.layers.Dense(units, activation="relu", name="hid"),
        keras.layers.Dense(2, name="out"),
    ]
    if extra_layer:
        layers.append(keras.layers.Dense(2, name="extra"))
    tokens = h = keras.layers.Input((4,), dtype="int32", name="tokens")
    for layer in layers:
        h = layer(h)
    return keras.Model(tokens, h)


def make_optimizer():
    return klo.Adam(0.02, beta_1=0.8, beta_2=0.95, epsilon=1e-3)


@pytest.fixture
def files(golden, tmp_path):
    """Copies of one run's artefacts."""
    case = golden_sets.Case(golden / CASE[0] / "model" / CASE[1])
    paths = case.artefacts()
    shutil.copytree(paths["checkpoint"], tmp_path / "ckpt")
    shutil.copy(paths["h5"], tmp_path / "model.h5")
    return {
        "checkpoint": tmp_path / "ckpt" / "ckpt-1",
        "h5": tmp_path / "model.h5",
    }


def data_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.data-00000-of-00001")


def index_file(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(f"{path.name}.index")


def truncate(path, part=0.5):
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * part)])


def flip(path, position=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * position)] ^= 0x10
    path.write_bytes(content)


# {name: (format, what happens to the file, words of the error)}
DAMAGE = {
    "truncated data": (
        "checkpoint",
        lambda p: truncate(data_file(p)),
        "cannot be read",
    ),
    "truncated index": (
        "checkpoint",
        lambda p: truncate(index_file(p)),
        "cannot be read",
    ),
    "bit flipped in the data": (
        "checkpoint",
        lambda p: flip(data_file(p)),
        "cannot be read",
    ),
    "bit flipped in the index": (
        "checkpoint",
        lambda p: flip(index_file(p)),
        "cannot be read",
    ),
    "empty data": (
        "checkpoint",
        lambda p: data_file(p).write_bytes(b""),
        "cannot be read",
    ),
    "empty index": (
        "checkpoint",
        lambda p: index_file(p).write_bytes(b""),
        "cannot be read",
    ),
    "missing data": (
        "checkpoint",
        lambda p: data_file(p).unlink(),
        "cannot be read",
    ),
    "missing index": (
        "checkpoint",
        lambda p: index_file(p).unlink(),
        "There is no",
    ),
    "foreign index": (
        "checkpoint",
        lambda p: index_file(p).write_text("a letter\n" * 50),
        "cannot be read",
    ),
    "truncated HDF5": ("h5", truncate, "cannot be read"),
    "empty HDF5": ("h5", lambda p: p.write_bytes(b""), "damaged"),
    "foreign HDF5": ("h5", lambda p: p.write_text("a letter"), "damaged"),
    "missing HDF5": ("h5", lambda p: p.unlink(), "There is no"),
    "HDF5 of something else": (
        "h5",
        lambda p: write_other_hdf5(p),
        "not an HDF5 file of Keras 2",
    ),
}


def write_other_hdf5(path):
    import h5py

    with h5py.File(path, "w") as file:
        file["measurements"] = np.arange(3)


# {name: (model, optimizer, words of the error)}
UNFIT = {
    "another optimizer": (make_model, lambda: klo.Ftrl(), "no slot|has Adam"),
    "another optimizer with the same slots": (
        make_model,
        lambda: klo.Nadam(),
        "momentum_cache|has Adam",
    ),
    "wrong shapes": (
        lambda: make_model(units=5),
        make_optimizer,
        r"the variable has shape \(12, 5\)",
    ),
    "one more layer": (
        lambda: make_model(extra_layer=True),
        make_optimizer,
        "missing +extra/kernel",
    ),
    "an option more": (
        make_model,
        lambda: klo.Adam(0.02, 0.8, 0.95, 1e-3, amsgrad=True),
        "vhat",
    ),
    "a schedule": (
        make_model,
        lambda: klo.Adam(
            klo.schedules.ExponentialDecay(0.1, 5, 0.5), 0.8, 0.95, 1e-3
        ),
        "is a schedule|ExponentialDecay here",
    ),
}


def snapshot(model, optimizer):
    return (
        [w.copy() for w in model.get_weights()],
        optimizer.get_weights(),
        optimizer.get_config(),
        len(optimizer.weights),
        optimizer.built,
    )


def assert_unchanged(before, after):
    for i in (0, 1):
        for array, expected in zip(after[i], before[i], strict=True):
            np.testing.assert_array_equal(array, expected)
    assert after[2:] == before[2:]


def trained(model, optimizer):
    rng = np.random.default_rng(0)
    for _ in range(2):
        optimizer.apply_gradients(
            [
                (tf.constant(rng.normal(size=v.shape), tf.float32), v)
                for v in model.trainable_variables
            ]
        )
    return model, optimizer


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("name", DAMAGE)
def test_damaged_file(files, name, built):
    kind, damage, words = DAMAGE[name]
    damage(files[kind])
    model, optimizer = make_model(), make_optimizer()
    if built:
        trained(model, optimizer)
    before = snapshot(model, optimizer)
    for strict in (True, False):
        with pytest.raises(checkpoints.CheckpointError, match=words):
            checkpoints.restore(files[kind], model, optimizer, strict=strict)
        assert_unchanged(before, snapshot(model, optimizer))
    trained(model, optimizer)  # Nothing is left half-done.
    with pytest.raises(checkpoints.CheckpointError):
        inspection.describe(str(files[kind]))


@pytest.mark.parametrize("built", [False, True])
@pytest.mark.parametrize("kind", ["checkpoint", "h5"])
@pytest.mark.parametrize("name", UNFIT)
def test_unfit_file(files, name, kind, built):
    make, make_unfit, words = UNFIT[name]
    model, optimizer = make(), make_unfit()
    if built:
        trained(model, optimizer)
    before = snapshot(model, optimizer)
    with pytest.raises(checkpoints.MismatchError, match=words) as raised:
        checkpoints.restore(files[kind], model, optimizer)
    assert raised.value.report.problems
    assert "strict=False" in str(raised.value)
    assert_unchanged(before, snapshot(model, optimizer))
    trained(model, optimizer)


@pytest.mark.parametrize("position", np.linspace(0.001, 0.999, 40))
@pytest.mark.parametrize("part", [data_file, index_file])
def test_any_flipped_bit_of_a_checkpoint(files, part, position):
    """Is found by a checksum, or is in bytes that no value depends on."""
    prefix = files["checkpoint"]
    expected = reference(prefix)
    flip(part(prefix), position)
    model, optimizer = make_model(), make_optimizer()
    before = snapshot(model, optimizer)
    try:
        checkpoints.restore(prefix, model, optimizer)
    except checkpoints.CheckpointError:
        assert_unchanged(before, snapshot(model, optimizer))
    else:
        for array, value in zip(model.get_weights(), expected, strict=True):
            np.testing.assert_array_equal(array, value)


@pytest.mark.parametrize("position", np.linspace(0.0, 0.999, 60))
def test_any_flipped_bit_of_hdf5(files, position):
    """HDF5 has no checksums: what breaks the structure is found, no crash."""
    flip(files["h5"], position)
    model, optimizer = make_model(), make_optimizer()
    before = snapshot(model, optimizer)
    try:
        checkpoints.restore(files["h5"], model, optimizer)
    except checkpoints.CheckpointError:
        assert_unchanged(before, snapshot(model, optimizer))


def reference(prefix):
    model = make_model()
    checkpoints.restore(prefix, model, make_optimizer())
    return model.get_weights()


@pytest.mark.parametrize("kind", ["checkpoint", "h5"])
def test_not_strict_restores_what_fits(files, kind):
    model, optimizer = make_model(extra_layer=True), make_optimizer()
    start = model.get_layer("extra").get_weights()
    report = checkpoints.restore(files[kind], model, optimizer, strict=False)
    assert {e.target for e in report.of("missing")} == {
        f"extra/{name}{slot}"
        for name in ("kernel", "bias")
        for slot in ("", "/m", "/v")
    }
    assert not report.of("mismatch", "unused")
    assert int(optimizer.iterations) == 3
    for array, expected in zip(
        model.get_layer("extra").get_weights(), start, strict=True
    ):
        np.testing.assert_array_equal(array, expected)
    for array, expected in zip(
        model.get_layer("hid").get_weights(),
        make_restored(files[kind]).get_layer("hid").get_weights(),
        strict=True,
    ):
        np.testing.assert_array_equal(array, expected)
    assert "missing" in str(report)


def make_restored(path):
    model = make_model()
    checkpoints.restore(path, model, make_optimizer())
    return model


def test_a_missing_shard(tmp_path):
    variables = [tf.Variable(tf.ones([300, 100])) for _ in range(3)]
    options = tf.train.CheckpointOptions(
        experimental_sharding_callback=(
            tf.train.experimental.MaxShardSizePolicy(50_000)
        )
    )
    optimizer = klo.Adam()
    optimizer.build(variables)
    path = tf.train.Checkpoint(v=variables, optimizer=optimizer).write(
        str(tmp_path / "c"), options=options
    )
    shards = sorted(n for n in os.listdir(tmp_path) if ".data-" in n)
    (tmp_path / shards[len(shards) // 2]).unlink()
    for v in variables:
        v.assign(tf.zeros_like(v))
    with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
        checkpoints.restore(path, {"v": variables}, optimizer)
    assert not any(v.numpy().any() for v in variables)


@pytest.mark.parametrize("name", [b"\xff", rb"a\000b"])
def test_a_checkpoint_file_with_a_name_that_is_none(files, name):
    folder = files["checkpoint"].parent
    text = b'model_checkpoint_path: "%b"' % name
    (folder / "checkpoint").write_bytes(text)
    with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
        checkpoints.restore(folder, make_model(), make_optimizer())
    with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
        inspection.describe(str(folder))


@pytest.mark.parametrize("damage", ["shape", "bits"])
def test_powers_of_tf1_that_are_none(tmp_path, damage):
    prefix = tmp_path / "m"
    power = [0.9, 0.9] if damage == "shape" else 0.9
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=["beta1_power", "v", "v/Adam", "v/Adam_1"],
        shape_and_slices=[""] * 4,
        tensors=[tf.constant(power), *[tf.ones(3)] * 3],
    )
    if damage == "bits":
        flip(data_file(prefix), 0)
    v, optimizer = tf.Variable(tf.zeros(3)), klo.Adam()
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.restore(prefix, {"v": v}, optimizer)
    assert not v.numpy().any()
    assert not optimizer.weights


@pytest.mark.parametrize("name", ["out", "out.h5"])
def test_slots_of_variables_that_are_not_there(tmp_path, name):
    v, optimizer = tf.Variable(tf.ones(3)), klo.Adam()
    layer = {"layer_with_weights-0": {"kernel": v}}
    optimizer.build([v])
    path = checkpoints.save(tmp_path / "m", {"model": layer}, optimizer)
    reader = tf.train.load_checkpoint(path)
    values = {
        key: reader.get_tensor(key)
        for key in reader.get_variable_to_shape_map()
        if key != "model/layer_with_weights-0/kernel/.ATTRIBUTES/VARIABLE_VALUE"
    }
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=[tf.constant(value) for value in values.values()],
    )
    with pytest.raises(checkpoints.CheckpointError, match="is not in it"):
        conversion.convert(path, str(tmp_path / name), optimizer="Adam")
    assert sorted(os.listdir(tmp_path)) == ["m.data-00000-of-00001", "m.index"]


def test_what_is_no_file_at_all(tmp_path):
    model, optimizer = make_model(), make_optimizer()
    for path, words in (
        (tmp_path, "holds no checkpoint"),
        (tmp_path / "nothing", "There is no checkpoint"),
    ):
        with pytest.raises(checkpoints.CheckpointError, match=words):
            checkpoints.restore(path, model, optimizer)
        with pytest.raises(checkpoints.CheckpointError):
            inspection.describe(str(path))
        with pytest.raises(checkpoints.CheckpointError):
            conversion.convert(str(path), str(tmp_path / "out"))
    assert os.listdir(tmp_path) == []


def test_files_of_keras_3_that_do_not_fit(tmp_path):
    """All or nothing there, too: weights are put back."""
    model = make_model()
    model.compile(make_optimizer(), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "m.keras")
    model.save_weights(tmp_path / "m.weights.h5")
    with h5py.File(tmp_path / "m.weights.h5", "r+") as file:
        slots = file["optimizer/vars"]
        (name,) = [n for n in slots if n.endswith(".0") and "m" in n[:1]]
        del slots[name]
    whole = (tmp_path / "m.keras").read_bytes()
    (tmp_path / "half.keras").write_bytes(whole[: len(whole) // 2])
    other = make_model()
    other.compile(make_optimizer(), "mse")
    for weight in other.weights:
        weight.assign(np.full(weight.shape, 5.0))
    for name in ("half.keras", "m.weights.h5"):
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.restore(tmp_path / name, other)
        assert all(np.all(w == 5) for w in other.get_weights())
        assert not other.optimizer.weights
    with pytest.raises(checkpoints.CheckpointError, match="compile it"):
        checkpoints.restore(tmp_path / "m.keras", other, make_optimizer())
    with pytest.raises(checkpoints.CheckpointError, match="pass the model"):
        checkpoints.restore(tmp_path / "m.keras", {"v": tf.Variable(1.0)})


def test_keras_3s_own_optimizers_checkpoint_is_recognised(tmp_path):
    v = keras.Variable([1.0])
    theirs = keras.optimizers.Adam()
    theirs.build([v])
    path = tf.train.Checkpoint(v=v, optimizer=theirs).write(str(tmp_path / "c"))
    with pytest.raises(checkpoints.MismatchError, match="later optimizers"):
        checkpoints.restore(path, {"v": v}, klo.Adam())


def test_the_wrong_kind_of_optimizer():
    with pytest.raises(TypeError, match="of keras_legacy_opt"):
        checkpoints.restore("x", make_model(), keras.optimizers.Adam())
