"""deepxde: a differential equation, by the names of its optimizers."""

import os

os.environ["DDE_BACKEND"] = "tensorflow"

import deepxde
import numpy as np
import recording


def equation(x, y):
    return deepxde.grad.jacobian(y, x) - y


def train(optimizer, **options):
    deepxde.config.set_random_seed(1)
    domain = deepxde.geometry.TimeDomain(0, 1)
    start = deepxde.icbc.IC(domain, lambda x: np.ones_like(x), lambda _, on: on)
    data = deepxde.data.PDE(
        domain, equation, [start], num_domain=8, num_boundary=2
    )
    net = deepxde.nn.FNN([1, 4, 1], "tanh", "zeros")
    net(np.zeros((1, 1), "float32"))  # Its weights come into being.
    rng = np.random.default_rng(0)
    net.set_weights(
        [rng.uniform(-0.5, 0.5, w.shape) for w in net.get_weights()]
    )
    model = deepxde.Model(data, net)
    model.compile(optimizer, lr=0.01, **options)
    model.train(iterations=5, display_every=5, verbose=0)
    return net.get_weights()


for name in ("adam", "nadam", "sgd"):
    recording.record(name, train(name))
recording.record("decay", train("adam", decay=("inverse time", 2, 0.5)))
recording.record("cosine", train("sgd", decay=("cosine", 5, 0.1)))
recording.write()
