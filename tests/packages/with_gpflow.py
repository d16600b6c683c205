"""gpflow: models and natural gradients, trained by legacy optimizers.

It wants tf_keras.
"""

import gpflow
import numpy as np
import recording
import tensorflow as tf
import tf_keras

rng = np.random.default_rng(0)
X = rng.uniform(size=(20, 1))
Y = np.sin(6 * X)


def make_model():
    return gpflow.models.SVGP(
        gpflow.kernels.SquaredExponential(),
        gpflow.likelihoods.Gaussian(0.1),
        inducing_variable=X[:5].copy(),
        num_data=20,
    )


for name in ("Adam", "SGD", "RMSprop", "Ftrl"):
    model = make_model()
    loss = model.training_loss_closure((X, Y), compile=True)
    optimizer = getattr(tf_keras.optimizers.legacy, name)(0.01)
    for _ in range(4):
        optimizer.minimize(loss, model.trainable_variables)
    recording.record(name, [*model.trainable_variables, *optimizer.weights])

model = make_model()
gpflow.set_trainable(model.q_mu, False)
gpflow.set_trainable(model.q_sqrt, False)
loss = model.training_loss_closure((X, Y), compile=False)
natural = gpflow.optimizers.NaturalGradient(gamma=0.1)
adam = tf_keras.optimizers.legacy.Adam(0.01)


@tf.function
def step():
    adam.minimize(loss, model.trainable_variables)
    natural.minimize(loss, [(model.q_mu, model.q_sqrt)])


for _ in range(3):
    step()
recording.record("NaturalGradient", [*model.variables, *adam.weights])
recording.write()
