"""Damages files and reads them; dies where a reader does.

Arguments: a folder, the first seed, the number of seeds, and (optional) a word
of the formats to damage.  Prints each case before it is tried, then what was
wrong with it, and at the end how often each reader worked and refused.
"""

import contextlib
import io
import os
import pathlib
import random
import shutil
import signal
import sys
import traceback
import warnings

import damage
import good_files
import numpy as np

from keras_legacy_opt import __main__ as command_line
from keras_legacy_opt import checkpoints

# After so many seconds of one case, the process ends: something waits.
PATIENCE = 60


def main(folder, first, count, word=""):
    """Damages and reads."""
    folder = pathlib.Path(folder)
    (folder / "good").mkdir()
    good = good_files.write(folder / "good")
    formats = [name for name in good if word in name]
    model = good_files.make_model()
    start = good_files.state(model)
    outcomes = {}
    for seed in range(int(first), int(first) + int(count)):
        for name in formats:
            print(f"case: {name}, seed {seed}", flush=True)
            signal.alarm(PATIENCE)
            work = folder / "work"
            shutil.rmtree(work, ignore_errors=True)
            shutil.copytree(folder / "good", work)
            path, file = (
                work / p.relative_to(folder / "good") for p in good[name]
            )
            rng = random.Random(f"{name} {seed}")
            damage.damage(file, rng)
            for how, read in readers(path, file, model, rng).items():
                outcome = tried(read, model, start)
                key = f"{name}: {how} {outcome.partition(':')[0]}"
                outcomes[key] = outcomes.get(key, 0) + 1
                if outcome not in ("works", "refused"):
                    print(f"wrong: {name}, seed {seed}: {how}: {outcome}")
    signal.alarm(0)
    for key in sorted(outcomes):
        print(f"{outcomes[key]:6d} {key}")
    print("done", flush=True)


def readers(path, file, model, rng):
    """{what it is called: function that reads a file}."""
    out = path.parent / rng.choice(("out", "out.h5"))
    convert = ["convert", path, out, "--optimizer", "Nadam"]
    if path.name == "m.weights.h5" == file.name:
        convert += ["--model", path.with_name("m.json")]
    if file.suffix == ".json":
        return {"convert": lambda: command([*convert, "--model", file])}
    strict = rng.random() < 0.5
    result = {
        "restore": lambda: checkpoints.restore(path, model, strict=strict),
        "inspect": lambda: command(["inspect", path]),
        "convert": lambda: command(convert),
    }
    if file.suffix in (".h5", ".keras"):
        result["optimizer_of"] = lambda: checkpoints.optimizer_of(path)
    return result


class Wrong(Exception):
    """The command line did what it should not."""


def command(arguments):
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = command_line.main([str(a) for a in arguments])
    text = err.getvalue()
    is_note = text.startswith("Not in the source")
    if (code, text.count("\n")) not in ((0, is_note), (1, 1)):
        raise Wrong(f"exit code {code}, and {text[:2000]!r}")
    if code:
        raise checkpoints.CheckpointError(text)


def tried(read, model, start):
    try:
        read()
    except checkpoints.CheckpointError:
        now = good_files.state(model)
        same = len(now) == len(start) and all(map(equal, now, start))
        return "refused" if same else "changed: the model or its optimizer"
    except Exception:
        return f"raised: {traceback.format_exc()}"
    finally:
        reset(model, start)
    return "works"


def equal(a, b):
    return np.array_equal(a, b, equal_nan=True)


def reset(model, start):
    count = len(model.weights)
    model.set_weights(start[:count])
    model.optimizer.set_weights(start[count:])


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.simplefilter("ignore")
    main(*sys.argv[1:])
