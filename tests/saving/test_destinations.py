"""What `convert` leaves, whatever happens to it: the old file or the new."""

import json
import os
import pathlib
import signal
import subprocess
import sys

import h5py
import numpy as np
import pytest
import tensorflow as tf

from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import private_api
from keras_legacy_opt.checkpoints import (
    bundle_index,
    contents,
    destination,
    inspection,
)
from keras_legacy_opt.checkpoints.formats import object_graph
from keras_legacy_opt.checkpoints.report import CheckpointError

SCRIPT = pathlib.Path(__file__).with_name("forked_conversions.py")
ROOT = SCRIPT.parents[2]
NOBODY = 65534
# More than the moves and removals of any conversion here.
CHANGES = 20
NAMES = ("kernel", "bias")
PREFIX = "model/layer_with_weights-0/"


def write_source(path, value, dtype=np.float32, count=300):
    """An HDF5 file of Keras 2."""
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [b"d"]
        group = file.create_group("d")
        group.attrs["weight_names"] = [b"d/kernel:0", b"d/bias:0"]
        for name in ("kernel", "bias"):
            group[f"d/{name}:0"] = np.full(count, value, dtype)


def content(path):
    """The one value that all of a converted file has; None if it is none."""
    try:
        inspection.describe(str(path))
    except CheckpointError:
        return None
    if path.suffix == ".h5":
        with h5py.File(path) as file:
            arrays = [file[f"model_weights/d/d/{n}:0"][()] for n in NAMES]
    else:
        reader = tf.train.load_checkpoint(str(path))
        key = f"{PREFIX}%s/.ATTRIBUTES/VARIABLE_VALUE"
        arrays = [reader.get_tensor(key % name) for name in NAMES]
    (value,) = set(np.concatenate(arrays).tolist())
    return value


def parts(path):
    """The names of the files that a converted file consists of."""
    if path.suffix == ".h5":
        return [path.name]
    count = bundle_index.number_of_shards(str(path))
    return [
        *(f"{path.name}.data-{i:05d}-of-{count:05d}" for i in range(count)),
        f"{path.name}.index",
    ]


@pytest.fixture(scope="module")
def fork():
    """The function that runs jobs of `forked_conversions.py`."""
    with subprocess.Popen(
        [sys.executable, str(SCRIPT)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:

        def run(*jobs):
            process.stdin.write(json.dumps(jobs) + "\n")
            process.stdin.flush()
            return json.loads(process.stdout.readline())

        yield run
        process.stdin.close()


@pytest.fixture
def job(tmp_path):
    """The function that makes a job: replace `old` by what `new.h5` holds."""
    for value, name in enumerate(("old", "new")):
        write_source(tmp_path / f"{name}.h5", value)

    def make(name, **fate):
        arguments = [tmp_path / "new.h5", tmp_path / name, "--overwrite"]
        return {"arguments": [str(a) for a in arguments], **fate}

    return make


def convert(*arguments):
    return command_line.main(["convert", *map(str, arguments)])


@pytest.mark.processes
@pytest.mark.parametrize("name", ["out/m", "out/m.h5"])
def test_a_killed_conversion_leaves_the_old_or_the_new(
    fork, job, tmp_path, name
):
    (tmp_path / "out").mkdir()
    path = tmp_path / name
    seen = []
    for moment in range(1, CHANGES):
        assert convert(tmp_path / "old.h5", path, "--overwrite") == 0
        ((code, error),) = fork(job(name, kill_at=moment))
        seen.append(content(path))
        assert code in (0, -signal.SIGKILL), error
        if code == 0:
            break
    assert code == 0
    # The old one up to some moment, and the new one from then on.
    assert seen == sorted(seen)
    assert set(seen) == {0, 1}
    # What those that were killed left is gone.
    assert sorted(os.listdir(tmp_path / "out")) == parts(path)


@pytest.mark.processes
@pytest.mark.parametrize("name", ["out/m", "out/m.h5"])
def test_an_interrupted_conversion_says_what_is_there(
    fork, job, tmp_path, name
):
    (tmp_path / "out").mkdir()
    path = tmp_path / name
    seen = set()
    for moment in range(1, CHANGES):
        assert convert(tmp_path / "old.h5", path, "--overwrite") == 0
        before = sorted(os.listdir(tmp_path / "out"))
        ((code, error),) = fork(job(name, interrupt_at=moment))
        if code == 0:
            break
        assert code == 130, error
        if content(path) == 0:
            assert error == "Interrupted: nothing was changed.\n"
            assert sorted(os.listdir(tmp_path / "out")) == before
        else:
            assert content(path) == 1
            assert error == f"Interrupted: {path} is complete.\n"
        seen.add(content(path))
    assert code == 0
    assert seen == {0, 1}


@pytest.mark.processes
@pytest.mark.parametrize("name", ["out/m", "out/m.h5"])
@pytest.mark.parametrize("largest", [0, 500, 2000])
def test_a_full_disk(fork, job, tmp_path, name, largest):
    (tmp_path / "out").mkdir()
    path = tmp_path / name
    assert convert(tmp_path / "old.h5", path) == 0
    before = sorted(os.listdir(tmp_path / "out"))
    ((code, error),) = fork(job(name, largest_file=largest))
    assert code == 1
    assert error.startswith(f"{path} cannot be written")
    assert error.count("\n") == 1
    assert content(path) == 0
    assert sorted(os.listdir(tmp_path / "out")) == before


@pytest.mark.processes
@pytest.mark.parametrize("name", ["out/m", "out/m.h5"])
def test_a_read_only_folder(fork, job, tmp_path, name):
    (tmp_path / "out").mkdir()
    path = tmp_path / name
    assert convert(tmp_path / "old.h5", path) == 0
    before = sorted(os.listdir(tmp_path / "out"))
    fate = {}
    if os.getuid() == 0:  # Who may write everywhere.
        fate["user"] = NOBODY
        for folder in (tmp_path, *tmp_path.parents):
            if folder.owner() == "root" and folder.stat().st_mode & 0o001 == 0:
                folder.chmod(folder.stat().st_mode | 0o011)
    (tmp_path / "out").chmod(0o555)
    try:
        ((code, error),) = fork(job(name, **fate))
    finally:
        (tmp_path / "out").chmod(0o755)
    assert code == 1, error
    assert error.startswith(f"{path} cannot be written")
    assert "Permission" in error
    assert error.count("\n") == 1
    assert content(path) == 0
    assert sorted(os.listdir(tmp_path / "out")) == before


@pytest.mark.processes
@pytest.mark.parametrize("name", ["out/m", "out/m.h5"])
def test_two_conversions_at_once(fork, job, tmp_path, name):
    (tmp_path / "out").mkdir()
    path = tmp_path / name
    flag = str(tmp_path / "flag")
    first, second = fork(job(name, holds=flag), job(name, after=flag))
    assert first == [0, ""]
    assert second[0] == 1
    assert second[1] == f"Another conversion is writing {path}: wait for it.\n"
    # Both, one after the other or not at all, where nobody waits.
    results = fork(job(name), job(name), job(name))
    assert {code for code, _ in results} <= {0, 1}
    assert any(code == 0 for code, _ in results)
    for code, error in results:
        assert error.count("\n") == code
        assert "Another conversion" in error or code == 0
    assert content(path) == 1
    assert sorted(os.listdir(tmp_path / "out")) == parts(path)


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/", "a/.", "no/folder", "a", "n" * 300]
)
def test_names_that_nothing_can_have(tmp_path, monkeypatch, capsys, name):
    write_source(tmp_path / "old.h5", 0)
    (tmp_path / "a").mkdir()
    (tmp_path / "a.index").mkdir()
    monkeypatch.chdir(tmp_path)
    before = sorted(os.listdir(tmp_path))
    assert convert("old.h5", name) == 1
    out, error = capsys.readouterr()
    assert not out
    assert error.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before


KINDS = (contents.MODEL, contents.SLOT, contents.HYPERPARAMETER)


def write_objects(path, values):
    """A checkpoint of a variable with a slot and a hyperparameter."""
    graph = private_api.new_object_graph()
    nodes = [graph.nodes.add() for _ in range(7)]
    edges = {
        0: {"model": 1, "optimizer": 2},
        1: {"layer_with_weights-0": 3},
        3: {"kernel": 4},
        2: {"iter": 5, "beta_1": 6},
    }
    for node, children in edges.items():
        for name, child in children.items():
            nodes[node].children.add(node_id=child, local_name=name)
    slot = graph.nodes.add()
    nodes[2].slot_variables.add(
        original_variable_node_id=4, slot_name="m", slot_variable_node_id=7
    )
    tensors = {"_CHECKPOINTABLE_OBJECT_GRAPH": None}
    for node, key, value in (
        (nodes[4], f"{PREFIX}kernel", values[contents.MODEL]),
        (slot, f"{PREFIX}kernel/.OPTIMIZER_SLOT/m", values[contents.SLOT]),
        (nodes[5], "optimizer/iter", tf.constant(3, tf.int64)),
        (nodes[6], "optimizer/beta_1", values[contents.HYPERPARAMETER]),
    ):
        key += "/.ATTRIBUTES/VARIABLE_VALUE"
        node.attributes.add(name="VARIABLE_VALUE", checkpoint_key=key)
        tensors[key] = value
    tensors["_CHECKPOINTABLE_OBJECT_GRAPH"] = tf.constant(
        graph.SerializeToString()
    )
    tf.raw_ops.SaveV2(
        prefix=str(path),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=list(tensors.values()),
    )


TYPES = (tf.qint8, tf.quint16, tf.qint32, tf.string, tf.bfloat16)


@pytest.mark.parametrize("dtype", TYPES, ids=lambda d: d.name)
def test_values_that_hdf5_has_not(tmp_path, capsys, dtype):
    """Wherever it is: as a weight, a slot, or a hyperparameter."""
    zeros = np.zeros(2, dtype.as_numpy_dtype)
    odd = tf.constant(["", ""] if dtype is tf.string else zeros, dtype)
    number = tf.ones(2)
    for kind in KINDS:
        write_objects(
            tmp_path / kind,
            {k: odd if k == kind else number for k in KINDS},
        )
        assert convert(tmp_path / kind, tmp_path / "m.h5") == 1
        error = capsys.readouterr().err
        assert "HDF5 files of Keras have no values such as" in error
        assert error.count("\n") == 1
        # Checkpoints have them.
        assert convert(tmp_path / kind, tmp_path / f"m-{kind}") == 0


def test_a_failed_last_step_leaves_the_old(tmp_path, monkeypatch, capsys):
    """Nothing beside it, either: the new data have their names by then."""
    write_source(tmp_path / "old.h5", 0)
    write_source(tmp_path / "new.h5", 1)
    assert convert(tmp_path / "old.h5", tmp_path / "m") == 0
    before = sorted(os.listdir(tmp_path))
    replace = os.replace

    def full(source, target):
        if str(target).endswith(".index"):
            raise OSError(28, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(destination.os, "replace", full)
    assert convert(tmp_path / "new.h5", tmp_path / "m", "--overwrite") == 1
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(os.listdir(tmp_path)) == before
    assert content(tmp_path / "m") == 0


@pytest.mark.parametrize(
    "error", [TypeError, AttributeError, RecursionError, AssertionError]
)
def test_our_own_mistakes_are_no_errors_of_the_disk(
    tmp_path, monkeypatch, error
):
    write_source(tmp_path / "old.h5", 0)

    def mistaken(*args):
        raise error("a mistake")

    monkeypatch.setattr(object_graph, "write", mistaken)
    with pytest.raises(error, match="a mistake"):
        convert(tmp_path / "old.h5", tmp_path / "m")
    assert os.listdir(tmp_path) == ["old.h5"]
