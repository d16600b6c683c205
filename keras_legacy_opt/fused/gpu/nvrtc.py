"""NVRTC, the compiler of kernels: where it is, and what it makes of a text.

This module needs nothing of the package: programs that do without TensorFlow
read it, too.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import pathlib
from collections.abc import Iterator, Sequence

# No contraction to fused multiply-adds: the bits are those of the CPU's ops.
OPTIONS = ("--std=c++17", "--fmad=false", "-default-device")

# The names that are asked for, whatever the newest one of the packages is.
_SONAMES = ("libnvrtc.so.13", "libnvrtc.so.12")
_LONGEST_LOG = 4000
_OUT_OF_MEMORY = 1  # NVRTC_ERROR_OUT_OF_MEMORY
_REMEDY = "`pip install nvidia-cuda-nvrtc-cu12` installs one"


class Failure(Exception):
    """What is wrong, in words; it will be so again."""


class Compiler:
    """One NVRTC.

    Attributes:
      path: of the library.
      version: such as (12, 9).
      known: the compute capabilities that it has code for, such as 90.
    """

    def __init__(self, path: str):
        self.path = path
        self._library = ctypes.CDLL(path)
        major, minor, count = (ctypes.c_int() for _ in range(3))
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = major.value, minor.value
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        known = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", known)
        self.known = tuple(sorted(known))

    def __str__(self) -> str:
        return "NVRTC {}.{}".format(*self.version)

    def target(self, capability: int, driver: int) -> str | None:
        """What to compile for a device.

        Args:
          capability: its compute capability, such as 90.
          driver: the CUDA of its driver, such as 12040 for 12.4.

        Returns:
          "sm_90", the very device; "compute_80", an older one, for which it
          makes PTX that the driver translates; None if there is neither.
        """
        major, minor = self.version
        if major > driver // 1000:
            return None  # Only drivers of its CUDA load what it makes.
        if capability in self.known:
            return f"sm_{capability}"
        older = [each for each in self.known if each < capability]
        # PTX is read by drivers that are as new as the compiler.
        if not older or major * 1000 + minor * 10 > driver:
            return None
        return f"compute_{older[-1]}"

    def compile(
        self, source: str, target: str, options: Sequence[str] = OPTIONS
    ) -> tuple[str, bytes]:
        """Compiles a text; returns what is reported of it, and the code.

        Raises:
          Failure: if it does not compile; with the errors.
          MemoryError: if there is not enough just now.
        """
        options = [*options, f"--gpu-architecture={target}"]
        texts = (ctypes.c_char_p * len(options))(*map(str.encode, options))
        program = ctypes.c_void_p()
        handle = ctypes.byref(program)
        self._call(
            "nvrtcCreateProgram", handle, source.encode(), None, 0, None, None
        )
        try:
            failed = self._library.nvrtcCompileProgram(
                program, len(options), texts
            )
            report = self._output("ProgramLog", program)
            report = report.rstrip(b"\0").decode(errors="replace")
            if failed:
                said = report[:_LONGEST_LOG] or self._describe(failed)
                raise self._error(failed, f"{self}, {target}: {said}")
            kind = "PTX" if target.startswith("compute") else "CUBIN"
            return report, self._output(kind, program)
        finally:
            self._call("nvrtcDestroyProgram", handle)

    def _output(self, what: str, program: ctypes.c_void_p) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{what}Size", program, ctypes.byref(size))
        output = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{what}", program, output)
        return output.raw

    def _call(self, function: str, *arguments: object) -> None:
        error = getattr(self._library, function)(*arguments)
        if error:
            said = f"{function} fails: {self._describe(error)}"
            raise self._error(error, said)

    def _error(self, error: int, said: str) -> Exception:
        return (MemoryError if error == _OUT_OF_MEMORY else Failure)(said)

    def _describe(self, error: int) -> str:
        describe = self._library.nvrtcGetErrorString
        describe.restype = ctypes.c_char_p
        return (describe(error) or b"no reason is told").decode()


def find() -> Iterator[Compiler]:
    """The compilers of the system and of this Python's packages.

    Raises:
      Failure: if there are none.
    """
    found = set()
    reasons = []
    for path in _paths():
        try:
            compiler = load(path)
        except (OSError, AttributeError, Failure) as error:
            reasons.append(str(error))
            continue
        if compiler.version not in found:
            found.add(compiler.version)
            yield compiler
    if not found:
        raise Failure(f"there is no NVRTC ({'; '.join(reasons)}); {_REMEDY}")


@functools.cache
def load(path: str) -> Compiler:
    """The compiler of a library; it is loaded once."""
    return Compiler(path)


def choose(capability: int, driver: int) -> tuple[Compiler, str]:
    """The compiler for a device, and what it shall compile for.

    The first that knows the very device is as good as a newer one, and spares
    the loading of others.

    Args:
      capability: its compute capability, such as 90.
      driver: the CUDA of its driver, such as 12040 for 12.4.

    Raises:
      Failure: if none will do.
    """
    seen, older = [], None
    for compiler in find():
        target = compiler.target(capability, driver)
        if target and target.startswith("sm_"):
            return compiler, target
        older = older or (target and (compiler, target))
        seen.append(
            f"{compiler} (compute capabilities {in_words(compiler.known[0])} to"
            f" {in_words(compiler.known[-1])})"
        )
    if older:
        return older
    raise Failure(
        f"no NVRTC here compiles for compute capability {in_words(capability)}"
        f" and a driver of CUDA {driver // 1000}.{driver % 1000 // 10}, not"
        f" {', '.join(seen)}"
    )


def in_words(capability: int) -> str:
    """`9.0` of 90."""
    return f"{capability // 10}.{capability % 10}"


def _paths() -> Iterator[str]:
    """Where an NVRTC may be: as dlopen finds it, then in pip's packages."""
    yield from _SONAMES
    spec = importlib.util.find_spec("nvidia")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or ():
        yield from map(
            str, sorted(pathlib.Path(folder).glob("*/lib/libnvrtc.so.*"))
        )
