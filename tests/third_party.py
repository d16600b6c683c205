"""Test doubles of the optimizers that others built on the legacy ones.

Each function takes the module that provides `Optimizer`, `Adam`, ... and makes
the class on it, so that the same source runs on this package and on
`tf_keras.optimizers.legacy`, and both can be compared.  They override what such
packages override, in the way they do.
"""

import tensorflow as tf


def lazy_adam(base):
    """Adam that leaves the rows without a gradient alone."""

    class LazyAdam(base.Adam):
        def _resource_apply_sparse(self, grad, var, indices, apply_state=None):
            key = (var.device, var.dtype.base_dtype)
            c = (apply_state or {}).get(key)
            c = c or self._fallback_apply_state(*key)
            m, v = self.get_slot(var, "m"), self.get_slot(var, "v")
            m_rows = (
                c["beta_1_t"] * tf.gather(m, indices)
                + c["one_minus_beta_1_t"] * grad
            )
            v_rows = c["beta_2_t"] * tf.gather(v, indices) + c[
                "one_minus_beta_2_t"
            ] * tf.square(grad)
            step = c["lr"] * m_rows / (tf.sqrt(v_rows) + c["epsilon"])
            return tf.group(
                self._resource_scatter_update(m, indices, m_rows),
                self._resource_scatter_update(v, indices, v_rows),
                self._resource_scatter_add(var, indices, -step),
            )

    return LazyAdam


def adam_weight_decay(base):
    """Adam as language models are pre-trained with.

    Clips all gradients together and decays variables, but no biases, before the
    update.
    """

    class AdamWeightDecay(base.Adam):
        def __init__(
            self,
            learning_rate=0.001,
            weight_decay_rate=0.0,
            exclude_from_weight_decay=(),
            name="AdamWeightDecay",
            **kwargs,
        ):
            super().__init__(learning_rate, name=name, **kwargs)
            self.weight_decay_rate = weight_decay_rate
            self._exclude = list(exclude_from_weight_decay)

        def get_config(self):
            config = super().get_config()
            config["weight_decay_rate"] = self.weight_decay_rate
            config["exclude_from_weight_decay"] = self._exclude
            return config

        def _prepare_local(self, var_device, var_dtype, apply_state):
            super()._prepare_local(var_device, var_dtype, apply_state)
            apply_state[var_device, var_dtype]["weight_decay_rate"] = (
                tf.constant(self.weight_decay_rate, var_dtype)
            )

        def apply_gradients(
            self,
            grads_and_vars,
            name=None,
            experimental_aggregate_gradients=True,
        ):
            gradients, variables = zip(*grads_and_vars, strict=True)
            gradients, _ = tf.clip_by_global_norm(gradients, clip_norm=1.0)
            return super().apply_gradients(
                zip(gradients, variables, strict=True),
                name=name,
                experimental_aggregate_gradients=(
                    experimental_aggregate_gradients
                ),
            )

        def _decay(self, var, apply_state):
            if any(part in var.name for part in self._exclude):
                return tf.no_op()
            c = apply_state[var.device, var.dtype.base_dtype]
            return var.assign_sub(
                c["lr_t"] * var * c["weight_decay_rate"],
                use_locking=self._use_locking,
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

    return AdamWeightDecay


def decoupled_weight_decay(base):
    """SGDW: a mixin whose hyperparameter decays every variable it updates."""

    class DecoupledWeightDecay:
        def __init__(self, weight_decay, **kwargs):
            super().__init__(**kwargs)
            self._set_hyper("weight_decay", weight_decay)

        def get_config(self):
            config = super().get_config()
            config["weight_decay"] = self._serialize_hyperparameter(
                "weight_decay"
            )
            return config

        def _shrink(self, var):
            rate = self._get_hyper("weight_decay", var.dtype)
            return var.assign_sub(rate * var, use_locking=self._use_locking)

        def _resource_apply_dense(self, grad, var, **kwargs):
            with tf.control_dependencies([self._shrink(var)]):
                return super()._resource_apply_dense(grad, var, **kwargs)

        def _resource_apply_sparse(self, grad, var, indices, **kwargs):
            with tf.control_dependencies([self._shrink(var)]):
                return super()._resource_apply_sparse(
                    grad, var, indices, **kwargs
                )

    class SGDW(DecoupledWeightDecay, base.SGD):
        def __init__(self, weight_decay, name="SGDW", **kwargs):
            super().__init__(weight_decay, name=name, **kwargs)

    return SGDW


def lookahead(base):
    """A wrapper that every few steps goes half the way back.

    It owns slots of its own and lets an inner optimizer do the updates.
    """

    class Lookahead(base.Optimizer):
        def __init__(
            self, optimizer, sync_period=3, name="Lookahead", **kwargs
        ):
            super().__init__(name, **kwargs)
            if not isinstance(optimizer, base.Optimizer):
                raise TypeError("optimizer is not an Optimizer")
            self._optimizer = optimizer
            self._set_hyper("sync_period", sync_period)
            self._track_trackable(optimizer, "wrapped_optimizer")

        @property
        def weights(self):
            return self._weights + self._optimizer.weights

        def _create_slots(self, var_list):
            self._optimizer._create_slots(var_list=var_list)
            for var in var_list:
                self.add_slot(var, "slow", initializer=var)

        def _create_hypers(self):
            super()._create_hypers()
            self._optimizer._create_hypers()

        def _prepare(self, var_list):
            return self._optimizer._prepare(var_list=var_list)

        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            self._optimizer._iterations = self.iterations
            return super().apply_gradients(grads_and_vars, name, **kwargs)

        def _look_back(self, var):
            slow = self.get_slot(var, "slow")
            period = self._get_hyper("sync_period", tf.int64)
            synchronize = tf.equal((self.iterations + 1) % period, 0)
            middle = slow + (var - slow) / 2
            new_slow = tf.where(synchronize, middle, slow)
            new_var = tf.where(synchronize, middle, var)
            with tf.control_dependencies([new_slow, new_var]):
                return tf.group(
                    slow.assign(new_slow, use_locking=self._use_locking),
                    var.assign(new_var, use_locking=self._use_locking),
                )

        def _resource_apply_dense(self, grad, var):
            train_op = self._optimizer._resource_apply_dense(grad, var)
            with tf.control_dependencies([train_op]):
                return self._look_back(var)

        def _resource_apply_sparse(self, grad, var, indices):
            train_op = self._optimizer._resource_apply_sparse(
                grad, var, indices
            )
            with tf.control_dependencies([train_op]):
                return self._look_back(var)

        def get_config(self):
            return {
                **super().get_config(),
                "optimizer": self._optimizer,
                "sync_period": self._serialize_hyperparameter("sync_period"),
            }

    class LookaheadAdam(Lookahead):
        """Lookahead with a fixed inner optimizer, to be made by numbers."""

        def __init__(self, learning_rate=0.001, **kwargs):
            super().__init__(base.Adam(learning_rate), **kwargs)

    return LookaheadAdam


def moving_average(base):
    """A wrapper that keeps averages of the variables it trains.

    It calls only some methods of the optimizer that it holds, whose weights it
    counts among its own.
    """

    class MovingAverage(base.Optimizer):
        def __init__(self, optimizer, name="MovingAverage", **kwargs):
            super().__init__(name, **kwargs)
            self._optimizer = optimizer
            self._track_trackable(optimizer, "averaged_optimizer")

        @property
        def weights(self):
            return self._weights + self._optimizer.weights

        def _create_slots(self, var_list):
            self._optimizer._create_slots(var_list=var_list)
            for var in var_list:
                self.add_slot(var, "average", initializer=var)

        def _create_hypers(self):
            self._optimizer._create_hypers()

        def _prepare_local(self, var_device, var_dtype, apply_state):
            return self._optimizer._prepare_local(
                var_device, var_dtype, apply_state
            )

        def apply_gradients(self, grads_and_vars, name=None, **kwargs):
            self._optimizer._iterations = self.iterations
            return super().apply_gradients(grads_and_vars, name, **kwargs)

        def _average(self, train_op, var):
            average = self.get_slot(var, "average")
            with tf.control_dependencies([train_op]):
                return average.assign(
                    0.9 * average + 0.1 * var, use_locking=self._use_locking
                )

        def _resource_apply_dense(self, grad, var, apply_state=None):
            return self._average(
                self._optimizer._resource_apply_dense(
                    grad, var, apply_state=apply_state
                ),
                var,
            )

        def get_config(self):
            return {
                **super().get_config(),
                "optimizer": base.serialize(self._optimizer),
            }

        @classmethod
        def from_config(cls, config, custom_objects=None):
            config = dict(config)
            optimizer = base.deserialize(config.pop("optimizer"))
            return cls(optimizer, **config)

    return MovingAverage


def sign_momentum(base):
    """A small optimizer of one's own; its methods know no `apply_state`."""

    class SignMomentum(base.Optimizer):
        def __init__(
            self, learning_rate=0.01, beta=0.9, name="SignMomentum", **kwargs
        ):
            super().__init__(name, **kwargs)
            self._set_hyper("learning_rate", kwargs.get("lr", learning_rate))
            self._set_hyper("beta", beta)

        def _create_slots(self, var_list):
            for var in var_list:
                self.add_slot(var, "average", initializer="ones")

        def _resource_apply_dense(self, grad, var):
            beta = self._get_hyper("beta", var.dtype)
            average = self.get_slot(var, "average")
            new = average.assign(
                beta * average + (1 - beta) * grad, read_value=True
            )
            return var.assign_sub(self._decayed_lr(var.dtype) * tf.sign(new))

        def _resource_apply_sparse(self, grad, var, indices):
            beta = self._get_hyper("beta", var.dtype)
            average = self.get_slot(var, "average")
            rows = beta * tf.gather(average, indices) + (1 - beta) * grad
            step = self._decayed_lr(var.dtype) * tf.sign(rows)
            return tf.group(
                self._resource_scatter_update(average, indices, rows),
                self._resource_scatter_add(var, indices, -step),
            )

        def get_config(self):
            return {
                **super().get_config(),
                "learning_rate": self._serialize_hyperparameter(
                    "learning_rate"
                ),
                "beta": self._serialize_hyperparameter("beta"),
                "decay": self._initial_decay,
            }

    return SignMomentum


def averaging_workers(base):
    """A wrapper class made at run time around the class of an optimizer.

    It aggregates gradients itself: as if a second worker had found others.
    """

    class _AveragingWorkers(base.Optimizer):
        _HAS_AGGREGATE_GRAD = True

        def _aggregate_gradients(self, grads_and_vars):
            def average(gradient):
                if isinstance(gradient, tf.IndexedSlices):
                    # Of the other worker come the same rows in reverse.
                    return tf.IndexedSlices(
                        tf.concat([gradient.values, gradient.values], 0) / 2,
                        tf.concat(
                            [gradient.indices, gradient.indices[::-1]], 0
                        ),
                        gradient.dense_shape,
                    )
                return (gradient + gradient * 3) / 2

            return [(average(g), v) for g, v in grads_and_vars]

    def distributed_optimizer(optimizer):
        cls = type(
            type(optimizer).__name__,
            (type(optimizer),),
            dict(_AveragingWorkers.__dict__),
        )
        return cls.from_config(optimizer.get_config())

    def distributed_adam(**kwargs):
        return distributed_optimizer(base.Adam(**kwargs))

    return distributed_adam
