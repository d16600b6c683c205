"""What is around the updates of `updates`, in NumPy.

Each function takes an update, and what the wrapper is made with, and returns an
update that has the wrapper's slot, too.
"""

import numpy as np


def in_rows(update, *everywhere):
    """An update that changes the rows of a sparse gradient only.

    Args:
      update: of all rows.
      *everywhere: the names of what it changes in the others, too.
    """

    def changed(w, s, g, o, t):
        old = {"variable": w, **s}
        new = {"variable": update(w, s, g, o, t), **s}
        if o.touched is not None:
            for name in new.keys() - {*everywhere}:
                mask = o.touched.reshape(-1, *[1] * (w.ndim - 1))
                new[name] = np.where(mask, new[name], old[name])
        s.update({name: new[name] for name in s})
        return new["variable"]

    return changed


def lookahead(update, period, size):
    """Zhang et al., 2019, arXiv:1907.08610, algorithm 1."""
    size = float(np.float32(size))

    def ahead(w, s, g, o, t):
        if t == 1:
            s["slow"] = w
        w = update(w, s, g, o, t)
        if t % period == 0:
            w = s["slow"] = s["slow"] + size * (w - s["slow"])
        return w

    return ahead


def moving_average(update, decay, start=None):
    """Polyak and Juditsky, 1992, with exponentially falling weights.

    From step `start` on, if that is given, the decay grows with the steps.
    """

    def averaging(w, s, g, o, t):
        if t == 1:
            s["average"] = w
        w = update(w, s, g, o, t)
        since, now = t - 1 - (start or 0), decay
        if start is not None:
            now = min(now, (1 + since) / (10 + since)) if since >= 0 else 0.0
        weight = 1 - float(np.float32(now))
        s["average"] = s["average"] - weight * (s["average"] - w)
        return w

    return averaging


def swa(update, start, period):
    """Izmailov et al., 2018, arXiv:1803.05407, algorithm 1."""

    def averaging(w, s, g, o, t):
        w = update(w, s, g, o, t)
        count, rest = divmod(t - 1 - start, period)
        if count >= 0 and rest == 0:
            s["average"] = (s["average"] * count + w) / (count + 1)
        return w

    return averaging


def accumulated(gradients, steps, mean=True):
    """The gradients of each step: None, but of each `steps`th step for several.

    A sparse gradient is one of all rows that any of them had, each once.
    """
    merged = []
    for end in range(1, len(gradients) + 1):
        if end % steps:
            merged.append(None)
            continue
        parts = gradients[end - steps : end]
        divisor = steps if mean else 1
        merged.append(
            {name: _sum([p[name] for p in parts], divisor) for name in parts[0]}
        )
    return merged


def _sum(gradients, divisor):
    if not isinstance(gradients[0], tuple):
        return sum(g.astype(np.float64) for g in gradients) / divisor
    values, indices = (np.concatenate(x) for x in zip(*gradients, strict=True))
    rows, places = np.unique(indices, return_inverse=True)
    sums = np.zeros((len(rows), *values.shape[1:]))
    np.add.at(sums, places, values.astype(np.float64))
    return sums / divisor, rows


def of_some(updates):
    """An update of each variable by the one that it is under.

    Args:
      updates: maps names of variables to updates.
    """
    return lambda w, s, g, o, t: updates[o.variable](w, s, g, o, t)


def scaled(update, factor):
    """An update with another learning rate."""

    def slower(w, s, g, o, t):
        before = o.learning_rate
        o.learning_rate = before * factor
        w = update(w, s, g, o, t)
        o.learning_rate = before
        return w

    return slower


def decaying(update, decay):
    """An update after a decay of the rows of the gradient."""
    decay = float(np.float32(decay))

    def decayed(w, s, g, o, t):
        mask = True
        if o.touched is not None:
            mask = o.touched.reshape(-1, *[1] * (w.ndim - 1))
        return update(np.where(mask, w - decay * w, w), s, g, o, t)

    return decayed
