"""The graphs of subclasses compute what legacy's do, operation by operation.

Grappler rewrites graphs: it multiplies constants with each other, say, and so
changes the last bit.  Two graphs of equal bits today may differ in another
TensorFlow, unless they are the same.
"""

import pytest
import tensorflow as tf
import tf_keras
from registry import BUILT_IN
from test_overridden_updates import without_state

import keras_legacy_opt
from keras_legacy_opt import fused

# Which this package reads from a variable, and legacy has as a constant.  No
# other constant of a step has this value.
DECAY = 0.109375


def expressions(function, arguments, variables):
    """What each stateful operation of a function computes, as an expression.

    It is the same whether a value is read once or twice, or right after it was
    assigned; and whether `decay` is a constant or is read, made non-negative,
    and multiplied by an operation that does not fold.
    """
    graph = function.get_concrete_function(*arguments).graph
    names = {id(v.handle): v.name.removesuffix(":0") for v in variables}
    inputs = {
        inside.op.name: names.get(id(outside), "constant")
        for outside, inside in graph.captures
    }
    known = {}

    def assigned(read):
        """What was assigned to the variable right before it was read."""
        for op in read.control_inputs:
            if op.type == "AssignVariableOp" and op.inputs[0] is read.inputs[0]:
                return op.inputs[1]
        return None

    def operand(tensor):
        op = tensor.op
        if op.type in ("Identity", "IdentityN"):
            return operand(op.inputs[tensor.value_index])
        if op.type == "ReadVariableOp" and (value := assigned(op)) is not None:
            return operand(value)
        if op.name not in known:
            known[op.name] = expression(op)
        suffix = f":{tensor.value_index}" if len(op.outputs) > 1 else ""
        return known[op.name] + suffix

    def expression(op):
        if op.type == "Placeholder":
            return inputs.get(op.name, op.name)
        if op.type == "Const":
            value = tf.make_ndarray(op.get_attr("value"))
            decays = value.ndim == 0 and value == DECAY
            return "decay" if decays else f"{value.dtype}({value.tolist()})"
        operands = [operand(tensor) for tensor in op.inputs]
        if op.type == "ReadVariableOp":
            return operands[0].removeprefix("Opt/")
        if op.type in ("Cast", "SelectV2") and "decay" in operands:
            return "decay"
        kind = op.type
        if kind in ("Mul", "MulNoNan"):
            kind, operands = "Mul", sorted(operands)
        return f"{kind}({', '.join(operands)})"

    return sorted(
        expression(op)
        for op in graph.get_operations()
        if op.op_def.is_stateful
        and op.type not in ("Placeholder", "ReadVariableOp")
    )


def expressions_of_step(optimizer):
    """Those of a step with a sparse and a dense gradient."""
    table = tf.Variable([[1.0, 2.0], [3.0, 4.0]], name="table")
    vector = tf.Variable([1.0, 2.0], name="vector")
    optimizer._create_all_weights([table, vector])

    @tf.function(autograph=False)
    def step(values, indices, grad):
        sparse = tf.IndexedSlices(values, indices, (2, 2))
        optimizer.apply_gradients([(sparse, table), (grad, vector)])

    arguments = tf.ones([2, 2]), tf.constant([0, 1]), tf.ones([2])
    hypers = [
        h for h in optimizer._hyper.values() if isinstance(h, tf.Variable)
    ]
    variables = [table, vector, *optimizer.weights, *hypers]
    with fused.disabled():
        return expressions(step, arguments, variables)


def calling_super(base):
    """Most subclasses add something to the update and let the base do it."""

    class CallingSuper(base):
        def _resource_apply_dense(self, grad, var, apply_state=None):
            return super()._resource_apply_dense(grad, var, apply_state)

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            return super()._resource_apply_sparse(
                grad, var, indices, apply_state
            )

    return CallingSuper


def with_coefficients(base):
    """Weight decay with a coefficient, and the learning rate of the base."""

    class WithCoefficients(base):
        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            c = apply_state[var_device, var_dtype]
            c["rate"] = tf.constant(0.25, var_dtype) * c["lr_t"]

        def _resource_apply_dense(self, grad, var, apply_state=None):
            rate = apply_state[var.device, var.dtype.base_dtype]["rate"]
            with tf.control_dependencies([var.assign_sub(rate * var)]):
                return super()._resource_apply_dense(grad, var, apply_state)

    return WithCoefficients


def with_bounds(base):
    """An update of one's own, in the style of AdaBound."""

    class WithBounds(base):
        def _step(self, grad, dtype):
            lr = self._decayed_lr(dtype)
            step = tf.cast(self.iterations + 1, dtype)
            lr = lr * tf.sqrt(1 - tf.pow(0.999, step)) / (1 - tf.pow(0.9, step))
            bound = lr * (1 - 1 / (0.001 * step + 1))
            rate = tf.clip_by_value(lr / (tf.abs(grad) + 1e-8), bound, 2.0)
            return rate * grad

        def _resource_apply_dense(self, grad, var, apply_state=None):
            return var.assign_sub(
                self._step(grad, var.dtype.base_dtype),
                use_locking=self._use_locking,
            )

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            step = self._step(grad, var.dtype.base_dtype)
            return self._resource_scatter_add(var, indices, -step)

    return WithBounds


def with_other_gradients(base):
    """Gradients that are centralized; the updates are the base's."""

    class WithOtherGradients(base):
        def _transform_gradients(self, grads_and_vars):
            return [
                (g - tf.reduce_mean(g), v)
                if isinstance(g, tf.Tensor)
                else (g, v)
                for g, v in super()._transform_gradients(grads_and_vars)
            ]

    return WithOtherGradients


OPTIONS = {
    "SGD": [{}, {"momentum": 0.9}, {"momentum": 0.9, "nesterov": True}],
    "RMSprop": [{}, {"momentum": 0.5}, {"centered": True}],
    "Adam": [{}, {"amsgrad": True}],
    "Ftrl": [{}, {"l2_shrinkage_regularization_strength": 0.1}],
}


@pytest.mark.parametrize(
    "derive",
    [
        calling_super,
        without_state,
        with_coefficients,
        with_bounds,
        with_other_gradients,
    ],
)
@pytest.mark.parametrize(
    ("name", "decay"),
    [
        (row.name, decay)
        for row in BUILT_IN
        for decay in (0.0, DECAY)
        # Nadam reads its decay also if that is 0.
        if decay or row.name != "Nadam"
    ],
)
def test_are_legacys(name, derive, decay):
    decay_name = "schedule_decay" if name == "Nadam" else "decay"
    for options in OPTIONS.get(name, [{}]):
        ours, legacy = (
            expressions_of_step(
                derive(getattr(library, name))(
                    0.125, name="Opt", **options, **{decay_name: decay}
                )
            )
            for library in (keras_legacy_opt, tf_keras.optimizers.legacy)
        )
        assert ours == legacy
