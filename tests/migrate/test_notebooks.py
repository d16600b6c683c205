"""`migrate` on notebooks: IPython's lines, and cells that are no Python."""

import json

import pytest

from keras_legacy_opt import __main__ as command_line

OLD = "opt = tf.keras.optimizers.Adam()"
NEW = "opt = keras_legacy_opt.Adam()"
# Cells of IPython; {} is where a statement of Python may be.
CELLS = {
    "shell": "!ls\n{}\nfiles = !ls *.txt\n!echo it's (\n{}",
    "help": "opt?\n{}\n?opt\nopt.get_config??\n{}",
    "magics": "%matplotlib inline\n{}\ny = %timeit -o f()\n%cd 'a\n{}",
    "in blocks": "for i in x:\n    %time f()\n    {}\nif x:\n    !ls {i}\n{}",
    "no magics": "text = '''\n%s\n!\nwhat?\n'''\nx = (1\n% 2\n)\n{}",
    "both": "x = (1\n% 2)\n%time f()\ntext = '''\n%time f()'''\n{}",
    "lines that go on": "!pip install \\\n   a \\\n   b\n{}",
    "a magic of the cell": "%%time\n{}\n%time f()\n{}",
    "only magics": "%load_ext a\n!ls",
    "await": "await f()\n{}",
    "nothing": "",
    "a strange string": "x = '\\d'\n{}\n",
}


def write(path, *cells):
    """A notebook of code cells."""
    content = [{"cell_type": "code", "source": cell} for cell in cells]
    path.write_text(json.dumps({"cells": content, "nbformat": 4}))


def cells_of(path):
    return [cell["source"] for cell in json.loads(path.read_text())["cells"]]


def migrate(path):
    return command_line.main(["migrate", "--write", str(path)])


@pytest.mark.parametrize("name", CELLS)
def test_lines_for_the_notebook_stay(name, tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    cell = CELLS[name]
    old, new = (cell.replace("{}", text) for text in (OLD, NEW))
    write(path, "import tensorflow as tf", old, "", old)
    assert migrate(path) == 0
    first = "import tensorflow as tf"
    if "{}" in cell:
        first += "\nimport keras_legacy_opt"
    assert cells_of(path) == [first, new, "", new]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("before", ["%%time", "%%capture out", "%load_ext a"])
def test_the_import_comes_after_the_magic_of_a_cell(before, tmp_path):
    path = tmp_path / "a.ipynb"
    use = "model.compile('adam')"
    write(path, "%%bash\nls", f"{before}\n{use}", use)
    assert migrate(path) == 0
    new = "model.compile(keras_legacy_opt.get('adam'))"
    imported = "import keras_legacy_opt"
    lines = [before, imported] if "%%" in before else [imported, before]
    assert cells_of(path)[1:] == ["\n".join([*lines, new]), new]


def test_cells_that_are_no_python_are_left(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    write(
        path,
        "%%bash\nls",
        "%%time\nx = 1\nprint 'x'",
        "import tensorflow as tf\n" + OLD,
        "x = (\n" + OLD,
        "def f(:\n  pass\n" + OLD,
        "x\0",
        "x = 1\n    opt?",
        "x = 1\n    %time f() ?",
        OLD,
    )
    before = cells_of(path)
    assert migrate(path) == 1
    after = cells_of(path)
    changed = [n for n in range(len(before)) if before[n] != after[n]]
    assert changed == [2, 8]
    assert after[8] == NEW
    notes = capsys.readouterr().err.splitlines()
    places = [(2, 3), (4, 1), (5, 1), (6, 1), (7, 2), (8, 2)]
    for note, (cell, line) in zip(notes, places, strict=True):
        assert note.startswith(
            f"{path}: not rewritten: cell {cell}, line {line}: "
        )


def test_notes_tell_the_cell(tmp_path, capsys):
    path = tmp_path / "a.ipynb"
    write(
        path,
        "import tensorflow as tf",
        "%%time\n\nmodel.compile(optimizer=args.name)",
        "x = 1\n%time model.compile('adam')",
    )
    assert migrate(path) == 0
    notes = capsys.readouterr().err.splitlines()
    places = ["cell 2, line 3", "cell 3, line 2"]
    for note, place in zip(notes, places, strict=True):
        assert note.startswith(f"{path}:{place}: ")


def test_a_cell_may_become_empty(tmp_path):
    """What is imported there, is not needed any more."""
    path = tmp_path / "a.ipynb"
    write(path, "x = 1", "from keras import optimizers", "optimizers.SGD()", "")
    assert migrate(path) == 0
    imported, new = "import keras_legacy_opt", "keras_legacy_opt.SGD()"
    assert cells_of(path) == ["x = 1", imported, new, ""]
    write(
        path, "import keras", "from keras import optimizers", "optimizers.SGD()"
    )
    assert migrate(path) == 0
    assert cells_of(path) == [f"import keras\n{imported}", "", new]
