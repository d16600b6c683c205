"""Files cross processes and libraries, and training goes on to the bit."""

import functools
import pathlib

import npz
import numpy as np
import preforked
import pytest

pytestmark = pytest.mark.processes
SCRIPT = pathlib.Path(__file__).with_name("write_and_continue.py")
ROOT = SCRIPT.parents[2]


def run(library, action, folder):
    name = f"{library}-{action}"
    status, output = preforked.run(
        SCRIPT,
        library,
        action,
        folder,
        env={"PYTHONPATH": str(ROOT)},
        log=folder / f"{name}.log",
    )
    assert status == 0, output[-3000:]
    return npz.read(folder / f"{name}.npz")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with files of a library, and what came of going on with it."""

    @functools.cache
    def write(library):
        folder = tmp_path_factory.mktemp(library)
        return folder, run(library, "write", folder)

    return write


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("keras", "keras"),
        ("tf_keras", "tf_keras"),
        ("tf_keras", "legacy"),
        ("legacy", "tf_keras"),
    ],
)
def test_training_goes_on(writer, reader, written):
    folder, expected = written(writer)
    read = run(reader, "read", folder)
    assert read
    for name in read:
        if writer == reader:
            np.testing.assert_array_equal(read[name], expected[name], name)
        else:  # Other kernels may round otherwise.
            np.testing.assert_allclose(
                read[name], expected[name], rtol=2e-6, atol=2e-7, err_msg=name
            )
