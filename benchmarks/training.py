"""Measures whole training steps of Keras 3 models, ours against Keras 3's Adam.

    python benchmarks/training.py --json benchmarks/results/mine.json

Each contestant has a model of its own with the same layers, and they take turns
in `fit` on the same data. Printed are medians in milliseconds per step, the
quartiles, and how many times the time of ours each of the others takes.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
from optimizers import interleaved, report, save, versions

import keras_legacy_opt
from keras_legacy_opt import fused

LAYERS = keras.layers
OURS = "ours"


def digits():
    """The model and the batches of examples/digits_classifier.py."""
    model = keras.Sequential(
        [
            LAYERS.Input((8, 8, 1)),
            LAYERS.Conv2D(32, 3, activation="relu"),
            LAYERS.MaxPooling2D(2),
            LAYERS.Flatten(),
            LAYERS.Dense(10),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    return (
        model,
        loss,
        32,
        lambda rng, n: (
            rng.random((n, 8, 8, 1), np.float32),
            rng.integers(0, 10, n),
        ),
    )


def embeddings(words=5000, candidates=6, size=64):
    """The tables and the batches of examples/docstring_embeddings.py."""
    word = LAYERS.Input((), dtype="int32")
    others = LAYERS.Input((candidates,), dtype="int32")
    vectors = LAYERS.Embedding(words, size)(word)
    scores = LAYERS.Dot(axes=(2, 1))(
        [LAYERS.Embedding(words, size)(others), vectors]
    )
    model = keras.Model([word, others], scores)
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    return (
        model,
        loss,
        1024,
        lambda rng, n: (
            [
                rng.integers(0, words, n, np.int32),
                rng.integers(0, words, (n, candidates), np.int32),
            ],
            np.eye(1, candidates, dtype=np.float32).repeat(n, 0),
        ),
    )


def narrow_mlp(layers=50, width=32):
    model = keras.Sequential([LAYERS.Input((width,))])
    for _ in range(layers):
        model.add(LAYERS.Dense(width, activation="relu"))
    model.add(LAYERS.Dense(1))
    return (
        model,
        keras.losses.MeanSquaredError(),
        32,
        lambda rng, n: (
            rng.random((n, width), np.float32),
            rng.random((n, 1), np.float32),
        ),
    )


MODELS = {
    "digits": digits,
    "embeddings": embeddings,
    "MLP of 50 layers": narrow_mlp,
}


def contestants(make, steps):
    """{name: a `fit` of so many steps}."""
    result = {}
    for name, optimizer, jit_compile in (
        (OURS, keras_legacy_opt.Adam, False),
        ("ours XLA", keras_legacy_opt.Adam, True),
        ("Keras 3", keras.optimizers.Adam, False),
        ("Keras 3 XLA", keras.optimizers.Adam, True),
    ):
        model, loss, batch, data = make()
        model.compile(optimizer(), loss, jit_compile=jit_compile)
        x, y = data(np.random.default_rng(0), batch * steps)

        def fit(model=model, x=x, y=y, batch=batch):
            model.fit(x, y, batch_size=batch, shuffle=False, verbose=0)

        result[name] = fit
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=200, help="per repetition")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", help="where to save the seconds")
    arguments = parser.parse_args()
    if not fused.is_available():
        parser.exit(1, f"No native library: {fused.why_not()}\n")
    saved = {**versions(), "seconds_per_step": {}}
    for model, make in MODELS.items():
        steps = arguments.steps
        times = interleaved(contestants(make, steps), arguments.repeats)
        report(model, times, steps)
        save(arguments.json, saved, model, times, steps)


if __name__ == "__main__":
    main()
