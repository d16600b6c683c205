"""Measures the memory that a dense step takes beyond variables and gradients.

    python benchmarks/peak_memory.py

Printed is the growth of the peak resident set during a step of 3 variables of
16.8M float32 parameters each, as a share of the parameters' bytes.
"""

import functools
import os
import pathlib
import re

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import contestants
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import fused

SHAPES = [(1 << 24,)] * 3
PARAMETER_BYTES = 3 * 4 * (1 << 24)


def status(field):
    text = pathlib.Path("/proc/self/status").read_text()
    return 1024 * int(re.search(rf"{field}:\s*(\d+) kB", text)[1])


def growth(step):
    """Bytes by which the peak exceeds the resident set before `step`."""
    step()
    step()
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    step()
    return max(status("VmHWM") - before, 0)


def main():
    if not fused.is_available():
        raise SystemExit(f"No native library: {fused.why_not()}")
    libraries = {
        contestants.OURS: keras_legacy_opt,
        contestants.LEGACY: tf_keras.optimizers.legacy,
    }
    for name in contestants.OPTIMIZERS:
        cls = contestants.class_name(name)
        arguments = contestants.OPTIMIZERS[name][1]
        shares = []
        for library, module in libraries.items():
            for mode in ("graph", "eager"):
                make = functools.partial(getattr(module, cls), **arguments)
                step = contestants.tensorflow_step(make, SHAPES, mode, 1)
                share = growth(step) / PARAMETER_BYTES
                shares.append(f"{library}, {mode} {share:.2%}")
                del step
        print(f"{name}: {'; '.join(shares)}", flush=True)


if __name__ == "__main__":
    main()
