"""Subclasses that override a part of the update of one variable.

Where an update takes no `apply_state`, as before TF 2.1, its coefficients come
from `_fallback_apply_state`, anew for each variable.
"""

import contextlib

import numpy as np
import pytest
import tensorflow as tf
import tf_keras
from registry import BUILT_IN

import keras_legacy_opt
from keras_legacy_opt import fused


def without_state(base):
    class WithoutState(base):
        def _resource_apply_dense(self, grad, var):
            return super()._resource_apply_dense(grad, var)

        def _resource_apply_sparse(self, grad, var, indices):
            return super()._resource_apply_sparse(grad, var, indices)

    return WithoutState


def with_any_arguments(base):
    class WithAnyArguments(base):
        def _resource_apply_dense(self, grad, var, *args, **kwargs):
            return super()._resource_apply_dense(grad, var, *args, **kwargs)

    return WithAnyArguments


def with_a_patch(base):
    class Patched(base):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            method = self._resource_apply_dense
            self._resource_apply_dense = lambda grad, var, *a, **k: method(
                grad, var
            )

    return Patched


def with_other_scatters(base):
    class OtherScatters(base):
        def _resource_scatter_add(self, x, i, v):
            return super()._resource_scatter_add(x, i, v * 0.5)

        def _resource_scatter_update(self, x, i, v):
            return super()._resource_scatter_update(x, i, v * 0.25)

    return OtherScatters


@pytest.mark.parametrize(
    "wrap", [lambda f: f, tf.function], ids=["", "function"]
)
@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    "derive",
    [without_state, with_any_arguments, with_a_patch, with_other_scatters],
)
@pytest.mark.parametrize("name", [row.name for row in BUILT_IN])
def test_all_bits_are_those_of_legacy(name, derive, native, wrap):
    results = []
    for library in (keras_legacy_opt, tf_keras.optimizers.legacy):
        opt = derive(getattr(library, name))(0.1)
        variables = [tf.Variable([1.0, 2.0]), tf.Variable([[3.0], [4.0]])]

        @wrap
        def step(gradient, opt=opt, variables=variables):
            sparse = tf.IndexedSlices(
                gradient[:1, tf.newaxis], tf.constant([1])
            )
            opt.apply_gradients(zip([gradient, sparse], variables, strict=True))

        with contextlib.nullcontext() if native else fused.disabled():
            for gradient in ([0.5, -0.25], [0.75, 1.5], [-1.0, 0.125]):
                step(tf.constant(gradient))
        results.append([*(v.numpy() for v in variables), *opt.get_weights()])
    for ours, legacy in zip(*results, strict=True):
        np.testing.assert_array_equal(ours, legacy)


@pytest.mark.parametrize("name", [row.name for row in BUILT_IN])
def test_coefficients_are_those_of_legacy(name):
    var = tf.Variable([1.0])
    key = (var.device, var.dtype.base_dtype)
    ours, legacy = [], []
    for library, coefficients in (
        (keras_legacy_opt, ours),
        (tf_keras.optimizers.legacy, legacy),
    ):
        opt = getattr(library, name)(0.1)
        opt._create_all_weights([var])
        for state in (
            opt._prepare([var]),
            {key: opt._fallback_apply_state(*key)},
        ):
            coefficients.append(
                {name: (c.dtype, c.numpy()) for name, c in state[key].items()}
            )
    for given, wanted in zip(ours, legacy, strict=True):
        assert {name: given.get(name) for name in wanted} == wanted
