"""Hypothesis strategies: any hyperparameters, shapes and gradients."""

import numpy as np
import stepping
from hypothesis import strategies as st

rates = st.floats(1e-4, 3.0)
decays = st.floats(0.0, 0.99)
epsilons = st.floats(1e-9, 0.1)
strengths = st.floats(0.0, 1.0)

HYPERPARAMETERS = {
    "SGD": {"momentum": decays, "nesterov": st.booleans()},
    "RMSprop": {
        "rho": decays,
        "momentum": decays,
        # A small one may leave the root of a variance below 0: NaN, in both.
        "epsilon": st.floats(1e-3, 0.1),
        "centered": st.booleans(),
    },
    "Adam": {
        "beta_1": decays,
        "beta_2": decays,
        "epsilon": epsilons,
        "amsgrad": st.booleans(),
    },
    "Adadelta": {"rho": decays, "epsilon": epsilons},
    "Adagrad": {
        "initial_accumulator_value": strengths,
        "epsilon": epsilons,
    },
    "Adamax": {"beta_1": decays, "beta_2": decays, "epsilon": epsilons},
    "Nadam": {
        "beta_1": decays,
        "beta_2": decays,
        "epsilon": epsilons,
        "schedule_decay": strengths,
    },
    "Ftrl": {
        "learning_rate_power": st.floats(-1.0, 0.0),
        "initial_accumulator_value": st.floats(0.01, 1.0),
        "l1_regularization_strength": strengths,
        "l2_regularization_strength": strengths,
        "l2_shrinkage_regularization_strength": strengths,
        "beta": strengths,
    },
}
SHARED = {
    "learning_rate": rates,
    "decay": strengths,
    "clipvalue": st.floats(0.1, 3.0),
    "clipnorm": st.floats(0.1, 3.0),
    "global_clipnorm": st.floats(0.1, 3.0),
}


@st.composite
def arguments(draw, name):
    chosen = draw(
        st.fixed_dictionaries({}, optional={**SHARED, **HYPERPARAMETERS[name]})
    )
    if "clipnorm" in chosen:  # They exclude each other.
        chosen.pop("global_clipnorm", None)
    return chosen


@st.composite
def problems(draw):
    """Initial values, and gradients for three steps: each dense or sparse."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    shapes = draw(
        st.lists(
            st.lists(st.integers(1, 4), max_size=3), min_size=1, max_size=3
        )
    )
    dtype = draw(st.sampled_from(["float32", "float64"]))
    initial = {
        f"variable_{i}": stepping.random_array(rng, shape, dtype)
        for i, shape in enumerate(shapes)
    }

    def gradient(shape):
        if not shape or draw(st.booleans()):
            return stepping.random_array(rng, shape, dtype)
        rows = draw(
            st.lists(st.integers(0, shape[0] - 1), min_size=1, max_size=6)
        )
        values = stepping.random_array(rng, (len(rows), *shape[1:]), dtype)
        return values, np.array(rows, draw(st.sampled_from(["int32", "int64"])))

    return initial, [
        {name: gradient(value.shape) for name, value in initial.items()}
        for _ in range(3)
    ]
