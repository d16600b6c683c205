"""One process of `test_processes.py`: writes files, or reads and goes on.

    python write_and_continue.py LIBRARY ACTION FOLDER

LIBRARY is "keras" or "tf_keras", with our optimizers, or "legacy", which is
tf_keras with its own, where this package is never imported.  ACTION "write"
trains two steps, saves in each format, and goes on for two; "read" loads each
file and goes on for two.  Both leave the results in FOLDER.
"""

import os
import pathlib
import sys

import numpy as np
import tensorflow as tf

LIBRARY, ACTION, FOLDER = sys.argv[1:]
FOLDER = pathlib.Path(FOLDER)

if LIBRARY == "keras":
    import keras

    import keras_legacy_opt as optimizers
elif LIBRARY == "tf_keras":
    import tf_keras as keras

    import keras_legacy_opt as optimizers
else:
    import tf_keras as keras

    optimizers = keras.optimizers.legacy

MAKERS = {
    "amsgrad": lambda: optimizers.Adam(0.05, amsgrad=True),
    "nadam": lambda: optimizers.Nadam(0.05),
    "momentum": lambda: optimizers.SGD(
        keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5),
        momentum=0.9,
        clipnorm=1.0,
    ),
}
FORMATS = {
    "keras": ("keras", "weights.h5", "checkpoint", "unfrozen"),
    "tf_keras": ("keras", "h5", "tf", "checkpoint"),
    "legacy": ("h5", "tf", "checkpoint"),
}[LIBRARY]


def make_model():
    keras.utils.set_random_seed(3)
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(3, activation="tanh", name="one"),
            keras.layers.Dense(3, activation="tanh", name="two"),
            keras.layers.Dense(3, activation="tanh", name="three"),
        ],
        name="model",
    )
    return model


def compiled(name):
    model = make_model()
    model.compile(MAKERS[name](), "mse", jit_compile=False)
    return model


def train(model, seeds):
    for seed in seeds:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(8, 4)).astype(np.float32)
        model.train_on_batch(x, rng.normal(size=(8, 3)).astype(np.float32))


def path_of(name, kind):
    folder = FOLDER / f"{name}-{kind}"
    folder.mkdir(parents=True, exist_ok=True)
    suffix = {"tf": "", "checkpoint": "", "unfrozen": ".keras"}
    return str(folder / "m") + suffix.get(kind, f".{kind}")


def write(name, kind):
    model = compiled(name)
    if kind == "unfrozen":  # Slots of the second layer come first.
        model.layers[0].trainable = False
        model.compile(MAKERS[name](), "mse", jit_compile=False)
        train(model, [7])
        optimizer = model.optimizer
        model.layers[0].trainable = True
        model.compile(optimizer, "mse", jit_compile=False)
    train(model, range(2))
    path = path_of(name, kind)
    if kind == "checkpoint":
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).write(path)
    elif kind in ("weights.h5", "tf"):
        model.save_weights(path)
    else:
        model.save(path)
    return model


def read(name, kind):
    path = path_of(name, kind)
    if kind in ("keras", "h5", "unfrozen"):
        ours = {
            f"keras_legacy_opt>{cls}": getattr(optimizers, cls)
            for cls in ("Adam", "Nadam", "SGD")
        }
        return keras.models.load_model(path, custom_objects=ours)
    model = compiled(name)
    if kind == "checkpoint":
        tf.train.Checkpoint(model=model, optimizer=model.optimizer).read(path)
    elif kind == "weights.h5":  # `load_weights` leaves the optimizer alone.
        optimizers.checkpoints.restore(path, model)
    else:
        model.load_weights(path)
    return model


results = {}
for name in MAKERS:
    for kind in FORMATS:
        if ACTION == "read" and not os.path.exists(FOLDER / f"{name}-{kind}"):
            continue
        model = write(name, kind) if ACTION == "write" else read(name, kind)
        train(model, range(2, 4))
        results[f"{name}-{kind}"] = np.concatenate(
            [w.ravel() for w in model.get_weights()]
        )
        results[f"{name}-{kind}-iterations"] = (
            model.optimizer.iterations.numpy()
        )
if LIBRARY == "legacy":
    assert "keras_legacy_opt" not in sys.modules
np.savez(FOLDER / f"{LIBRARY}-{ACTION}.npz", **results)
