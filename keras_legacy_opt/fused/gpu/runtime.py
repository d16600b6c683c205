"""The GPU's part of a loaded library, which compiles kernels by asking Python.

The library finds devices and runs kernels, see `tf_custom_ops/gpu/driver.h`.
Whom to trust with files, and how to replace them, is written in Python already:
so it asks, from whichever thread runs an op, and gets the code, or the reason
why there is none.
"""

from __future__ import annotations

import atexit
import ctypes
import threading
from typing import Any

from keras_legacy_opt.fused.gpu import nvrtc
from keras_legacy_opt.fused.gpu.compiler import Compiler

_ASKED = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p
)
_ROOM = 4096  # for a reason


class Runtime:
    """What a library does on GPUs."""

    def __init__(self, handle: ctypes.CDLL):
        def function(name: str, result: Any, *arguments: Any) -> Any:
            found = getattr(handle, f"keras_legacy_opt_gpu_{name}")
            found.restype, found.argtypes = result, arguments
            return found

        pointer, text, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
        self._find = function(
            "find", ctypes.c_int, ctypes.c_int, text, text, size
        )
        self._give = function("give", None, pointer, text, text, size)
        self._refuse = function("refuse", None, pointer, text)
        self._compiler = Compiler(function("sources", text))
        self._thread = threading.local()
        # An object of ctypes, which the library must not survive.
        self._asked = _ASKED(self._answer)
        self._set_compiler = function("set_compiler", None, _ASKED)
        self._set_compiler(self._asked)
        atexit.register(self._stop)

    def why_not(self, ordinal: int, symbol: str | None = None) -> str | None:
        """Why a kernel cannot run, in words; None if it can.

        It is compiled and loaded, so that no step has to wait for that.

        Args:
          ordinal: of the GPU, among those that this process sees.
          symbol: of the kernel; None asks for the GPU only.

        Raises:
          KeyboardInterrupt: if the user wants no answer.
        """
        self._thread.interruption = None
        why_not = ctypes.create_string_buffer(_ROOM)
        name = None if symbol is None else symbol.encode()
        if self._find(ordinal, name, why_not, _ROOM):
            return None
        # It was no reason against the kernel, and is not to be remembered.
        if self._thread.interruption is not None:
            raise self._thread.interruption
        return why_not.value.decode(errors="replace")

    def lacks(self, ordinal: int, unit: str) -> str | None:
        """Why a unit of kernels cannot run, in words; None if it can.

        Args:
          ordinal: as of `why_not`.
          unit: the name of those that are compiled and loaded together.
        """
        symbols = self._compiler.symbols(unit)
        reasons = (self.why_not(ordinal, symbol) for symbol in symbols)
        none = None if symbols else f"there are no kernels {unit}"
        return next(filter(None, reasons), none)

    def _answer(
        self, symbol: bytes, capability: int, driver: int, to: int
    ) -> None:
        try:
            unit, code = self._compiler.code(
                symbol.decode(), capability, driver
            )
        except nvrtc.Failure as failure:
            why_not = str(failure)
        except BaseException as error:  # No exception passes the library.
            if not isinstance(error, Exception):
                self._thread.interruption = error
            why_not = f"{symbol.decode()} was not compiled: {error!r}"
        else:
            self._give(to, unit.encode(), code, len(code))
            return
        self._refuse(to, why_not.replace("\0", " ").encode(errors="replace"))

    def _stop(self) -> None:
        """Lets nobody call Python, which is about to end."""
        self._set_compiler(_ASKED())


def of(handle: ctypes.CDLL) -> Runtime | None:
    """The runtime of a library; None if it was built without one."""
    if not hasattr(handle, "keras_legacy_opt_gpu_set_compiler"):
        return None
    return Runtime(handle)
