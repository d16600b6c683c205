"""Asks a library for kernels, without TensorFlow; the tests start it.

python gpu_process.py LIBRARY NVRTC SCENARIO [SYMBOLS]
"""

import atexit
import ctypes
import importlib
import os
import pathlib
import sys
import threading
import types

PACKAGE = pathlib.Path(__file__).parents[2] / "keras_legacy_opt"


def package_without_tensorflow():
    for name in ("keras_legacy_opt", "keras_legacy_opt.fused"):
        package = types.ModuleType(name)
        package.__path__ = [str(PACKAGE.parent / name.replace(".", "/"))]
        sys.modules[name] = package
    gpu = "keras_legacy_opt.fused.gpu"
    return [importlib.import_module(f"{gpu}.{n}") for n in ("nvrtc", "runtime")]


def find(loaded, symbols):
    for symbol in symbols:
        why_not = loaded.why_not(0, symbol)
        sys.stdout.write(f"{symbol}: {why_not or 'found'}\n")  # at once


def in_threads(loaded, symbols):
    """Each of them in four threads; first of all, nothing is loaded."""
    print(f"device: {loaded.why_not(0) or 'found'}")
    threads = [
        threading.Thread(target=find, args=(loaded, [symbol]))
        for symbol in symbols * 4
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def interrupted(loaded, symbols):
    def interrupt(*_):
        raise KeyboardInterrupt

    code, loaded._compiler.code = loaded._compiler.code, interrupt
    try:
        find(loaded, symbols)
    except KeyboardInterrupt:
        print("interrupted")
    loaded._compiler.code = code
    find(loaded, symbols)


def forked(loaded, symbols):
    """While another thread compiles, and before anything was asked."""
    in_child(lambda: find(loaded, symbols))
    compiles, may_end = threading.Event(), threading.Event()
    compile_ = loaded._compiler._code

    def slowly(*arguments):
        compiles.set()
        may_end.wait()
        return compile_(*arguments)

    loaded._compiler._code = slowly
    thread = threading.Thread(target=find, args=(loaded, symbols))
    thread.start()
    compiles.wait()
    in_child(lambda: print(loaded.lacks(0, symbols[0])))
    may_end.set()
    thread.join()


def in_child(function):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        function()
        sys.exit()  # as programs end
    assert os.waitpid(child, 0)[1] == 0


def at_the_end(loaded, symbols):
    """When the interpreter has ended, but for its last words."""
    handle = ctypes.CDLL(sys.argv[1])
    why_not = ctypes.create_string_buffer(1000)
    handle.keras_legacy_opt_gpu_find(0, symbols[0].encode(), why_not, 1000)
    print(why_not.value.decode())
    sys.stdout.flush()


SCENARIOS = {
    each.__name__: each for each in (find, in_threads, interrupted, forked)
}


def main():
    path, compiler, scenario, *symbols = sys.argv[1:]
    nvrtc, runtime = package_without_tensorflow()
    nvrtc._paths = lambda: [compiler]
    if scenario == "at_the_end":  # What is registered first, is called last.
        atexit.register(at_the_end, None, symbols)
    loaded = runtime.of(ctypes.CDLL(path, mode=os.RTLD_NOW))
    if loaded is None:
        print("without GPU")
    elif scenario in SCENARIOS:
        SCENARIOS[scenario](loaded, symbols)


if __name__ == "__main__":
    main()
