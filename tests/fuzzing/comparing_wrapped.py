"""Runs a case of wrappers, and compares every step with what it is to be."""

import pickle
import tempfile

import numpy as np
import tensorflow as tf
from comparing import _assert_equal_bits
from test_fused_equals_plain import slots_of, tolerance_of_any
from wrapped import Case, Model

from keras_legacy_opt import fused


def _state(optimizer, variables):
    """Values by names."""
    found = {}
    for i, variable in enumerate(variables):
        found[f"{i}"] = variable.numpy()
        for name, slot in slots_of(optimizer, variable).items():
            found[f"{i} {name}"] = slot.numpy()
    return found


def _expected(model: Model):
    found = {f"{i} {name}": value for (i, name), value in model.slots.items()}
    for i, variable in enumerate(model.variables):
        found[f"{i}"] = variable.numpy()
        for name in model.inner.get_slot_names():
            slots = model.inner._slots.get(variable._unique_id, {})
            if name in slots:
                found[f"{i} {name}"] = slots[name].numpy()
    return found


def _models(case: Case):
    """What is expected after each step; None if legacy refuses the case."""
    model, found = Model(case), []
    try:
        for step in range(len(case.steps)):
            model.step(case.pairs(step, model.variables))
            found.append((_expected(model), model.steps, model.accumulated))
            if case.saves[step] is not None:
                model.forget()
    except tf.errors.InvalidArgumentError:  # Of some empty arrays.
        return None
    return found


def _moved(case, way, optimizer, variables, folder):
    """Another optimizer and other variables, with the same state."""
    others = case.make_variables()
    is_local = case.weight_decay is not None  # Such a class has no pickles.
    if way == "pickle" and not is_local:
        other = pickle.loads(pickle.dumps(optimizer))
    else:
        other = case.build()
    if way == "pickle" and not is_local or way == "weights":
        for other_variable, variable in zip(others, variables, strict=True):
            other_variable.assign(variable)
        if way == "weights":
            other.build(others)
            other.set_weights(optimizer.get_weights())
        return other, others
    if way == "late checkpoint":
        other.build(
            [
                other_variable
                for other_variable, variable in zip(
                    others, variables, strict=True
                )
                if slots_of(optimizer, variable)
            ]
        )
    path = tf.train.Checkpoint(o=optimizer, v=variables).write(folder)
    tf.train.Checkpoint(o=other, v=others).read(path)
    return other, others


def _run(case, compare, wrap=lambda step: step):
    models = _models(case)
    if models is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        _compare_all(case, models, compare, wrap, folder)
    return True


def _compare_all(case, models, compare, wrap, folder):
    optimizer, variables = case.build(), case.make_variables()
    # Then weights have the order that they have in another optimizer.
    are_in_order = all(gradient is not None for gradient in case.steps[0])
    for step, (values, count, accumulated) in enumerate(models):
        pairs = case.pairs(step, variables)

        @wrap
        def take(grads, optimizer=optimizer, pairs=pairs):
            trained = [v for _, v in pairs]
            optimizer.apply_gradients(zip(grads, trained, strict=True))

        take([g for g, _ in pairs])
        where = f"step {step + 1}"
        assert int(optimizer.iterations) == count, where
        if hasattr(optimizer, "accumulated"):
            assert int(optimizer.accumulated) == accumulated, where
        # The slots of others may wait for their next gradients.
        trained = [str(i) for i, g in enumerate(case.steps[step]) if g]
        ours = _state(optimizer, variables)
        for name in values:
            assert name in ours or name.split()[0] not in trained, where
        both = ours.keys() & values.keys()
        compare(ours, {name: values[name] for name in both}, where)
        way = case.saves[step]
        if way in ("pickle", "weights") and not are_in_order:
            way = "checkpoint"
        if way is not None:
            are_in_order = False  # A restored one has orders of its own.
            # What is restored later is read from the file then.
            optimizer, variables = _moved(
                case, way, optimizer, variables, f"{folder}/{step}"
            )


def _assert_bits(ours, expected, where):
    for name, value in expected.items():
        _assert_equal_bits(ours[name], value, f"{name} in {where}")


# Each of the following takes a case, and returns whether it can be compared.


def eager(case: Case) -> bool:
    """Without native ops, to the bit."""
    with fused.disabled():
        return _run(case, _assert_bits)


def _close(case, factor):
    ulps = factor * max(4, tolerance_of_any(case.optimizer, case.arguments))

    def compare(ours, expected, where):
        for name, value in expected.items():
            error = abs(ours[name].astype(np.float64) - value)
            scale = np.abs(value).max(initial=1e-30)
            limit = ulps * np.finfo(value.dtype).eps * scale
            assert (error <= limit).all(), (where, name, error.max(), limit)

    return compare


def native(case: Case) -> bool:
    """With native ops, which may round otherwise: of ordinary numbers."""
    return _run(case, _close(case, 64))


def function(case: Case) -> bool:
    """In functions, where Grappler may round otherwise."""
    with fused.disabled():
        return _run(case, _close(case, 64), tf.function)
