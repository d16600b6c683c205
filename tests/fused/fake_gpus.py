"""Two GPUs that there are not, for TensorFlow and for the native library.

See `tf_custom_ops/tests/fake_device.cc` and `fake_driver.cc`.  TensorFlow keeps
them, so they are for a process of their own:

    python fake_gpus.py FOLDER RESULTS

runs the cases of `on_gpus.py` on what `compile_into` has made in a folder; what
failed comes into a file.
"""

from __future__ import annotations

import concurrent.futures
import ctypes
import importlib
import json
import os
import pathlib
import subprocess
import sys
import traceback

import tensorflow as tf

from keras_legacy_opt.fused import build, library, loader
from keras_legacy_opt.fused.gpu import units

DRIVER, DEVICE = "libcuda.so.1", "libfake_device.so"
_ASKED = ctypes.CFUNCTYPE(
    None, ctypes.c_char_p, ctypes.c_int, ctypes.c_int, ctypes.c_void_p
)


def compile_into(folder: pathlib.Path) -> None:
    """Compiles the driver, with every kernel, and the devices."""
    sources = library.sources()
    headers = units.headers(sources)
    unit = folder / "kernels.h"
    unit.write_text(units.text(headers, units.kernels(headers)))
    common = [build.find_compiler(), "-std=c++17", "-shared", "-fPIC", "-O0"]
    # TensorFlow has functions called as the driver's are.
    driver = ["-ffp-contract=off", f'-DKLO_UNIT="{unit}"', "-Wl,-Bsymbolic"]
    driver += [f"-Wl,-soname,{DRIVER}", "-ldl"]
    found = tf.sysconfig.get_lib()
    device = [*tf.sysconfig.get_compile_flags()[1:], "-L" + found]
    device += ["-isystem", tf.sysconfig.get_include()]
    device += ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        running = [
            pool.submit(
                subprocess.run,
                [*common, str(sources / "tests" / source), "-o", path, *flags],
                check=True,
            )
            for source, path, flags in (
                ("fake_driver.cc", folder / DRIVER, driver),
                ("fake_device.cc", folder / DEVICE, device),
            )
        ]
        for each in running:
            each.result()


class GPUs:
    """The two of them, in this process.

    Args:
      folder: what `compile_into` has made.
    """

    def __init__(self, folder: pathlib.Path):
        os.environ["FAKE_CUDA_DEVICES"] = "2"
        self._driver = ctypes.CDLL(str(folder / DRIVER))
        self._driver.fake_cuda_calls.restype = ctypes.c_char_p
        ctypes.CDLL(str(folder / DEVICE))
        self.refusal: str | None = None
        self.launched: set[str] = set()
        ops = loader.ops()
        handle = ctypes.CDLL(ops.path)
        give = handle.keras_legacy_opt_gpu_give
        text, pointer = ctypes.c_char_p, ctypes.c_void_p
        give.argtypes = [pointer, text, text, ctypes.c_size_t]
        refuse = handle.keras_legacy_opt_gpu_refuse
        refuse.argtypes = [pointer, text]

        def compiled(symbol: bytes, capability: int, version: int, to: int):
            del capability, version
            if self.refusal is not None:
                refuse(to, self.refusal.encode())
                return
            give(to, symbol, b"what the driver has", 20)

        self._compiled = _ASKED(compiled)
        handle.keras_legacy_opt_gpu_set_compiler(self._compiled)

    def calls(self) -> list[str]:
        """The calls of the driver since the last time, but for contexts."""
        calls = self._driver.fake_cuda_calls().decode().splitlines()
        for call in calls:
            function, *arguments = call.split()
            if function == "cuLaunchKernel":
                self.launched.add(arguments[0])
        return [call for call in calls if not call.startswith("cuCtxP")]

    def launches(self) -> list[str]:
        """The symbols of the kernels that were launched since the last time."""
        words = [call.split() for call in self.calls()]
        return [word[1] for word in words if word[0] == "cuLaunchKernel"]


def main(folder: str, results: str) -> None:
    """Runs the cases."""
    # Before anything asks TensorFlow for its devices.
    gpus = GPUs(pathlib.Path(folder))
    failed, on_gpus = {}, importlib.import_module("on_gpus")
    for name, case in on_gpus.CASES.items():
        try:
            case(gpus)
        except Exception:
            failed[name] = traceback.format_exc()
    pathlib.Path(results).write_text(json.dumps(failed))
    on_gpus.before_the_end()


if __name__ == "__main__":
    main(*sys.argv[1:])
