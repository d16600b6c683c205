"""One step of each optimizer, for a dense gradient.

Each function takes the variable `w`, its slots `s` (a dictionary, updated in
place), the gradient `g`, the options `o` (an object; `o.learning_rate` is that
of the step) and the number `t` of the step, from 1.  It returns the variable's
new value.  `INITIAL` says what slots start from, if not from 0.
"""

import numpy as np


def squared(z):
    """Legacy squares complex numbers, too; it does not take their modulus."""
    return z * z


def sgd(w, s, g, o, t):
    """Sutskever et al., 2013, http://proceedings.mlr.press/v28/sutskever13.html.

    The velocity includes the learning rate of its own step.
    """
    if not o.momentum:
        return w - o.learning_rate * g
    s["momentum"] = o.momentum * s["momentum"] - o.learning_rate * g
    if o.nesterov:
        return w + o.momentum * s["momentum"] - o.learning_rate * g
    return w + s["momentum"]


def rmsprop(w, s, g, o, t):
    """Hinton, 2012; centered as in Graves, 2013, arXiv:1308.0850.

    With momentum, epsilon stands inside the root; without, outside.
    """
    s["rms"] = o.rho * s["rms"] + (1 - o.rho) * squared(g)
    variance = s["rms"]
    if o.centered:
        s["mg"] = o.rho * s["mg"] + (1 - o.rho) * g
        variance = variance - squared(s["mg"])
    if not o.momentum:
        return w - o.learning_rate * g / (np.sqrt(variance) + o.epsilon)
    s["momentum"] = o.momentum * s["momentum"] + (
        o.learning_rate * g / np.sqrt(variance + o.epsilon)
    )
    return w - s["momentum"]


def adam(w, s, g, o, t):
    """Kingma and Ba, 2014, arXiv:1412.6980, the form before section 2.1.

    AMSGrad is of Reddi et al., 2018, and takes the maximum of the second
    moments before the correction of their bias.
    """
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["v"] = o.beta_2 * s["v"] + (1 - o.beta_2) * squared(g)
    v = s["v"]
    if o.amsgrad:
        v = s["vhat"] = np.maximum(s["vhat"], v)
    rate = o.learning_rate * np.sqrt(1 - o.beta_2**t) / (1 - o.beta_1**t)
    return w - rate * s["m"] / (np.sqrt(v) + o.epsilon)


def adadelta(w, s, g, o, t):
    """Zeiler, 2012, arXiv:1212.5701, with a learning rate."""
    s["accum_grad"] = o.rho * s["accum_grad"] + (1 - o.rho) * squared(g)
    step = g * (
        np.sqrt(s["accum_var"] + o.epsilon)
        / np.sqrt(s["accum_grad"] + o.epsilon)
    )
    s["accum_var"] = o.rho * s["accum_var"] + (1 - o.rho) * squared(step)
    return w - o.learning_rate * step


def adagrad(w, s, g, o, t):
    """Duchi et al., 2011; epsilon stands outside the root."""
    s["accumulator"] = s["accumulator"] + squared(g)
    return w - o.learning_rate * g / (np.sqrt(s["accumulator"]) + o.epsilon)


def adamax(w, s, g, o, t):
    """Kingma and Ba, 2014, section 7.1, with an epsilon."""
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["v"] = np.maximum(o.beta_2 * s["v"], np.abs(g))
    rate = o.learning_rate / (1 - o.beta_1**t)
    return w - rate * s["m"] / (s["v"] + o.epsilon)


def nadam(w, s, g, o, t):
    """Dozat, 2015, with the momentum schedule of its section on NAdam."""

    def momentum(step):
        # Legacy's 0.96 is a float32 in every dtype.
        base = float(np.float32(0.96))
        return o.beta_1 * (1 - 0.5 * base ** (o.schedule_decay * step))

    product = np.prod([momentum(step) for step in range(1, t + 1)])
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["v"] = o.beta_2 * s["v"] + (1 - o.beta_2) * squared(g)
    m = (1 - momentum(t)) * g / (1 - product) + (
        momentum(t + 1) * s["m"] / (1 - product * momentum(t + 1))
    )
    v = s["v"] / (1 - o.beta_2**t)
    return w - o.learning_rate * m / (np.sqrt(v) + o.epsilon)


def ftrl(w, s, g, o, t):
    """McMahan et al., 2013, "Ad Click Prediction", algorithm 1.

    With the exponent of the learning rate as an option, and two additions: a
    shrinkage, which is added to the gradient of the linear term only, and beta,
    which is a second l2.
    """
    l2 = o.l2_regularization_strength + o.beta / (2 * o.learning_rate)
    shrunk = g + 2 * o.l2_shrinkage_regularization_strength * w
    old, new = s["accumulator"], s["accumulator"] + squared(g)
    power = -o.learning_rate_power
    sigma = (new**power - old**power) / o.learning_rate
    linear = s["linear"] + shrunk - sigma * w
    s["accumulator"], s["linear"] = new, linear
    l1 = o.l1_regularization_strength
    curvature = new**power / o.learning_rate + 2 * l2
    return np.where(
        np.abs(linear) > l1, (np.sign(linear) * l1 - linear) / curvature, 0.0
    )


UPDATES = {
    "SGD": sgd,
    "RMSprop": rmsprop,
    "Adam": adam,
    "Adadelta": adadelta,
    "Adagrad": adagrad,
    "Adamax": adamax,
    "Nadam": nadam,
    "Ftrl": ftrl,
}
