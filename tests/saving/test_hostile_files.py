"""Files that want to run code, read other files, or fill the memory."""

import base64
import contextlib
import copy
import json
import os
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
import tf_keras

import keras_legacy_opt as klo
from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import checkpoints, serialization
from keras_legacy_opt.checkpoints import (
    architecture,
    architecture_check,
    conversion,
    inspection,
    restoring,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__:DeprecationWarning",
    "ignore:You are saving your model as an HDF5:UserWarning",
)

LIBRARIES = {"3.0.0": keras, "2.15.0": tf_keras}


@pytest.fixture
def trap(tmp_path):
    """The path of a file that appears if a file runs a command."""
    path = tmp_path / "trap" / "sprung"
    path.parent.mkdir()
    yield path
    assert not path.exists()


def command(trap):
    return f"touch {trap}"


def evil_function(trap):
    return {
        "module": "os",
        "class_name": "function",
        "config": "system",
        "registered_name": "system",
    }


def evil_layers(trap):
    """{what it is: configuration of a layer that runs what it says}."""
    function = evil_function(trap)
    code = base64.b64encode(b"code").decode()
    marshalled = {"class_name": "__lambda__", "config": {"value": code}}
    dense = {"units": 2, "name": "d"}

    def layer(name, config, module="keras.layers"):
        return {
            "module": module,
            "class_name": name,
            "config": config,
            "registered_name": None,
        }

    constant = {"arguments": {"x": command(trap)}, "name": "l"}
    result = {
        "Lambda": layer("Lambda", {"function": function, **constant}),
        "marshalled Lambda": layer(
            "Lambda", {"function": marshalled, "name": "l"}
        ),
        "Lambda of Keras 2": {
            "class_name": "Lambda",
            "config": {
                "function": [code, None, None],
                "function_type": "lambda",
                "module": "os",
                "name": "l",
            },
        },
        "TFOpLambda": layer(
            "TFOpLambda",
            {"function": "io.gfile.remove", "name": "l"},
            "tf_keras.src.layers.core.tf_op_layer",
        ),
        "TensorFlowOpLayer": {
            "class_name": "TensorFlowOpLayer",
            "config": {"node_def": "x", "name": "l"},
        },
        "TFSMLayer": layer("TFSMLayer", {"filepath": "/tmp", "name": "l"}),
        "class by module": layer(
            "Popen", {"args": command(trap)}, "subprocess"
        ),
        "built-in name of another module": layer("Dense", dense, "os"),
        "another registered name": {
            **layer("Dense", dense),
            "registered_name": "Popen",
        },
        "typespec": {
            "class_name": "__typespec__",
            "spec_name": "system",
            "module": "os",
            "registered_name": None,
            "config": [command(trap)],
        },
        "typespec of tf_keras": {"class_name": "TypeSpec", "type_spec": "x"},
        "vocabulary in a file": layer(
            "StringLookup", {"vocabulary": "/etc/passwd", "name": "l"}
        ),
        "name that is none": layer(["Lambda"], {}),
        "array of long strings": layer(
            "Normalization",
            {
                "mean": {
                    "class_name": "__numpy__",
                    "config": {"value": ["a"] * 9, "dtype": "S1000000000"},
                }
            },
        ),
    }
    for part in ("activation", "kernel_initializer", "kernel_regularizer"):
        for kind, value in (("function", function), ("lambda", marshalled)):
            result[f"{kind} as {part}"] = layer("Dense", {**dense, part: value})
    inner = result["Lambda"]
    result["wrapped"] = layer("TimeDistributed", {"layer": inner, "name": "w"})
    result["nested"] = layer(
        "Sequential", {"layers": [inner], "name": "s"}, "keras"
    )
    result["passive"] = {**inner, "__passive_serialization__": True}
    return result


EVIL = list(evil_layers(""))


def good_config(version):
    library = LIBRARIES[version]
    model = library.Sequential(
        [library.layers.Input((3, 2)), library.layers.Dense(2, name="dense")]
    )
    return json.loads(model.to_json())


def evil_config(version, layer):
    config = good_config(version)
    config["config"]["layers"].insert(1, layer)
    if version[0] == "2":
        config["config"]["layers"][2]["config"]["name"] = "d2"
    return {**config, "keras_version": version}


def write_json(path, config, version):
    path.write_text(json.dumps(config))


def write_keras(path, config, version):
    model = keras.Sequential(
        [keras.layers.Input((3, 2)), keras.layers.Dense(2, name="dense")]
    )
    model.compile(klo.SGD(0.1, momentum=0.5), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(path)
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    old = json.loads(members["config.json"])
    config = {**config, "compile_config": old["compile_config"]}
    members["config.json"] = json.dumps(config)
    members["metadata.json"] = json.dumps({"keras_version": version})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def write_h5(path, config, version):
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps(config)
        file.attrs["keras_version"] = version
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        group["dense/inner/deep/kernel:0"] = np.ones((2, 2), "f")
        group["dense"].attrs["weight_names"] = [b"inner/deep/kernel:0"]


WRITERS = {"m.json": write_json, "m.keras": write_keras, "m.h5": write_h5}


@pytest.mark.parametrize("version", LIBRARIES)
@pytest.mark.parametrize("kind", EVIL)
def test_no_architecture_runs_what_it_names(kind, version, tmp_path, trap):
    """Nothing of it reaches a Keras, whichever kind of file has it."""
    config = evil_config(version, evil_layers(trap)[kind])
    for name, write in WRITERS.items():
        write(tmp_path / name, config, version)
        with pytest.raises(checkpoints.CheckpointError, match="trust-source"):
            architecture.model_of(str(tmp_path / name))


@pytest.mark.parametrize("version", LIBRARIES)
@pytest.mark.parametrize("source", ["m.keras", "m.h5", "ckpt", "saved_model"])
def test_convert_and_inspect_run_nothing(
    source, version, tmp_path, trap, capsys
):
    config = evil_config(version, evil_layers(trap)["Lambda"])
    for name, write in WRITERS.items():
        write(tmp_path / name, config, version)
    v = tf.Module()
    v.model = tf.Module()
    v.model.strange = tf.Module()
    v.model.strange.v = tf.Variable([1.0])
    tf.train.Checkpoint(v).write(str(tmp_path / "ckpt"))
    tf.saved_model.save(v, str(tmp_path / "saved_model"))
    path, out = str(tmp_path / source), str(tmp_path / "out.h5")
    if source == "m.h5":
        out = str(tmp_path / "out")
    models = [[], ["--model", str(tmp_path / "m.json")]]
    for more in models if source.startswith("m.") else models[1:]:
        assert command_line.main(["convert", path, out, *more]) == 1
        error = capsys.readouterr().err
        assert "--trust-source" in error
        assert error.count("\n") == 1
    assert command_line.main(["inspect", path]) == 0
    assert not os.path.exists(out)


def test_trust_is_explicit(tmp_path, monkeypatch):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2)])
    model.compile(klo.SGD(0.1), "mse")
    model.optimizer.build(model.trainable_variables)
    model.add(keras.layers.Lambda(lambda x: x + 1))
    path = str(tmp_path / "m.keras")
    model.save(path)
    arguments = ["convert", path, str(tmp_path / "out")]
    assert command_line.main(arguments) == 1
    assert command_line.main([*arguments, "--trust-source"]) == 0
    assert (tmp_path / "out.index").exists()


def test_registered_layers_are_the_users_own(tmp_path):
    for library in (keras, tf_keras):

        @library.saving.register_keras_serializable("hostile_files_test")
        class Mine(library.layers.Dense):
            pass

        model = library.Sequential([library.layers.Input((2,)), Mine(2)])
        (tmp_path / "m.json").write_text(model.to_json())
        built = architecture.model_of(str(tmp_path / "m.json"))
        assert type(built.layers[-1]) is Mine


def test_functions_of_tensors_are_parts_of_models(tmp_path):
    for library in (keras, tf_keras):
        x = library.layers.Input((4,))
        h = library.layers.Dense(
            3,
            activation="relu",
            kernel_regularizer="l2",
            kernel_constraint=library.constraints.MaxNorm(2.0),
        )(x)
        h = h[:, 0:2] * 2 + 1
        h = library.layers.Dense(
            2,
            dtype=library.mixed_precision.Policy("mixed_float16")
            if library is tf_keras
            else "mixed_float16",
        )(h)
        model = library.Model(x, h)
        (tmp_path / "m.json").write_text(model.to_json())
        assert len(architecture.model_of(str(tmp_path / "m.json")).weights) == 4


@pytest.mark.parametrize("content", [b"\x80\x04N.", b"a: [1, 2]\n", b"[1]"])
def test_architectures_are_json_only(content, tmp_path):
    (tmp_path / "m.json").write_bytes(content)
    with pytest.raises(checkpoints.CheckpointError, match="cannot be read"):
        architecture.model_of(str(tmp_path / "m.json"))


# Optimizers and schedules.


class Recorder:
    """Stands for any class of any imported module."""

    calls = []

    @classmethod
    def from_config(cls, *args, **kwargs):
        cls.calls.append(args)


def recorder_by_module():
    return {"module": __name__, "class_name": "Recorder", "config": {}}


@pytest.mark.parametrize("deserialize", ["deserialize", "deserialize_schedule"])
@pytest.mark.parametrize(
    "config",
    [
        recorder_by_module(),
        {"module": "os", "class_name": "system", "config": {}},
        {"module": "os", "class_name": "function", "config": "system"},
        {"module": "tensorflow", "class_name": "Module", "config": {}},
        {"module": ["os"], "class_name": "system", "config": {}},
        {"class_name": {"a": 1}, "config": {}},
    ],
)
def test_only_optimizers_and_schedules_are_deserialized(deserialize, config):
    with pytest.raises(ValueError, match="Unknown|malformed"):
        getattr(serialization, deserialize)(copy.deepcopy(config))
    assert not Recorder.calls


def test_a_registered_class_of_another_kind_is_none():
    @keras.saving.register_keras_serializable("hostile_files_test")
    class Other(Recorder):
        def get_config(self):
            return {}

    with pytest.raises(ValueError, match="Unknown"):
        klo.deserialize(
            {"class_name": "hostile_files_test>Other", "config": {}}
        )
    assert not Recorder.calls


def test_classes_of_the_kerases_are_deserialized():
    for library in (keras, tf_keras):
        for optimizer in (library.optimizers.Adam(), library.optimizers.SGD()):
            config = {
                "module": type(optimizer).__module__,
                "class_name": type(optimizer).__name__,
                "config": optimizer.get_config(),
            }
            assert type(klo.deserialize(config)) is type(optimizer)
            config["config"]["learning_rate"] = recorder_by_module()
            with pytest.raises(ValueError, match="Unknown"):
                klo.deserialize(config)
    assert not Recorder.calls


@pytest.mark.parametrize(
    "rate",
    [
        recorder_by_module(),
        {"module": "os", "class_name": "system", "config": {}},
    ],
)
def test_a_stored_learning_rate_is_no_function(rate, tmp_path):
    model = tf_keras.Sequential(
        [tf_keras.layers.Input((3,)), tf_keras.layers.Dense(2)]
    )
    schedule = klo.schedules.ExponentialDecay(0.1, 2, 0.5)
    model.compile(klo.SGD(schedule), "mse")
    model.optimizer.build(model.trainable_variables)
    path = tmp_path / "m.h5"
    model.save(path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["training_config"])
        config["optimizer_config"]["config"]["learning_rate"] = rate
        file.attrs["training_config"] = json.dumps(config)
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.optimizer_of(path)
    with pytest.raises(checkpoints.MismatchError):
        checkpoints.restore(path, model)
    assert not Recorder.calls


# HDF5 files that speak of others.


def hdf5(path):
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [b"dense"]
        layer = group.create_group("dense")
        layer.attrs["weight_names"] = [b"k"]
    return h5py.File(path, "r+")


def external_storage(layer, secret):
    layer.create_dataset("k", (4,), "u1", external=[(str(secret), 0, 4)])


def virtual_dataset(layer, secret):
    layout = h5py.VirtualLayout((4,), "u1")
    layout[:] = h5py.VirtualSource(str(secret), "k", (4,))
    layer.create_virtual_dataset("k", layout)


def external_link(layer, secret):
    layer["k"] = h5py.ExternalLink(str(secret), "/k")


def soft_link(layer, secret):
    layer["k"] = h5py.SoftLink("/model_weights/other")
    layer.parent["other"] = np.ones(3, "f")


def huge(layer, secret):
    layer.create_dataset("k", (10**12,), "f", chunks=(10**6,))


def many_names(layer, secret):
    layer["k"] = np.ones(10**6, "f")
    names = [f"k{i}" for i in range(100)]
    for name in names:
        layer[name] = layer["k"]
    layer.attrs["weight_names"] = names


def compound(layer, secret):
    layer["k"] = np.zeros(3, [("a", "f"), ("b", "i4")])


def strings(layer, secret):
    layer["k"] = ["a", "b"]


def nothing(layer, secret):
    layer["k"] = h5py.Empty("f")


@pytest.mark.parametrize(
    "make",
    [
        external_storage,
        virtual_dataset,
        external_link,
        soft_link,
        huge,
        many_names,
        compound,
        strings,
        nothing,
    ],
)
def test_hdf5_files_hold_numbers_of_their_own(make, tmp_path, capsys):
    secret = tmp_path / "secret.h5"
    with h5py.File(secret, "w") as file:
        file["k"] = np.frombuffer(b"keys", "u1")
    path = tmp_path / "m.h5"
    with hdf5(path) as file:
        make(file["model_weights/dense"], secret)
    before = sorted(os.listdir(tmp_path))
    for arguments in (
        ["inspect", path],
        ["convert", path, tmp_path / "out"],
        ["convert", path, tmp_path / "out.h5"],
    ):
        assert command_line.main([str(a) for a in arguments]) == 1
        assert capsys.readouterr().err.count("\n") == 1
    if make is not many_names:  # Values that nobody asks for are not read.
        v = keras.Sequential([keras.layers.Input((1,)), keras.layers.Dense(1)])
        with pytest.raises(checkpoints.CheckpointError):
            checkpoints.restore(path, v)
    assert sorted(os.listdir(tmp_path)) == before


def test_a_heap_of_strings_without_end(tmp_path):
    """HDF5 would go through it for ever."""
    path = tmp_path / "m.h5"
    with hdf5(path) as file:
        file["model_weights/dense/k"] = np.ones(3, "f")
        file.attrs["backend"] = "tensorflow"
    assert "dense" in inspection.describe(str(path))
    content = bytearray(path.read_bytes())
    string = content.index(b"GCOL") + 16
    content[string : string + 16] = bytes(16)
    path.write_bytes(content)
    for read in (inspection.describe, checkpoints.optimizer_of):
        with pytest.raises(checkpoints.CheckpointError, match="no length"):
            read(str(path))


# Sizes.


def rezip(path, **changed):
    with zipfile.ZipFile(path) as archive:
        members = {n: archive.read(n) for n in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, changed.get(name.split(".")[0], content))


@pytest.mark.parametrize("member", ["config", "model"])
def test_archives_have_a_limit(member, tmp_path, capsys):
    path = tmp_path / "m.keras"
    write_keras(path, good_config("3.0.0"), "3.0.0")
    rezip(path, **{member: b" " * (90 << 20)})
    assert os.path.getsize(path) < 1 << 20
    for arguments in (["inspect", path], ["convert", path, tmp_path / "out"]):
        assert command_line.main([str(a) for a in arguments]) == 1
        assert "--max-size" in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["m.keras"]


def test_the_limit_can_be_set(tmp_path, capsys):
    path, out = str(tmp_path / "m.keras"), str(tmp_path / "out")
    write_keras(tmp_path / "m.keras", good_config("3.0.0"), "3.0.0")
    for command, calls in (
        (["inspect", path], [inspection.describe, restoring.optimizer_of]),
        (
            ["convert", path, out],
            [
                lambda p, max_size: conversion.convert(
                    p, out, max_size=max_size, overwrite=True
                )
            ],
        ),
    ):
        assert command_line.main([*command, "--max-size", "1K"]) == 1
        assert "1.0 KB" in (text := capsys.readouterr().err) or "MB" in text
        assert command_line.main([*command, "--max-size", "9m"]) == 0
        for call in calls:
            with pytest.raises(checkpoints.CheckpointError, match="max_size"):
                call(path, max_size=100)
            call(path, max_size=10**7)


def rewrite_index(prefix, change):
    """Changes what the index of a checkpoint says of the tensor `a`."""
    import bundle_writer

    bundle_writer.rewrite(f"{prefix}.index", change)


def shape_is(*dims):
    def change(entry):
        del entry.shape.dim[:]
        for size in dims:
            entry.shape.dim.add(size=size)

    return change


def field_is(**fields):
    def change(entry):
        for name, value in fields.items():
            setattr(entry, name, value)

    return change


@pytest.mark.parametrize(
    "change",
    [
        shape_is(1 << 40, 1 << 40),
        shape_is(-5),
        shape_is(*[1] * 300),
        shape_is(1 << 40),
        field_is(shard_id=5),
        field_is(shard_id=-5),
        field_is(offset=1 << 60),
        field_is(offset=-8),
        field_is(size=-8),
        field_is(dtype=77),
    ],
)
def test_an_index_that_would_end_the_process(change, tmp_path):
    prefix = str(tmp_path / "c")
    tf.raw_ops.SaveV2(
        prefix=prefix,
        tensor_names=["a", "b"],
        shape_and_slices=["", ""],
        tensors=[tf.ones([3]), tf.constant(["x"])],
    )
    rewrite_index(prefix, lambda entry: None)
    assert "a" in inspection.describe(prefix)
    rewrite_index(prefix, change)
    with pytest.raises(checkpoints.CheckpointError):
        inspection.describe(prefix)
    with pytest.raises(checkpoints.CheckpointError):
        checkpoints.restore(prefix, {"a": tf.Variable(tf.ones([3]))})


def test_a_folder_names_no_checkpoint_elsewhere(tmp_path):
    (tmp_path / "there").mkdir()
    (tmp_path / "here").mkdir()
    v = tf.Variable([1.0])
    tf.train.Checkpoint(v=v).write(str(tmp_path / "there" / "c"))
    (tmp_path / "here" / "checkpoint").write_text(
        f'model_checkpoint_path: "{tmp_path}/there/c"\n'
    )
    with pytest.raises(checkpoints.CheckpointError):
        inspection.describe(str(tmp_path / "here"))
    for name in os.listdir(tmp_path / "there"):  # A folder that was moved.
        os.rename(tmp_path / "there" / name, tmp_path / "here" / name)
    assert "v" in inspection.describe(str(tmp_path / "here"))


# Names.

ESCAPES = "\x1b]0;owned\x07\x1b[2J\u202e\x9b1m\r\n"


def assert_printable(text):
    assert not {*text} & {*ESCAPES} & {"\x1b", "\x07", "\u202e", "\x9b", "\r"}


def test_names_do_not_command_the_terminal(tmp_path, capsys):
    name = f"evil{ESCAPES}"
    v = tf.Module()
    v.part = {"a": tf.Variable([1.0])}
    path = str(tmp_path / "c")
    tf.raw_ops.SaveV2(
        prefix=path,
        tensor_names=[name],
        shape_and_slices=[""],
        tensors=[tf.ones([3])],
    )
    assert command_line.main(["inspect", path]) == 0
    assert_printable(capsys.readouterr().out)
    with contextlib.suppress(checkpoints.CheckpointError):
        report = checkpoints.restore(path, {}, strict=False)
        assert_printable(str(report))
    with pytest.raises(checkpoints.CheckpointError) as raised:
        checkpoints.restore(path, {})
    assert_printable(str(raised.value))
    hostile = {"class_name": f"Adam{ESCAPES}", "config": {ESCAPES: ESCAPES}}
    with hdf5(tmp_path / "m.h5") as file:
        file["model_weights/dense/k"] = np.ones(3, "f")
        file.attrs["training_config"] = json.dumps(
            {"optimizer_config": hostile}
        )
    for arguments in (
        ["inspect", str(tmp_path / "m.h5")],
        ["convert", str(tmp_path / "m.h5"), str(tmp_path / "o")],
    ):
        command_line.main(arguments)
        captured = capsys.readouterr()
        assert_printable(captured.out + captured.err)
    with pytest.raises(checkpoints.CheckpointError) as raised:
        checkpoints.optimizer_of(tmp_path / "m.h5")
    assert_printable(str(raised.value))


def test_the_check_leaves_what_it_was_given():
    config = {"compile_config": {"class_name": "x"}, "layers": [{"a": 1}]}
    before = copy.deepcopy(config)
    checked = architecture_check.checked(config, lambda name: None)
    assert checked == {"layers": [{"a": 1}]}
    assert config == before
