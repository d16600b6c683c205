"""Models and data for training in Keras 3 and in tf_keras, side by side."""

import keras
import numpy as np
import pytest
import tf_keras

KERASES = {"keras3": keras, "tf_keras": tf_keras}


@pytest.fixture(params=KERASES)
def host(request):
    """A Keras: every test runs in both."""
    return KERASES[request.param]


@pytest.fixture(scope="session")
def data():
    """Features of shape (48, 4), tokens of shape (48, 3), and labels."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(48, 4)).astype("float32")
    tokens = rng.integers(0, 10, (48, 3)).astype("int32")
    y = (x.sum(axis=1) > 0).astype("float32")[:, np.newaxis]
    return x, tokens, y


def dense_model(host, **options):
    """Two dense layers with the same initial weights in each Keras."""
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(6, "relu", **options),
            layers.Dense(1),
        ]
    )
    return with_known_weights(model)


def embedding_model(host, **options):
    """An embedding, whose gradient is sparse, and a dense layer."""
    layers = host.layers
    model = host.Sequential(
        [
            layers.Input((3,), dtype="int32"),
            layers.Embedding(10, 2, **options),
            layers.Flatten(),
            layers.Dense(1),
        ]
    )
    return with_known_weights(model)


def with_known_weights(model):
    rng = np.random.default_rng(1)
    model.set_weights(
        [rng.uniform(-0.5, 0.5, w.shape) for w in model.get_weights()]
    )
    return model


def fit(model, optimizer, x, y, epochs=2, compile_options=None, **options):
    """Trains for `epochs` epochs of three batches in fixed order."""
    model.compile(optimizer, "mse", **(compile_options or {}))
    return model.fit(
        x,
        y,
        batch_size=16,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        **options,
    )
