"""Subclasses of legacy optimizers as other people write them, by pattern.

Beside the test doubles of `third_party`, which the registry runs through all
tests, these are many small ones.  Each function takes the module that provides
`Optimizer`, `Adam`, ... and makes an optimizer on it, so that the same source
runs on this package and on `tf_keras.optimizers.legacy`.
"""

import re
import types

import tensorflow as tf


def _times(gradient, factor):
    """A gradient, dense or sparse, times a number."""
    if isinstance(gradient, tf.IndexedSlices):
        return tf.IndexedSlices(
            gradient.values * factor, gradient.indices, gradient.dense_shape
        )
    return gradient * factor


def _serialized(optimizer):
    name = type(optimizer).__name__
    return {"class_name": name, "config": optimizer.get_config()}


def _deserialized(base, serialized):
    cls = getattr(base, serialized["class_name"])
    return cls.from_config(serialized["config"])


def extra_entries_of_the_state(base):
    """Coefficients of its own, added both where a step and an update asks."""

    class ExtraEntries(base.Adam):
        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            c = apply_state[var_device, var_dtype]
            c["shrinking"] = tf.constant(0.25, var_dtype) * c["lr_t"]
            c["step"] = tf.cast(self.iterations + 1, var_dtype)

        def _fallback_apply_state(self, var_device, var_dtype):
            c = super()._fallback_apply_state(var_device, var_dtype)
            return {**c, "fallen back": tf.constant(0.5, var_dtype)}

        def _resource_apply_dense(self, grad, var, apply_state=None):
            key = var.device, var.dtype.base_dtype
            c = (apply_state or {}).get(key) or self._fallback_apply_state(*key)
            shrunk = var.assign_sub(c["shrinking"] / c["step"] * var)
            with tf.control_dependencies([shrunk]):
                return super()._resource_apply_dense(grad, var, apply_state)

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            # As of TensorFlow 2.0, which handed on no state.
            c = self._fallback_apply_state(var.device, var.dtype.base_dtype)
            return super()._resource_apply_sparse(
                grad * c["fallen back"] * c["step"], var, indices
            )

    return ExtraEntries(0.05)


def updates_in_functions(base):
    """Updates that are functions of their own, and return nothing.

    Legacy took them in eager execution only.
    """

    class InFunctions(base.Optimizer):
        def __init__(self, learning_rate=0.01, name="InFunctions", **kwargs):
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
            self._is_first = True

        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "pv")
            for var in var_list:
                self.add_slot(var, "pg")

        @tf.function
        def _resource_apply_dense(self, grad, var):
            lr = tf.cast(self._decayed_lr(tf.float32), var.dtype.base_dtype)
            value, gradient = self.get_slot(var, "pv"), self.get_slot(var, "pg")
            new = var - grad * lr
            if self._is_first:
                self._is_first = False
                new_var = new
            else:
                same = tf.cast(gradient * grad >= 0, var.dtype)
                new_var = same * new + (1 - same) * (value + var) / 2
            value.assign(var)
            gradient.assign(grad)
            var.assign(new_var)

        @tf.function
        def _resource_apply_sparse(self, grad, var, indices):
            lr = self._get_hyper("learning_rate", var.dtype.base_dtype)
            self._resource_scatter_add(var, indices, -lr * grad)

        def get_config(self):
            return {
                **super().get_config(),
                "learning_rate": self._serialize_hyperparameter(
                    "learning_rate"
                ),
            }

    return InFunctions(0.05)


def decay_by_patterns(base):
    """Weight decay before the update, for names that match a pattern."""

    class DecayByPatterns(base.Adam):
        def __init__(self, rate, include=(), exclude=(), **kwargs):
            super().__init__(**kwargs)
            self.rate, self.include, self.exclude = rate, include, exclude

        def _decays(self, name):
            if any(re.search(pattern, name) for pattern in self.include):
                return True
            return not any(re.search(p, name) for p in self.exclude)

        def _decay(self, var, apply_state):
            if not self._decays(var.name):
                return tf.no_op()
            c = apply_state[var.device, var.dtype.base_dtype]
            return var.assign_sub(
                c["lr_t"] * var * self.rate, use_locking=self._use_locking
            )

        def _resource_apply_dense(self, grad, var, apply_state=None):
            with tf.control_dependencies([self._decay(var, apply_state)]):
                return super()._resource_apply_dense(
                    grad, var, apply_state=apply_state
                )

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            with tf.control_dependencies([self._decay(var, apply_state)]):
                return super()._resource_apply_sparse(
                    grad, var, indices, apply_state=apply_state
                )

        def get_config(self):
            return {
                **super().get_config(),
                "rate": self.rate,
                "include": self.include,
                "exclude": self.exclude,
            }

    return DecayByPatterns(
        0.1, include=["bedding"], exclude=["^emb", "bias"], learning_rate=0.05
    )


def decay_of_listed_variables(base):
    """Weight decay for variables that a step is told, kept by reference."""

    def extend(cls):
        class WithWeightDecay(cls):
            def __init__(self, weight_decay, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self._set_hyper("weight_decay", weight_decay)
                self._decayed = None

            def apply_gradients(
                self, grads_and_vars, name=None, decayed=None, **kwargs
            ):
                self._decayed = decayed and {v.ref() for v in decayed}
                return super().apply_gradients(
                    grads_and_vars, name=name, **kwargs
                )

            def _decay(self, var):
                if self._decayed and var.ref() not in self._decayed:
                    return tf.no_op()
                rate = self._get_hyper("weight_decay", var.dtype)
                return var.assign_sub(rate * var, self._use_locking)

            def _resource_apply_dense(self, grad, var, **kwargs):
                with tf.control_dependencies([self._decay(var)]):
                    return super()._resource_apply_dense(grad, var, **kwargs)

            def _resource_apply_sparse(self, grad, var, indices, **kwargs):
                with tf.control_dependencies([self._decay(var)]):
                    return super()._resource_apply_sparse(
                        grad, var, indices, **kwargs
                    )

            def get_config(self):
                return {
                    **super().get_config(),
                    "weight_decay": self._serialize_hyperparameter(
                        "weight_decay"
                    ),
                }

        return WithWeightDecay

    return extend(base.RMSprop)(0.01, 0.05, momentum=0.5)


def delegating_wrapper(base):
    """A wrapper without state of its own: all is the inner optimizer's."""

    class Delegating(base.Optimizer):
        _HAS_AGGREGATE_GRAD = True

        def __init__(self, optimizer):
            self._optimizer = optimizer
            self._track_trackable(optimizer, "base_optimizer")

        def __getattribute__(self, name):
            try:
                return object.__getattribute__(self, name)
            except AttributeError:
                if name in ("_optimizer", "_hyper"):
                    raise
                if name in self._optimizer._hyper:
                    return self._optimizer._get_hyper(name)
                raise

        def __setattr__(self, name, value):
            name = "learning_rate" if name == "lr" else name
            inner = self.__dict__.get("_optimizer")
            if inner is not None and name in inner._hyper:
                inner._set_hyper(name, value)
            else:
                super().__setattr__(name, value)

        @property
        def iterations(self):
            return self._optimizer.iterations

        @iterations.setter
        def iterations(self, variable):
            self._optimizer.iterations = variable

        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            halved = [(_times(g, 0.5), v) for g, v in grads_and_vars]
            return self._optimizer.apply_gradients(halved, name, **kwargs)

        def minimize(self, loss, var_list, *args, **kwargs):
            pairs = self._optimizer._compute_gradients(
                loss, var_list, *args, **kwargs
            )
            return self.apply_gradients(pairs)

        def get_slot_names(self):
            return []  # A checkpoint finds the slots at the inner optimizer.

        def get_slot(self, var, slot_name):
            return self._optimizer.get_slot(var, slot_name)

        def add_slot(self, var, slot_name, initializer="zeros"):
            return self._optimizer.add_slot(var, slot_name, initializer)

        def variables(self):
            return self._optimizer.variables()

        @property
        def weights(self):
            return self._optimizer.weights

        def get_weights(self):
            return self._optimizer.get_weights()

        def set_weights(self, weights):
            return self._optimizer.set_weights(weights)

        def _create_all_weights(self, var_list):
            self._optimizer._create_all_weights(var_list)

        def _create_slots(self, var_list):
            self._optimizer._create_slots(var_list)

        def _restore_slot_variable(self, slot_name, variable, slot_variable):
            self._optimizer._restore_slot_variable(
                slot_name, variable, slot_variable
            )

        def _create_or_restore_slot_variable(
            self, slot_variable_position, slot_name, variable
        ):
            self._optimizer._create_or_restore_slot_variable(
                slot_variable_position, slot_name, variable
            )

        def get_config(self):
            return {"optimizer": _serialized(self._optimizer)}

        @classmethod
        def from_config(cls, config, custom_objects=None):
            return cls(_deserialized(base, config["optimizer"]))

    return Delegating(base.Adagrad(0.05))


def swapping_averages(base):
    """A wrapper that runs all of the inner optimizer's step, then averages."""

    class Swapping(base.Optimizer):
        def __init__(self, optimizer, decay, name="Swapping", **kwargs):
            super().__init__(name, **kwargs)
            self._optimizer, self._decay = optimizer, decay
            self._track_trackable(optimizer, "base_optimizer")
            self._averaged = None

        def shadow(self, variables):
            self._averaged = list(variables)
            for var in self._averaged:
                self.add_slot(var, "average", initializer="zeros")

        def _create_slots(self, var_list):
            self._optimizer._create_slots(var_list=var_list)

        def _create_hypers(self):
            self._optimizer._create_hypers()

        def _prepare(self, var_list):
            return self._optimizer._prepare(var_list=var_list)

        def apply_gradients(self, grads_and_vars, name=None):
            pairs = list(grads_and_vars)
            if self._averaged is None:
                with tf.init_scope():
                    self.shadow(v for _, v in pairs)
            result = self._optimizer.apply_gradients(pairs, name)
            self.update()
            return result

        @tf.function
        def update(self):
            step = tf.cast(self.iterations, tf.float32)
            decay = tf.minimum(self._decay, (1.0 + step) / (10.0 + step))
            for var in self._averaged:
                average = self.get_slot(var, "average")
                average.assign_sub((1.0 - decay) * (average - var))

        def swap(self):
            for var in self._averaged:
                average = self.get_slot(var, "average")
                value = var.read_value()
                var.assign(average)
                average.assign(value)

        @property
        def iterations(self):
            return self._optimizer.iterations

        @iterations.setter
        def iterations(self, variable):
            self._optimizer.iterations = variable

        @property
        def weights(self):
            return self._weights + self._optimizer.weights

        @property
        def lr(self):
            return self._optimizer._get_hyper("learning_rate")

        @lr.setter
        def lr(self, value):
            self._optimizer._set_hyper("learning_rate", value)

        learning_rate = lr

        def get_config(self):
            return {
                **super().get_config(),
                "optimizer": _serialized(self._optimizer),
                "decay": self._decay,
            }

        @classmethod
        def from_config(cls, config, custom_objects=None):
            config = dict(config)
            inner = _deserialized(base, config.pop("optimizer"))
            return cls(inner, **config)

    return Swapping(base.SGD(0.05, momentum=0.9), decay=0.9)


def _several(base, **methods):
    """The part that optimizers of several optimizers have in common."""

    class Several(base.Optimizer):
        def __init__(self, optimizers, name="Several", **kwargs):
            super().__init__(name, **kwargs)
            self.optimizers_of_parts = optimizers
            for i, optimizer in enumerate(optimizers):
                self._track_trackable(optimizer, f"optimizer_{i}")

        @property
        def iterations(self):
            return self.optimizers_of_parts[0].iterations

        @iterations.setter
        def iterations(self, variable):
            for optimizer in self.optimizers_of_parts:
                optimizer.iterations = variable

        @property
        def weights(self):
            return [w for o in self.optimizers_of_parts for w in o.weights]

        def variables(self):
            return self.weights

        def get_config(self):
            raise NotImplementedError

    return type("Several", (Several,), methods)


def several_by_reference(base):
    """Several optimizers; the variables of each are known by `.ref()`."""

    def apply_gradients(
        self, grads_and_vars, name=None, experimental_aggregate_gradients=True
    ):
        pairs = list(grads_and_vars)
        if not self.owners:
            for i, (_, var) in enumerate(pairs):
                self.owners[var.ref()] = i % 2
        for i, optimizer in enumerate(self.optimizers_of_parts):
            part = [(g, v) for g, v in pairs if self.owners[v.ref()] == i]
            optimizer.apply_gradients(
                part,
                name=name,
                experimental_aggregate_gradients=(
                    experimental_aggregate_gradients
                ),
            )

    optimizer = _several(base, apply_gradients=apply_gradients)(
        [base.Ftrl(0.05), base.Adam(0.05)]
    )
    optimizer.owners = {}
    return optimizer


def several_by_name(base):
    """Several optimizers; each takes variables by name, all in one group."""

    def apply_gradients(self, grads_and_vars, name=None, **kwargs):
        parts = {optimizer: [] for optimizer in self.optimizers_of_parts}
        first, second = parts
        for grad, var in grads_and_vars:
            is_table = "embedding" in var.name
            parts[first if is_table else second].append((grad, var))
        return tf.group(
            [
                optimizer.apply_gradients(part, **kwargs)
                for optimizer, part in parts.items()
            ]
        )

    cls = _several(base, apply_gradients=apply_gradients)
    return cls([base.SGD(0.05, momentum=0.9), base.Adamax(0.05)])


def class_of_a_given_class(base):
    """An instance whose class becomes one made of the class that it had."""
    optimizer = base.Adam(0.05)

    def _aggregate_gradients(self, grads_and_vars):
        pairs = super(cls, self)._aggregate_gradients(grads_and_vars)
        return [(_times(g, 2.0), v) for g, v in pairs]

    cls = type(
        "Doubled" + type(optimizer).__name__,
        (type(optimizer),),
        {
            "_HAS_AGGREGATE_GRAD": True,
            "_aggregate_gradients": _aggregate_gradients,
        },
    )
    optimizer.__class__ = cls
    return optimizer


def patched_instance(base):
    """Methods that are replaced on the instance: centralized gradients."""
    optimizer = base.SGD(0.05, momentum=0.9)
    compute = optimizer._compute_gradients

    def centralized(gradient):
        if isinstance(gradient, tf.IndexedSlices) or gradient.shape.rank < 2:
            return gradient
        return gradient - tf.reduce_mean(gradient, axis=0, keepdims=True)

    def compute_centralized(self, *args, **kwargs):
        return [(centralized(g), v) for g, v in compute(*args, **kwargs)]

    def doubled(self, grad, var, apply_state=None):
        return update(grad * 2, var, apply_state)

    optimizer._compute_gradients = types.MethodType(
        compute_centralized, optimizer
    )
    update = optimizer._resource_apply_dense
    optimizer._resource_apply_dense = types.MethodType(doubled, optimizer)
    return optimizer


def hyperparameters_of_all_kinds(base):
    """A bool, an int, a callable and a schedule among the hyperparameters."""

    class OfAllKinds(base.Optimizer):
        def __init__(
            self,
            learning_rate,
            flag=True,
            period=2,
            scale=1.0,
            name="OfAllKinds",
            **kwargs,
        ):
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", learning_rate)
            self._set_hyper("decay", self._initial_decay)
            self._set_hyper("flag", flag)
            self._set_hyper("period", period)
            self._set_hyper("scale", scale)

        def _step(self, grad, var):
            dtype = var.dtype.base_dtype
            turn = self.iterations % self._get_hyper("period", tf.int64)
            scale = tf.where(
                tf.logical_and(self._get_hyper("flag", tf.bool), turn == 0),
                self._get_hyper("scale", dtype),
                tf.ones([], dtype),
            )
            return self._decayed_lr(dtype) * scale * grad

        def _resource_apply_dense(self, grad, var, apply_state=None):
            return var.assign_sub(self._step(grad, var))

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            return self._resource_scatter_add(
                var, indices, -self._step(grad, var)
            )

        def get_config(self):
            names = "learning_rate", "decay", "flag", "period", "scale"
            return {
                **super().get_config(),
                **{n: self._serialize_hyperparameter(n) for n in names},
            }

    return OfAllKinds(0.05, scale=lambda: 0.25, decay=0.1)


def other_slots(base):
    """Slots of other shapes, from values, and counters of another dtype."""

    class OtherSlots(base.Adam):
        def _create_slots(self, var_list):
            super()._create_slots(var_list)
            for var in var_list:
                rows, columns = var.shape[:1], var.shape[1:]
                self.add_slot(var, "norm", "ones", shape=[])
                self.add_slot(var, "row", "zeros", shape=rows)
                self.add_slot(
                    var,
                    "column",
                    tf.ones(columns, var.dtype) / 4,
                    shape=columns,
                )
                self.add_slot(var, "start", var)
            if not hasattr(self, "_counter"):
                self._counter = self.add_weight(
                    "counter", shape=[2], dtype=tf.int64, trainable=False
                )
                self._weights.append(self._counter)

        def _resource_apply_dense(self, grad, var, apply_state=None):
            norm = self.get_slot(var, "norm")
            row = self.get_slot(var, "row")
            others = tuple(range(1, grad.shape.rank))
            updates = [
                norm.assign(0.5 * norm + tf.norm(grad)),
                row.assign_add(tf.reduce_sum(grad**2, axis=others)),
                self.get_slot(var, "column").assign_add(
                    tf.reduce_mean(grad, axis=0)
                ),
                self._counter.assign_add([1, 0]),
            ]
            pull = 0.1 * (var - self.get_slot(var, "start"))
            with tf.control_dependencies(updates):
                return super()._resource_apply_dense(
                    grad / norm + pull, var, apply_state
                )

        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            norm = tf.norm(grad)
            updates = [
                self.get_slot(var, "norm").assign(norm),
                self._resource_scatter_update(
                    self.get_slot(var, "row"),
                    indices,
                    tf.reduce_sum(grad**2, axis=1),
                ),
                self._counter.assign_add([0, 1]),
            ]
            with tf.control_dependencies(updates):
                return super()._resource_apply_sparse(
                    grad / norm, var, indices, apply_state
                )

    return OtherSlots(0.05)


def tracked_state(base):
    """State in objects of other kinds, which checkpoints are to hold."""

    class Noise(tf.Module):
        def __init__(self):
            super().__init__()
            self.level = tf.Variable(0.5, trainable=False, name="level")

    class TrackedState(base.SGD):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self._noise = Noise()
            self._track_trackable(self._noise, "noise")
            self.total = tf.Variable(0.0, trainable=False, name="total")

        def _transform_gradients(self, grads_and_vars):
            pairs = super()._transform_gradients(grads_and_vars)
            self._noise.level.assign(self._noise.level * 0.75)
            self.total.assign_add(self._noise.level)
            return [(_times(g, self._noise.level), v) for g, v in pairs]

    return TrackedState(0.05, momentum=0.9)


def own_aggregation(base):
    """Gradients that the optimizer gathers itself, as between machines."""

    class OwnAggregation(base.Adam):
        _HAS_AGGREGATE_GRAD = True

        def _aggregate_gradients(self, grads_and_vars):
            dense = [
                (tf.convert_to_tensor(g), v)
                for g, v in super()._aggregate_gradients(grads_and_vars)
            ]
            grads, variables = zip(*dense, strict=True)
            grads, _ = tf.clip_by_global_norm(grads, 0.5)
            return list(zip(grads, variables, strict=True))

    return OwnAggregation(0.05)


def private_gradients(base):
    """Gradients of parts of a batch, clipped one by one, and accumulated."""

    def make(cls):
        class Private(cls):
            def __init__(self, clip, every, *args, **kwargs):
                super().__init__(*args, **kwargs)
                self.clip, self.every = clip, every
                self._has_computed = False

            def _create_slots(self, var_list):
                super()._create_slots(var_list)
                for var in var_list:
                    self.add_slot(var, "sum")

            def _prepare_local(self, var_device, var_dtype, apply_state):
                super()._prepare_local(var_device, var_dtype, apply_state)
                apply_state[var_device, var_dtype]["is_due"] = tf.equal(
                    tf.math.floormod(self.iterations + 1, self.every), 0
                )

            def _compute_gradients(
                self, loss, var_list, grad_loss=None, tape=None
            ):
                self._has_computed = True
                tape = tape or tf.GradientTape()
                with tape:
                    if callable(loss):
                        loss = loss()
                    parts = tf.reshape(loss, [1, -1])
                    if callable(var_list):
                        var_list = var_list()
                with tf.name_scope(self._name + "/gradients"):
                    jacobians = tape.jacobian(
                        parts, var_list, unconnected_gradients="zero"
                    )
                grads = [tf.reduce_mean(j, [0, 1]) for j in jacobians]
                grads, _ = tf.clip_by_global_norm(grads, self.clip)
                return list(zip(grads, var_list, strict=True))

            def get_gradients(self, loss, params):
                self._has_computed = True
                grads = [
                    tf.convert_to_tensor(g)
                    for g in super().get_gradients(loss, params)
                ]
                return tf.clip_by_global_norm(grads, self.clip)[0]

            def get_config(self):
                config = super().get_config()
                return {**config, "clip": self.clip, "every": self.every}

            def apply_gradients(self, *args, **kwargs):
                assert self._has_computed
                return super().apply_gradients(*args, **kwargs)

            def _resource_apply_dense(self, grad, var, apply_state=None):
                key = var.device, var.dtype.base_dtype
                c = (apply_state or {}).get(key)
                c = c or self._fallback_apply_state(*key)
                total = self.get_slot(var, "sum")
                update = super()._resource_apply_dense

                def apply():
                    updated = update(total + grad, var, apply_state)
                    with tf.control_dependencies([updated]):
                        return total.assign(
                            tf.zeros_like(total), read_value=False
                        )

                return tf.cond(
                    c["is_due"],
                    apply,
                    lambda: total.assign_add(grad, read_value=False),
                )

        return Private

    return make(base.Adam)(0.5, 2, learning_rate=0.05)


def sharpness_aware(base):
    """An `apply_gradients` that moves the variables, then looks again."""

    class SharpnessAware(base.SGD):
        def minimize(self, loss, var_list, *args, **kwargs):
            variables = var_list() if callable(var_list) else var_list
            pairs = self._compute_gradients(loss, variables, *args, **kwargs)
            moves = []
            for grad, var in pairs:
                move = 0.05 * tf.convert_to_tensor(grad)
                var.assign_add(move)
                moves.append(move)
            pairs = self._compute_gradients(loss, variables, *args, **kwargs)
            for move, var in zip(moves, variables, strict=True):
                var.assign_sub(move)
            return self.apply_gradients(pairs)

        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            pairs = [(g, v) for g, v in grads_and_vars if g is not None]
            clipped = [(tf.clip_by_norm(g, 0.5), v) for g, v in pairs]
            return super().apply_gradients(clipped, name=name, **kwargs)

    return SharpnessAware(0.05, momentum=0.9, nesterov=True)


def accumulating(base):
    """Updates every other step: a condition in each update and its slots."""

    class Accumulating(base.Adam):
        def __init__(self, *args, accumulation_steps=2, **kwargs):
            super().__init__(*args, **kwargs)
            self._set_hyper("accumulation_steps", accumulation_steps)

        def _create_slots(self, var_list):
            super()._create_slots(var_list)
            for var in var_list:
                self.add_slot(var, "accumulated")

        def _resource_apply_dense(self, grad, var, apply_state=None):
            steps = self._get_hyper("accumulation_steps", tf.int64)
            is_due = tf.equal((self.iterations + 1) % steps, 0)
            total = self.get_slot(var, "accumulated")
            with tf.control_dependencies([total.assign_add(grad)]):
                mean = tf.where(
                    is_due, total / tf.cast(steps, total.dtype), 0.0
                )
                updated = super()._resource_apply_dense(mean, var, apply_state)
                with tf.control_dependencies([updated]):
                    return total.assign(tf.where(is_due, 0.0, total))

        def _resource_apply_sparse_duplicate_indices(
            self, grad, var, indices, **kwargs
        ):
            dense = tf.zeros_like(var)
            dense = tf.tensor_scatter_nd_add(dense, indices[:, None], grad)
            return self._resource_apply_dense(dense, var, **kwargs)

        def get_config(self):
            return {
                **super().get_config(),
                "accumulation_steps": self._serialize_hyperparameter(
                    "accumulation_steps"
                ),
            }

    return Accumulating(0.05)


KIT = (
    extra_entries_of_the_state,
    updates_in_functions,
    decay_by_patterns,
    decay_of_listed_variables,
    delegating_wrapper,
    swapping_averages,
    several_by_reference,
    several_by_name,
    class_of_a_given_class,
    patched_instance,
    hyperparameters_of_all_kinds,
    other_slots,
    tracked_state,
    own_aggregation,
    private_gradients,
    sharpness_aware,
    accumulating,
)
