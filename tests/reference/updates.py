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


def rectification(o, t):
    """Liu et al., 2019, arXiv:1908.03265: None while the average is short."""
    longest = 2 / (1 - o.beta_2) - 1
    length = longest - 2 * t * o.beta_2**t / (1 - o.beta_2**t)
    if length < o.sma_threshold or length <= 4:
        return None
    ratio = (length - 4) * (length - 2) * longest
    return np.sqrt(ratio / ((longest - 4) * (longest - 2) * length))


def warmed_up(o, t):
    """The rate rises from 0, then falls to `min_lr` when the training ends."""
    rising = o.total_steps * o.warmup_proportion
    if not o.total_steps:
        return o.learning_rate
    if t <= rising:
        return o.learning_rate * t / rising
    fallen = min((t - rising) / (o.total_steps - rising), 1)
    return o.learning_rate + fallen * (o.min_lr - o.learning_rate)


def _adapted(w, s, o, t, factor):
    """A step of m, scaled by v or vhat and `factor` if that is not None."""
    v = s["v"]
    if o.amsgrad:
        v = s["vhat"] = np.maximum(s["vhat"], v)
    step = s["m"] / (1 - o.beta_1**t)
    if factor is not None:
        root = np.sqrt(v / (1 - o.beta_2**t))
        step = factor * step / (root + o.epsilon)
    return w - warmed_up(o, t) * (step + o.weight_decay * w)


def rectified_adam(w, s, g, o, t):
    """Liu et al., 2019, algorithm 2, with decoupled weight decay."""
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["v"] = o.beta_2 * s["v"] + (1 - o.beta_2) * squared(g)
    return _adapted(w, s, o, t, rectification(o, t))


def adabelief(w, s, g, o, t):
    """Zhuang et al., 2020, arXiv:2010.07468, and the rectification of above.

    The variance of a row without gradient decays; it is not one of zeros.
    """
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    seen = (1 - o.beta_2) * squared(g - s["m"]) + o.epsilon
    idle = np.zeros(len(g), bool) if o.touched is None else ~o.touched
    seen[idle] = 0
    s["v"] = o.beta_2 * s["v"] + seen
    return _adapted(w, s, o, t, rectification(o, t) if o.rectify else 1)


def yogi(w, s, g, o, t):
    """Zaheer et al., 2018, algorithm 2, and its remark on regularization."""
    m = g
    if o.beta1:
        m = s["m"] = o.beta1 * s["m"] + (1 - o.beta1) * g
    x = squared(g) - s["v"]
    sign = np.tanh(10 * x) if o.activation == "tanh" else np.sign(x)
    s["v"] = s["v"] + (1 - o.beta2) * sign * squared(g)
    rate = o.learning_rate * np.sqrt(1 - o.beta2**t) / (1 - o.beta1**t)
    rate = rate / (np.sqrt(s["v"]) + o.epsilon)
    return proximal(w - rate * m, rate, o)


def proximal(w, rate, o):
    """Duchi and Singer, 2009, section 5: minimizes with penalties."""
    shrunk = np.maximum(np.abs(w) - rate * o.l1_regularization_strength, 0)
    return np.sign(w) * shrunk / (1 + rate * o.l2_regularization_strength)


def proximal_adagrad(w, s, g, o, t):
    """Duchi and Singer, 2009, with the rates of Duchi et al., 2011."""
    s["accumulator"] = s["accumulator"] + squared(g)
    rate = o.learning_rate / np.sqrt(s["accumulator"])
    return proximal(w - rate * g, rate, o)


def cocob(w, s, g, o, t):
    """Orabona and Tommasi, 2017, arXiv:1705.07795, algorithm 2."""
    s["lr"] = np.maximum(s["lr"], np.abs(g))
    s["grad_norm_sum"] = s["grad_norm_sum"] + np.abs(g)
    s["reward"] = np.maximum(s["reward"] - g * s["tilde_w"], 0)
    s["gradients_sum"] = s["gradients_sum"] + g
    fortune = s["lr"] + s["reward"]
    scale = s["lr"] * np.maximum(
        s["grad_norm_sum"] + s["lr"], o.alpha * s["lr"]
    )
    start, s["tilde_w"] = (
        w - s["tilde_w"],
        -s["gradients_sum"] / scale * fortune,
    )
    return start + s["tilde_w"]


def conditional_gradient(w, s, g, o, t):
    """Ravi et al., 2018, arXiv:1803.06453: towards the corner of a ball."""
    corner = g / (np.linalg.norm(g) + o.epsilon)
    if o.ord == "nuclear":
        u, _, v = np.linalg.svd(np.atleast_2d(g), full_matrices=False)
        corner = np.outer(u[:, 0], v[0]).reshape(g.shape)
    return o.learning_rate * w - (1 - o.learning_rate) * o.lambda_ * corner


def lion(w, s, g, o, t):
    """Chen et al., 2023, arXiv:2302.06675, algorithm 2."""
    c = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["m"] = o.beta_2 * s["m"] + (1 - o.beta_2) * g
    return w - o.learning_rate * (np.sign(c) + o.weight_decay * w)


# {slot: what it starts from, an option or a number}, where that is not 0.
INITIAL = {
    adagrad: {"accumulator": "initial_accumulator_value"},
    ftrl: {"accumulator": "initial_accumulator_value"},
    proximal_adagrad: {"accumulator": "initial_accumulator_value"},
    yogi: {"v": "initial_accumulator_value"},
    cocob: {"lr": 1e-8},
}
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
