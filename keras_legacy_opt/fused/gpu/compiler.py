"""Code for kernels: out of the cache, or compiled; once, whoever asks."""

from __future__ import annotations

import collections
import functools
import json
import os
import pathlib
import threading
from collections.abc import Callable, Mapping, Sequence

from absl import logging

from keras_legacy_opt.fused import trust
from keras_legacy_opt.fused.gpu import cubins, nvrtc, units


class Compiler:
    """Code for the kernels of a library."""

    def __init__(self, sources: Callable[[], bytes]):
        """Args: sources: returns the headers, a JSON object by their paths."""
        self._sources = sources
        self._codes: dict[tuple[str, int, int], bytes] = {}
        self._refusals: dict[tuple[str, int, int], str] = {}
        self._said: set[str] = set()
        self._make_locks()
        # In a child, nobody releases what threads of the parent held.
        os.register_at_fork(after_in_child=self._make_locks)

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._locks = collections.defaultdict(threading.Lock)

    def code(
        self, symbol: str, capability: int, driver: int
    ) -> tuple[str, bytes]:
        """The name and the code of the unit that has a kernel.

        What a compiler refuses is not tried again; all else that fails is.

        Args:
          symbol: of the kernel.
          capability: of the device, such as 90.
          driver: the CUDA of its driver, such as 12040 for 12.4.

        Raises:
          nvrtc.Failure: if there is no such kernel, or no compiler for it.
        """
        with self._lock:  # It reads the headers, at first.
            unit = self._unit_of.get(symbol)
            key = str(unit), capability, driver
            lock = self._locks[key]
        if unit is None:
            raise nvrtc.Failure(f"there is no kernel {symbol}")
        with lock:  # Whoever comes second waits for the first.
            if key in self._refusals:
                raise nvrtc.Failure(self._refusals[key])
            try:
                if key not in self._codes:
                    self._codes[key] = self._code(*key)
            except nvrtc.Failure as failure:
                self._refusals[key] = str(failure)
                raise
        return unit, self._codes[key]

    def symbols(self, unit: str) -> Sequence[str]:
        """The kernels of a unit; none if there is no such unit."""
        with self._lock:
            kernels = self._kernels
        return [each.symbol for each in kernels if each.unit == unit]

    @functools.cached_property
    def _headers(self) -> Mapping[str, str]:
        return json.loads(self._sources())

    @functools.cached_property
    def _kernels(self) -> Sequence[units.Kernel]:
        return list(units.kernels(self._headers))

    @functools.cached_property
    def _unit_of(self) -> Mapping[str, str]:
        return {each.symbol: each.unit for each in self._kernels}

    def _code(self, unit: str, capability: int, driver: int) -> bytes:
        chosen = [each for each in self._kernels if each.unit == unit]
        source = units.text(self._headers, chosen)
        compiler, target = nvrtc.choose(capability, driver)
        by = " ".join((str(compiler), *nvrtc.OPTIONS))
        path, code = self._kept(unit, target, by, source)
        if code is not None:
            return code
        self._say_once(
            f"are compiled for compute capability {nvrtc.in_words(capability)}"
            f" by {compiler}, and kept",
            f"in {path.parent}" if path else "as long as the process lives",
        )
        _, code = compiler.compile(source, target)
        self._keep(path, code)
        return code

    def _kept(
        self, unit: str, target: str, compiler: str, source: str
    ) -> tuple[pathlib.Path | None, bytes | None]:
        """Where the code is kept, and the code, each if there is one."""
        path = None
        try:
            path = cubins.path_of(unit, target, compiler, source)
            return path, cubins.read(path)
        except (OSError, trust.Untrusted) as why:
            self._say_once("are compiled, because", why)
            return path, None

    def _keep(self, path: pathlib.Path | None, code: bytes) -> None:
        if path is None:
            return
        try:
            cubins.keep(path, code)
        except (OSError, trust.Untrusted) as why:
            self._say_once("are not kept, because", why)

    def _say_once(self, what: str, why: object) -> None:
        """Logs a sentence about the kernels, the first that says this.

        As a warning: absl shows nothing less, unless it is told to.
        """
        with self._lock:
            if what in self._said:
                return
            self._said.add(what)
        logging.warning("keras_legacy_opt's kernels of GPUs %s %s", what, why)
