"""Which native library is loaded, and that finding none is no error."""

import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil

import pytest
import tensorflow as tf

import keras_legacy_opt
from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt.fused import library, loader

pytestmark = pytest.mark.usefixtures("native_ops")

STRANGER = 54321  # a user that nothing belongs to


@pytest.fixture
def loaded(monkeypatch):
    """The paths that the loader loads, which it only seems to do."""
    paths = []
    monkeypatch.setattr(loader, "Ops", lambda path: paths.append(path) or paths)
    return paths


@pytest.fixture
def cached(tmp_path, monkeypatch, loaded, native_ops):
    """The folder of a good library, the only one there is."""
    good = pathlib.Path(native_ops.path).parent
    folder = tmp_path / "above" / "cache" / good.name
    shutil.copytree(good, folder)
    monkeypatch.setattr(library, "PACKAGED", tmp_path / "none")
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(folder.parent))
    return folder


@pytest.fixture
def steps_from_the_start(monkeypatch):
    """A function that takes steps as the first of a process; says why not."""

    def take():
        once = functools.cache(loader._load_once.__wrapped__)
        monkeypatch.setattr(loader, "_load_once", once)
        var = tf.Variable([1.0])
        for _ in range(2):
            keras_legacy_opt.SGD(0.5).apply_gradients([(tf.ones([1]), var)])
        assert var.numpy() == 0
        assert once.cache_info().misses == 1
        return keras_legacy_opt.fused.why_not()

    return take


def why_not():
    """Why none is loaded, with a remedy; None if one is."""
    ops, reason = loader._first_that_loads()
    assert (ops is None) == (reason is not None)
    if reason is not None:
        assert "python -m keras_legacy_opt build" in reason
        assert reason.isprintable()
    return reason


def change_manifest(folder, **changes):
    path = folder / library.MANIFEST
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps(values))


@contextlib.contextmanager
def a_user_who_may_read_nothing(folder):
    """In it, `folder` is that of another user, who lets nobody in."""
    folder.chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # Root may read it all the same.
            os.seteuid(STRANGER)
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o700)


# Who could have written it.


def test_a_library_of_the_user_is_loaded(cached, loaded):
    assert why_not() is None
    assert loaded == [str(cached / library.LIBRARY)]


PLACES = {
    "library": lambda folder: folder / library.LIBRARY,
    "manifest": lambda folder: folder / library.MANIFEST,
    "folder": lambda folder: folder,
    "cache": lambda folder: folder.parent,
    "above": lambda folder: folder.parent.parent,
}


@pytest.mark.parametrize("bits", [0o020, 0o002, 0o022])
@pytest.mark.parametrize("place", PLACES)
def test_what_others_may_write_is_not_loaded(cached, loaded, place, bits):
    path = PLACES[place](cached)
    path.chmod(path.stat().st_mode | bits)
    assert f"{path} (`chmod go-w` forbids it)" in why_not()
    assert not loaded


@pytest.mark.parametrize("place", PLACES)
def test_what_others_own_is_not_loaded(cached, loaded, monkeypatch, place):
    if os.geteuid() == 0:
        os.chown(PLACES[place](cached), STRANGER, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: STRANGER)
    assert "belongs to another user" in why_not()
    assert not loaded


def test_in_a_folder_such_as_tmp_others_replace_only_their_own(cached, loaded):
    cached.parent.parent.chmod(0o1777)
    assert why_not() is None
    cached.parent.chmod(0o1777)
    assert "may write" in why_not()


def test_links_count_as_what_they_lead_through(cached, monkeypatch, tmp_path):
    link = tmp_path / "link"
    link.symlink_to("above/../above/cache")
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(link))
    assert why_not() is None
    cached.parent.parent.chmod(0o777)
    assert "may write" in why_not()
    cached.parent.parent.chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    (cached / library.LIBRARY).rename(elsewhere / library.LIBRARY)
    (cached / library.LIBRARY).symlink_to(elsewhere / library.LIBRARY)
    assert str(elsewhere) in why_not()
    link.unlink()
    link.symlink_to(link)
    assert why_not()


def test_a_packaged_library_is_as_good_as_the_code_beside_it(
    cached, loaded, monkeypatch, tmp_path
):
    code = tmp_path / "fused"
    code.mkdir()
    packaged = code / "lib" / cached.name
    shutil.copytree(cached, packaged)
    shutil.rmtree(cached)
    monkeypatch.setattr(library, "PACKAGED", packaged.parent)
    assert why_not() is None
    packaged.chmod(0o775)
    assert "may write" in why_not()
    code.chmod(0o775)
    assert why_not() is None
    if os.geteuid() == 0:  # As in containers that change the user.
        for path in [code, code / "lib", packaged, *packaged.iterdir()]:
            os.chown(path, STRANGER, -1)
        assert why_not() is None
        os.chown(packaged, STRANGER + 1, -1)
        assert "another user" in why_not()


# Where it is looked for.


@pytest.mark.parametrize("value", ["", "here", "./here", "~/here", "."])
@pytest.mark.parametrize("variable", list(library._PLACES))
def test_the_current_directory_is_no_cache(
    cached, loaded, monkeypatch, tmp_path, variable, value
):
    monkeypatch.setattr(
        library, "_home", lambda: str(tmp_path / "home"), raising=False
    )
    for name in library._PLACES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, value)
    below = library._PLACES[variable]
    place = tmp_path / value / below
    place.mkdir(parents=True, exist_ok=True)
    shutil.copytree(cached, place / cached.name)
    monkeypatch.chdir(tmp_path)
    assert why_not()
    assert not loaded
    assert library.user_cache().is_relative_to(tmp_path / "home")


def test_an_ignored_variable_is_told(capsys, monkeypatch):
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", "some/where")
    assert command_line.main(["doctor"]) == 0
    assert "not KERAS_LEGACY_OPT_CACHE: 'some/where'" in capsys.readouterr().out


def without_a_home(monkeypatch):
    def no_entry(user):
        raise KeyError(user)

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    for name in library._PLACES:
        monkeypatch.delenv(name, raising=False)


def test_no_home(cached, loaded, capsys, monkeypatch):
    without_a_home(monkeypatch)
    assert library.user_cache() is None
    assert "none was built" in why_not() or "no native library" in why_not()
    monkeypatch.setattr(library, "PACKAGED", cached.parent)
    assert why_not() is None
    assert command_line.main(["doctor"]) == 0
    assert "there is no home" in capsys.readouterr().out
    assert command_line.main(["build"]) == 1
    assert "KERAS_LEGACY_OPT_CACHE" in capsys.readouterr().err


def test_a_cache_that_cannot_be_read(cached, loaded, tmp_path, monkeypatch):
    with a_user_who_may_read_nothing(tmp_path):
        assert "no native library" in why_not()
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    for place in ("file/below", "loop", "x" * 300, "missing", "file"):
        monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(tmp_path / place))
        assert "no native library" in why_not()


@pytest.mark.parametrize("step", ["folders", "check"])
def test_whatever_fails_a_step_and_the_doctor_do_not(
    capsys, monkeypatch, steps_from_the_start, step
):
    def fail(*args):
        raise RuntimeError("of the test")

    monkeypatch.setattr(library, step, fail)
    assert "of the test" in steps_from_the_start()
    assert command_line.main(["doctor"]) == 1
    assert "of the test" in capsys.readouterr().out
    assert loader._load_once.cache_info().misses == 1


# What stands beside it.


@pytest.mark.parametrize("value", [None, [], {}, 1.5], ids=repr)
@pytest.mark.parametrize(
    "field", [field.name for field in dataclasses.fields(library.Manifest)]
)
def test_a_manifest_with_any_wrong_value(cached, loaded, field, value):
    change_manifest(cached, **{field: value})
    assert why_not()
    assert not loaded


@pytest.mark.parametrize(
    "content",
    [b"", b"1", b"[]", b"{}", b"null", b"\xff", b"[" * 60000, b"9" * 60000]
    + [b'{"tensorflow": "2.21.0"}', b'{"\\ud800": 1}'],
    ids=lambda content: repr(content[:24]),
)
def test_a_manifest_that_is_none(cached, loaded, content):
    (cached / library.MANIFEST).write_bytes(content)
    assert "its manifest is" in why_not()


def test_a_manifest_of_an_older_version(cached):
    values = json.loads((cached / library.MANIFEST).read_text())
    del values["size"], values["sha256"]
    (cached / library.MANIFEST).write_text(json.dumps(values))
    assert "not one of this version" in why_not()


@pytest.mark.parametrize(
    "when", ["check_trust", "Manifest.read", "Manifest.of"]
)
def test_a_library_that_vanishes_meanwhile(cached, loaded, monkeypatch, when):
    name, _, method = when.partition(".")
    owner = getattr(library, name) if method else library
    original = getattr(owner, method or name)

    def vanish(*args):
        shutil.rmtree(cached)
        return original(*args)

    monkeypatch.setattr(owner, method or name, vanish)
    assert cached.name in why_not()


def test_a_manifest_that_vanishes_while_they_are_sorted(
    cached, loaded, monkeypatch
):
    listed = pathlib.Path.iterdir

    def vanish(folder):
        for path in list(listed(folder)):
            (path / library.MANIFEST).unlink()
            yield path

    monkeypatch.setattr(pathlib.Path, "iterdir", vanish)
    assert why_not()


def test_a_pipe_is_not_waited_for(cached):
    for name in (library.LIBRARY, library.MANIFEST):
        (cached / name).unlink()
        os.mkfifo(cached / name)
        assert "is no file" in why_not()


def damage(cached, how):
    path = cached / library.LIBRARY
    content = path.read_bytes()
    if how == "missing":
        path.unlink()
    elif how == "a folder":
        path.unlink()
        path.mkdir()
    elif how == "changed":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(content[: {"truncated": -4096, "empty": 0}[how]])


@pytest.mark.parametrize(
    "how", ["missing", "a folder", "changed", "truncated", "empty"]
)
def test_a_damaged_library_is_not_opened(cached, loaded, how):
    damage(cached, how)
    assert library.LIBRARY in why_not()
    assert not loaded


def test_names_do_not_reach_the_terminal_as_commands(cached, capsys):
    evil = cached.with_name("tf\x1b[31m\n\udc80")
    cached.rename(evil)
    evil.chmod(0o777)
    assert "\\x1b[31m\\n\\udc80" in why_not()


def test_without_a_library(tmp_path, monkeypatch, caplog, steps_from_the_start):
    assert steps_from_the_start() is None
    monkeypatch.setattr(library, "PACKAGED", tmp_path)
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(tmp_path))
    assert "keras_legacy_opt build" in steps_from_the_start()
    assert not keras_legacy_opt.fused.is_available()
    assert caplog.text.count("TensorFlow's own ops") == 1


def test_switched_off(monkeypatch, caplog, steps_from_the_start):
    monkeypatch.setenv("KERAS_LEGACY_OPT_FUSED", "0")
    assert "KERAS_LEGACY_OPT_FUSED" in steps_from_the_start()
    assert not keras_legacy_opt.fused.is_available()
    assert not caplog.text


def test_misfits_are_explained():
    fitting = library.Build(
        tensorflow=tf.__version__,
        cxx11_abi=loader.cxx11_abi(),
        machine=os.uname().machine,
        compiler="g++ 12",
        sources=library.source_hash(),
        sanitized=library._process_is_sanitized(),
        gpu=True,
    )

    def misfit(**changes):
        values = {**fitting.__dict__, **changes}
        with pytest.raises(library.Unusable) as why:
            library.Build(**values).check_fits(
                tf.__version__, loader.cxx11_abi()
            )
        return str(why.value)

    for each in fitting, dataclasses.replace(fitting, gpu=False):
        each.check_fits(tf.__version__, loader.cxx11_abi())
    assert "TensorFlow 2.4.1" in misfit(tensorflow="2.4.1")
    assert "CXX11_ABI=7" in misfit(cxx11_abi=7)
    assert "vax" in misfit(machine="vax")
    assert "sources" in misfit(sources="other")
    assert "AddressSanitizer" in misfit(sanitized=not fitting.sanitized)


@pytest.mark.parametrize(
    ("built_for", "here", "fits"),
    [
        ("2.21.0", "2.21.1", True),
        ("2.21.0", "2.22.0", False),
        ("2.22.0-dev20260101", "2.22.0-dev20260101", True),
        ("2.22.0-dev20260101", "2.22.0-dev20260102", False),
        ("2.22.0-rc0", "2.22.0", False),
    ],
)
def test_releases_of_a_minor_share_libraries(
    cached, monkeypatch, built_for, here, fits
):
    change_manifest(cached, tensorflow=built_for)
    monkeypatch.setattr(tf, "__version__", here)
    assert (why_not() is None) == fits


def test_libraries_for_others_are_told_of_in_one_sentence(cached, monkeypatch):
    """As in a wheel, which has one for every TensorFlow that was known."""
    another = cached.with_name("another")
    shutil.copytree(cached, another)
    change_manifest(cached, tensorflow="2.16.2")
    change_manifest(another, tensorflow="2.9.1")
    monkeypatch.setattr(tf, "__version__", "2.99.0")
    assert why_not() == (
        "no native library was built for TensorFlow 2.99.0, but for 2.9.1,"
        " 2.16.2; `python -m keras_legacy_opt build` builds one"
    )
    monkeypatch.setattr(tf, "__version__", "2.16.1")
    damage(cached, "changed")
    assert "SHA-256" in why_not()
    assert "2.9.1" not in why_not()


def test_a_broken_library_is_no_error(cached, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(library, "PACKAGED", cached / "none")
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(cached.parent))
    (cached / library.LIBRARY).write_bytes(b"not a library")
    manifest = library.Manifest.read(cached)
    library.Manifest.of(manifest, cached).write(cached)
    reason = why_not()
    assert "does not load" in reason
    assert "build --force" in reason


def test_doctor(capsys):
    assert command_line.main(["doctor"]) == 0
    out = capsys.readouterr().out
    assert tf.__version__ in out
    assert library.LIBRARY in out
    assert "instruction set" in out


def test_doctor_without_a_library(capsys, monkeypatch):
    monkeypatch.setattr(loader, "_load_once", lambda: (None, "of the test"))
    assert command_line.main(["doctor"]) == 1
    assert "of the test" in capsys.readouterr().out
