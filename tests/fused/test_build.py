"""Builds put a whole library in place, repair it, and fail in one line."""

import dataclasses
import errno
import os
import sys

import pytest

from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import supported
from keras_legacy_opt.fused import build, library

TENSORFLOW = build.TensorFlow("2.21.0", "/include", "/lib", 1, ())


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """What is compiled, which is none; builds go to an empty cache."""
    done = []

    def compile_(command, tensorflow, scratch, report, jobs):
        done.append(command)
        (scratch / library.LIBRARY).write_bytes(b"library" * 1000)

    monkeypatch.setattr(build, "_compile", compile_)
    monkeypatch.setattr(build, "find_tensorflow", lambda: TENSORFLOW)
    monkeypatch.setattr(build, "find_compiler", lambda: "g++")
    monkeypatch.setattr(build, "compiler_version", lambda name: "g++ 12")
    cache = tmp_path / "some" / "cache"
    monkeypatch.setenv("KERAS_LEGACY_OPT_CACHE", str(cache))
    return done


def intact(folder):
    manifest = library.Manifest.read(folder)
    return manifest == library.Manifest.of(manifest, folder)


def test_an_older_tensorflow_is_refused(compiled, capsys, monkeypatch):
    major, minor = supported.TENSORFLOW.oldest
    for version, code in (f"{major}.{minor - 1}.9", 1), (f"{major}.{minor}", 0):
        tensorflow = dataclasses.replace(TENSORFLOW, version=version)
        monkeypatch.setattr(build, "find_tensorflow", lambda tf=tensorflow: tf)
        assert command_line.main(["build"]) == code
        assert ("too old" in capsys.readouterr().err) == bool(code)
    assert len(compiled) == 1


def test_what_is_there_stays_unless_forced(compiled, capsys):
    for arguments, count in ([], 1), ([], 1), (["--force"], 2):
        assert command_line.main(["build", *arguments]) == 0
        assert len(compiled) == count
    assert "is there already" in capsys.readouterr().out


def test_without_what_runs_on_gpus(compiled, monkeypatch):
    paths = []
    for value, flags in ("1", build.GPU), ("0", ()):
        monkeypatch.setenv("KERAS_LEGACY_OPT_GPU", value)
        paths.append(build.build())
        assert {*build.GPU} & {*compiled[-1]} == {*flags}
    with_gpu, without = (library.Manifest.read(path.parent) for path in paths)
    assert (with_gpu.gpu, without.gpu) == (True, False)
    assert with_gpu.folder + "-without_gpu" == without.folder
    assert len(compiled) == 2


DAMAGES = {
    "missing": lambda folder: (folder / library.LIBRARY).unlink(),
    "no manifest": lambda folder: (folder / library.MANIFEST).unlink(),
    "empty": lambda folder: (folder / library.LIBRARY).write_bytes(b""),
    "truncated": lambda folder: os.truncate(folder / library.LIBRARY, 4096),
    "old": lambda folder: (folder / library.MANIFEST).write_text("{}"),
    "writable": lambda folder: folder.chmod(0o777),
    "writable file": lambda folder: (folder / library.LIBRARY).chmod(0o777),
    "a file": lambda folder: (
        folder.rename(folder.with_name("x")),
        folder.touch(),
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_library_is_repaired(compiled, damage):
    folder = build.build().parent
    DAMAGES[damage](folder)
    assert build.build().parent == folder
    assert len(compiled) == 2
    assert intact(folder)
    library.check_trust(folder)


def test_others_never_write_what_is_built(compiled):
    before = os.umask(0)
    try:
        folder = build.build().parent
    finally:
        os.umask(before)
    library.check_trust(folder)


def test_files_are_on_the_disk_before_they_are_in_place(compiled, monkeypatch):
    events = []
    fsync, rename = os.fsync, os.rename

    def spy_fsync(descriptor):
        events.append(os.path.basename(os.readlink(f"/dev/fd/{descriptor}")))
        fsync(descriptor)

    def spy_rename(old, new):
        rename(old, new)
        events.append(f"at {os.path.basename(new)}")

    monkeypatch.setattr(os, "fsync", spy_fsync)
    monkeypatch.setattr(os, "rename", spy_rename)
    name = build.build().parent.name
    placed = events.index(f"at {name}")
    assert {library.LIBRARY, library.MANIFEST, "new"} <= set(events[:placed])
    assert events[placed + 1] == "cache"


def test_a_build_that_fails_leaves_what_was_there(
    compiled, capsys, monkeypatch
):
    folder = build.build().parent

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(build, "_compile", fail)
    assert command_line.main(["build", "--force"]) == 1
    assert "No space left" in capsys.readouterr().err
    assert intact(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_two_builds_at_once(compiled, monkeypatch):
    compile_ = build._compile

    def meanwhile(*args):
        monkeypatch.setattr(build, "_compile", compile_)
        build.build(force=True)
        compile_(*args)

    for _ in range(2):  # into an empty cache, and over a library
        monkeypatch.setattr(build, "_compile", meanwhile)
        assert intact(build.build(force=True).parent)


def test_errors_are_one_line(compiled, capsys, tmp_path, monkeypatch):
    def error(*arguments):
        assert command_line.main(["build", *arguments]) == 1
        first, second = capsys.readouterr().err.splitlines()
        assert "without it" in second
        return first

    (tmp_path / "file").touch()
    assert "File exists" in error("--folder", str(tmp_path / "file" / "x"))
    assert "too long" in error("--folder", str(tmp_path / ("x" * 300)))
    tmp_path.chmod(0o777)
    assert "chmod go-w" in error()
    tmp_path.chmod(0o700)

    def no_sources():
        raise FileNotFoundError("the C++ sources are nowhere")

    monkeypatch.setattr(library, "source_hash", no_sources)
    assert "sources are nowhere" in error()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo 'a.h:1: error: first' >&2; echo more >&2; exit 1", "first"),
        ("echo 'ImportError: of the test' >&2; exit 1", "of the test"),
        ("kill -9 $$", "signal 9"),
        ("exit 3", "exit code 3"),
        ("echo no JSON", "TensorFlow cannot be imported"),
    ],
)
def test_a_program_that_fails(tmp_path, monkeypatch, script, said):
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(program))
    with pytest.raises(build.BuildError, match=said) as caught:
        build.find_tensorflow()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("jobs", ["0", "-1", "x"])
def test_jobs_are_a_positive_number(jobs):
    with pytest.raises(SystemExit):
        command_line.main(["build", "--jobs", jobs])


@pytest.mark.parametrize(
    ("name", "flag"),
    [("g++", "-dumpfullversion"), ("clang++-14", "-dumpversion")],
)
def test_compiler_version(tmp_path, name, flag):
    compiler = tmp_path / name
    compiler.write_text(f"#!/bin/sh\ntest $1 = {flag} && echo 1.2.3")
    compiler.chmod(0o755)
    assert build.compiler_version(str(compiler)) == f"{name} 1.2.3"


@pytest.mark.processes
def test_build_without_a_compiler(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert command_line.main(["build", "--folder", str(tmp_path)]) == 1
    assert "g++ or clang" in capsys.readouterr().err
