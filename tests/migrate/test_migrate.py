"""`migrate` on files in every style, each with what it has to become."""

import json
import pathlib
import subprocess

import numpy as np
import pytest

import keras_legacy_opt
from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import legacy_names, schedules
from keras_legacy_opt.migrate import names

CORPUS = pathlib.Path(__file__).parent / "corpus"
FILES = sorted(p for p in CORPUS.iterdir() if p.suffix in (".py", ".ipynb"))


def run(*arguments):
    return command_line.main(["migrate", *map(str, arguments)])


@pytest.fixture(params=FILES, ids=lambda path: path.name)
def old(request, tmp_path):
    """A copy of a file of the corpus."""
    path = tmp_path / request.param.name
    path.write_bytes(request.param.read_bytes())
    return path


def expected(path):
    """What a file has to become: itself, if nothing else is said."""
    changed = CORPUS / f"{path.name}.expected"
    return (changed if changed.exists() else CORPUS / path.name).read_bytes()


def test_becomes_what_is_expected(old, capsys):
    old.chmod(0o750)
    assert run("--write", old) == 0
    assert old.read_bytes() == expected(old)
    assert old.stat().st_mode & 0o777 == 0o750
    assert [path.name for path in old.parent.iterdir()] == [old.name]
    first = capsys.readouterr()
    changed = expected(old) != (CORPUS / old.name).read_bytes()
    assert first.out == (f"{old}: rewritten\n" if changed else "")
    # Again: nothing is left to do.
    assert run("--write", old) == 0
    assert old.read_bytes() == expected(old)
    assert capsys.readouterr().out == ""


def test_prints_a_patch(old, tmp_path, capsys):
    before = old.read_bytes()
    assert run(old) == 0
    assert old.read_bytes() == before
    patch = capsys.readouterr().out
    assert bool(patch) == (expected(old) != before)
    if patch and old.suffix == ".py":
        patched = tmp_path / "patched"
        subprocess.run(
            ["patch", "--quiet", "--output", patched, old],
            input=patch,
            text=True,
            check=True,
        )
        assert patched.read_bytes() == expected(old)


def test_notes(capsys):
    assert run(CORPUS / "notes.py") == 0
    notes = capsys.readouterr().err.splitlines()
    lines = [int(note.split(":")[1]) for note in notes]
    assert lines == [3, 6, 10, 11, 12, 13, 14, 15, 16, 18, 19]
    for note, word in zip(
        notes,
        [
            *("tensorflow_addons", "import *", "handed on", "Lion"),
            *("get(name)", "save_format", "build the model", "K.function"),
            *("backend", "handed on", "AdamW"),
        ],
        strict=True,
    ):
        assert word in note


@pytest.mark.filterwarnings("ignore:The .*`lr`:UserWarning")
@pytest.mark.filterwarnings("ignore:.*imported from Keras before")
def test_the_rewritten_program_is_the_old_one(plain_path):
    """As the old one is, where legacy's names are there."""
    old, new = {"__name__": "old"}, {"__name__": "new"}
    path = CORPUS / "training.py"
    with keras_legacy_opt.installed(top_level=True):
        exec(compile(path.read_text(), "old", "exec"), old)
    exec(compile(expected(path), "new", "exec"), new)
    for weights, others in zip(old["results"], new["results"], strict=True):
        for value, other in zip(weights, others, strict=True):
            np.testing.assert_array_equal(value, other)


def test_folders(tmp_path, capsys):
    code = "import keras\nkeras.optimizers.Adam()\n"
    skipped = [".git/a.py", "x/site-packages/b.py", "text.txt"]
    for name in ("a.py", "x/b.py", *skipped):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(code)
    assert run("--write", tmp_path) == 0
    for name in ("a.py", "x/b.py"):
        assert "keras_legacy_opt" in (tmp_path / name).read_text()
    for name in skipped:
        assert (tmp_path / name).read_text() == code


def test_links(tmp_path, capsys):
    """What they lead to is rewritten only if it is among the paths given."""
    code = "import keras\nkeras.optimizers.Adam()\n"
    for name in ("own/a.py", "other/b.py", "third/c.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text(code)
    own = tmp_path / "own"
    (own / "inside.py").symlink_to("a.py")
    (own / "outside.py").symlink_to("../other/b.py")
    (own / "folder").symlink_to("../third")
    (own / "endless").symlink_to("endless")
    for arguments in ([own], ["--write", own]):
        assert run(*arguments) == 0
        told = capsys.readouterr()
        (line,) = told.err.splitlines()
        assert line.startswith(f"{own / 'outside.py'}: left: ")
        assert "outside" not in told.out
    assert "keras_legacy_opt" in (own / "a.py").read_text()
    assert (own / "inside.py").is_symlink()
    for name in ("other/b.py", "third/c.py"):
        assert (tmp_path / name).read_text() == code
    # Who names a link, means what it leads to.
    assert run("--write", own / "outside.py", own / "folder") == 0
    for name in ("other/b.py", "third/c.py"):
        assert "keras_legacy_opt" in (tmp_path / name).read_text()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.py", b"def ("),
        ("a.py", b"\xff\xfe"),
        ("a.py", None),
        ("a.ipynb", b"[]"),
        ("a.ipynb", b"{"),
        ("a.ipynb", b'{"cells": [{"cell_type": "code", "source": "def ("}]}'),
    ],
)
def test_what_cannot_be_read(name, content, tmp_path, capsys):
    """It is told of in a line, and the other files are rewritten."""
    path, good = tmp_path / name, tmp_path / "good.py"
    if content is not None:
        path.write_bytes(content)
    good.write_text("import keras\nkeras.optimizers.Adam()\n")
    assert run("--write", path, good) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"{path}: not rewritten: ")
    assert "keras_legacy_opt" in good.read_text()
    assert content is None or path.read_bytes() == content


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_form_is_kept(newline, tmp_path):
    lines = ["import keras", "x = keras.optimizers.SGD( 0.1 ) ;y=1", "", "# e"]
    path = tmp_path / "a.py"
    path.write_bytes(newline.join(lines).encode())
    assert run("--write", path) == 0
    lines[0] += f"{newline}import keras_legacy_opt"
    lines[1] = "x = keras_legacy_opt.SGD( 0.1 ) ;y=1"
    assert path.read_bytes() == newline.join(lines).encode()


def test_notebooks_stay_notebooks(tmp_path):
    """Cells of other kinds, magics and outputs are not touched."""
    path = tmp_path / "a.ipynb"
    path.write_bytes((CORPUS / "notebook.ipynb").read_bytes())
    before = json.loads(path.read_text())
    assert run("--write", path) == 0
    after = json.loads(path.read_text())
    for old_cell, new_cell in zip(
        before.pop("cells"), after.pop("cells"), strict=True
    ):
        assert (old_cell.keys(), old_cell["cell_type"]) == (
            new_cell.keys(),
            new_cell["cell_type"],
        )
    assert before == after


def test_names_of_the_table_exist():
    for keras in legacy_names.KERASES:
        found = legacy_names.attributes(f"{keras}.optimizers.schedules")
        assert sorted(found) == sorted(schedules.__all__)
    assert names.meaning("keras.optimizers.Adam") == "Adam"
    for name in legacy_names.OPTIMIZERS:
        assert issubclass(
            getattr(keras_legacy_opt, name), keras_legacy_opt.Optimizer
        )
