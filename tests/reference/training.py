"""What all optimizers share: clipping, decay, sparse gradients, slots."""

import types

import numpy as np

from reference.updates import INITIAL
from reference.wrappers import in_rows

# Legacy uses these as they are given.  The others pass through float32 on their
# way to the update, whatever the dtype of what is trained.
EXACT = frozenset(
    [
        "clipnorm",
        "clipvalue",
        "epsilon",
        "global_clipnorm",
        "initial_accumulator_value",
        "schedule_decay",
    ]
)


def _held(name, value):
    if not isinstance(value, float) or name in EXACT:
        return value
    return float(np.float32(value))


def _clipped(gradients, o):
    """Clips values and norms; of sparse gradients, as they came."""
    values = {
        k: g[0] if isinstance(g, tuple) else g for k, g in gradients.items()
    }
    if o.clipvalue is not None:
        values = {
            k: np.clip(v, -o.clipvalue, o.clipvalue) for k, v in values.items()
        }
    norms = {k: np.linalg.norm(v) for k, v in values.items()}
    limit = o.clipnorm
    if o.global_clipnorm is not None:
        total = np.linalg.norm(list(norms.values()))
        norms, limit = dict.fromkeys(norms, total), o.global_clipnorm
    if limit is not None:
        values = {
            k: v * (limit / max(norms[k], limit)) for k, v in values.items()
        }
    return {
        k: (values[k], g[1]) if isinstance(g, tuple) else values[k]
        for k, g in gradients.items()
    }


def train(update, initial, gradients, options, slots, everywhere):
    """Trains variables in float64.

    Args:
      update: Of a variable by a dense gradient, as those of `updates`.
      initial: Maps names to the variables' first values.
      gradients: For each step, maps names to arrays or (values, indices); None
        for one that changes nothing, and does not count.
      options: All arguments of the optimizer, by name.
      slots: The names of its slots.
      everywhere: What a sparse gradient changes outside its rows: names of
        slots, or "variable".

    Returns:
      For each step, the variables and slots: maps (variable, slot) to an array,
      where the slot of a variable itself is "variable".
    """
    o = types.SimpleNamespace(
        **{key: _held(key, value) for key, value in options.items()}
    )
    rate = getattr(o, "learning_rate", 0.0)  # COCOB has none.
    starts = {
        slot: getattr(o, start) if isinstance(start, str) else start
        for slot, start in INITIAL.get(update, {}).items()
    }
    state = {}
    for variable, value in initial.items():
        value = value.astype(np.float64)
        state[variable, "variable"] = value
        for slot in slots:
            state[variable, slot] = np.full_like(value, starts.get(slot, 0.0))
    update = in_rows(update, *everywhere)
    history, t = [], 0
    for step_gradients in gradients:
        t += step_gradients is not None
        o.learning_rate = rate / (1 + o.decay * (t - 1))
        for variable, gradient in _clipped(step_gradients or {}, o).items():
            old = {slot: state[variable, slot] for slot in ("variable", *slots)}
            touched = None
            if isinstance(gradient, tuple):
                values, touched = gradient
                gradient = np.zeros_like(old["variable"])
                np.add.at(gradient, touched, values)
            o.touched, o.variable = None, variable
            if touched is not None:
                o.touched = np.isin(np.arange(len(gradient)), touched)
            s = {slot: old[slot] for slot in slots}
            w = update(old["variable"], s, gradient, o, t)
            for slot, new in {"variable": w, **s}.items():
                state[variable, slot] = new
        history.append(dict(state))
    return history
