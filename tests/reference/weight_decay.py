"""Optimizers with weight decay of their own; see `updates`."""

import numpy as np

from reference import updates


def _decayed(w, g, o):
    """A sparse gradient, of which no row is all zeros, decays its rows."""
    axes = tuple(range(1, g.ndim))
    has_gradient = (g != 0).any(axis=axes, keepdims=True) if g.ndim else True
    return np.where(has_gradient, w - o.weight_decay * w, w)


def adamw(w, s, g, o, t):
    """Loshchilov and Hutter, 2019, but the decay has no learning rate."""
    return updates.adam(_decayed(w, g, o), s, g, o, t)


def sgdw(w, s, g, o, t):
    """Likewise."""
    return updates.sgd(_decayed(w, g, o), s, g, o, t)


def _trust_ratio(eeta, w, direction):
    norms = np.linalg.norm(w), np.linalg.norm(direction)
    return eeta * norms[0] / norms[1] if all(norms) else 1.0


def lamb(w, s, g, o, t):
    """You et al., 2020, algorithm 2, where phi is the identity."""
    s["m"] = o.beta_1 * s["m"] + (1 - o.beta_1) * g
    s["v"] = o.beta_2 * s["v"] + (1 - o.beta_2) * g * g
    m, v = s["m"] / (1 - o.beta_1**t), s["v"] / (1 - o.beta_2**t)
    direction = m / (np.sqrt(v) + o.epsilon) + o.weight_decay * w
    return w - o.learning_rate * _trust_ratio(1.0, w, direction) * direction


def lars(w, s, g, o, t):
    """You et al., 2017, algorithm 1; popular momentum is of gradients."""
    g = g + o.weight_decay_rate * w
    if o.classic_momentum:
        g = o.learning_rate * _trust_ratio(o.eeta, w, g) * g
    s["momentum"] = o.momentum * s["momentum"] + g
    step = o.momentum * s["momentum"] + g if o.nesterov else s["momentum"]
    if not o.classic_momentum:
        step = o.learning_rate * _trust_ratio(o.eeta, w, step) * step
    return w - step


def novograd(w, s, g, o, t):
    """Ginsburg et al., 2019, algorithm 1; the momentum holds steps."""
    squares = (g * g).sum()
    s["v"] = o.beta_2 * s["v"] + (1 - o.beta_2) * squares if t > 1 else squares
    v = s["v"]
    if o.amsgrad:
        v = s["vhat"] = np.maximum(s["vhat"], v)
    g = g / (np.sqrt(v) + o.epsilon) + o.weight_decay * w
    if o.grad_averaging and t > 1:
        g = (1 - o.beta_1) * g
    s["m"] = o.beta_1 * s["m"] - o.learning_rate * g
    return w + s["m"]
