#!/usr/bin/env python3
"""Record golden artefacts of tensorflow_addons' optimizers and wrappers.

    python make_addons_golden.py OUTPUT_DIR [--cases NAME,NAME]

Run it with tensorflow_addons 0.23 and the TensorFlow that it wants, 2.15: its
classes extend `tf.keras.optimizers.legacy`.  As in make_golden.py, whose helpers
these are, every case has

* a *raw* run: ``apply_gradients`` with fixed gradients on two variables, one of
  which gets ``tf.IndexedSlices`` with repeated indices; a checkpoint half-way;
* a *model* run: ``train_on_batch`` on a tiny model, saved as HDF5 after
  ``MODEL_SAVED_AT`` steps.

What is written where is told in README.md beside this file.
"""
import argparse
import collections
import os
import platform
import shutil

import make_golden as golden  # First: it chooses the devices.
import numpy as np
import tensorflow as tf
import tensorflow_addons as tfa

keras = tf.keras
Schedule = golden.Schedule
# An optimizer inside a wrapper.
Inner = collections.namedtuple("Inner", "class_name kwargs")
# is_sparse: whether the original takes sparse gradients with these arguments, and
# does to them what it says.
Case = collections.namedtuple("Case", "name class_name kwargs is_sparse")

RAW_STEPS, RAW_SAVED_AT = 6, 3
MODEL_STEPS, MODEL_SAVED_AT = 6, 2

SGD = Inner("SGD", dict(learning_rate=0.1))
MOMENTUM = Inner("SGD", dict(learning_rate=0.1, momentum=0.9))
ADAM = Inner("Adam", dict(learning_rate=0.02))
# With the default beta_2, the length of the average is all rounding errors.
RECTIFIED = dict(learning_rate=0.02, beta_2=0.9, sma_threshold=4.5)
WARM_UP = dict(total_steps=5, warmup_proportion=0.4, min_lr=1e-3, weight_decay=0.1,
               amsgrad=True)
EXPONENTIAL = Schedule("ExponentialDecay", dict(
    initial_learning_rate=0.02, decay_steps=3, decay_rate=0.5))
PIECEWISE = Schedule("PiecewiseConstantDecay", dict(
    boundaries=[1, 4], values=[0.3, 0.2, 0.05]))

CASES = [Case(*row) for row in [
    ("lazy_adam", "LazyAdam", {}, True),
    ("lazy_adam_tuned", "LazyAdam", dict(
        learning_rate=EXPONENTIAL, beta_1=0.8, beta_2=0.95, epsilon=1e-3,
        clipnorm=0.5), True),
    ("adamw", "AdamW", dict(weight_decay=0.01), True),
    ("adamw_excluding", "AdamW", dict(
        weight_decay=PIECEWISE, learning_rate=0.02, amsgrad=True,
        exclude_from_weight_decay=["dense", "bias"]), True),
    # Without momentum, it forgets the decay where gradients are sparse.
    ("sgdw", "SGDW", dict(weight_decay=0.01), False),
    ("sgdw_nesterov", "SGDW", dict(
        weight_decay=0.05, learning_rate=0.1, momentum=0.9, nesterov=True), True),
    ("lamb", "LAMB", {}, True),
    ("lamb_excluding", "LAMB", dict(
        learning_rate=0.02, weight_decay=0.1, beta_2=0.9,
        exclude_from_weight_decay=["bias"],
        exclude_from_layer_adaptation=["dense"]), True),
    ("rectified_adam", "RectifiedAdam", {}, True),
    ("rectified_adam_tuned", "RectifiedAdam", RECTIFIED, True),
    ("rectified_adam_warm_up", "RectifiedAdam", dict(RECTIFIED, **WARM_UP), True),
    ("novograd", "NovoGrad", {}, True),
    ("novograd_tuned", "NovoGrad", dict(
        learning_rate=0.02, beta_2=0.9, weight_decay=0.1, grad_averaging=True), True),
    ("novograd_amsgrad", "NovoGrad", dict(learning_rate=0.02, amsgrad=True), False),
    ("yogi", "Yogi", {}, True),
    ("yogi_penalties", "Yogi", dict(
        learning_rate=0.02, beta1=0.0, l1_regularization_strength=0.2,
        l2_regularization_strength=0.3), True),
    ("yogi_tanh", "Yogi", dict(
        learning_rate=0.02, beta2=0.9, activation="tanh",
        l2_regularization_strength=0.3), True),
    ("adabelief", "AdaBelief", {}, True),
    ("adabelief_tuned", "AdaBelief", RECTIFIED, True),
    ("adabelief_warm_up", "AdaBelief", dict(
        RECTIFIED, rectify=False, epsilon=1e-5, **WARM_UP), True),
    ("cocob", "COCOB", {}, False),
    ("cocob_tuned", "COCOB", dict(alpha=2.5), False),
    ("conditional_gradient", "ConditionalGradient", dict(learning_rate=0.9), True),
    ("conditional_gradient_nuclear", "ConditionalGradient", dict(
        learning_rate=0.9, lambda_=0.5, ord="nuclear"), True),
    ("proximal_adagrad", "ProximalAdagrad", {}, True),
    ("proximal_adagrad_penalties", "ProximalAdagrad", dict(
        learning_rate=0.1, initial_accumulator_value=0.3,
        l1_regularization_strength=0.2, l2_regularization_strength=0.3), True),
    ("lookahead", "Lookahead", dict(optimizer=MOMENTUM, sync_period=2), True),
    ("lookahead_adam", "Lookahead", dict(
        optimizer=ADAM, sync_period=3, slow_step_size=0.7), True),
    ("ranger", "Lookahead", dict(
        optimizer=Inner("RectifiedAdam", RECTIFIED), sync_period=2), True),
    ("moving_average", "MovingAverage", dict(
        optimizer=ADAM, average_decay=0.9), True),
    ("moving_average_dynamic", "MovingAverage", dict(
        optimizer=MOMENTUM, average_decay=0.9, start_step=2, dynamic_decay=True),
     True),
    ("swa", "SWA", dict(optimizer=SGD, start_averaging=1, average_period=2), True),
    # Raw runs have no layers.
    ("multi_optimizer", "MultiOptimizer", dict(emb=ADAM, out=MOMENTUM), True),
]]


def make_data():
    """Smaller than make_golden's, for more state."""
    random = np.random.RandomState(3)
    data = collections.OrderedDict()
    for i, shape in enumerate([(5, 2), (4, 2), (2,)]):
        data["model_%d" % i] = random.uniform(-0.8, 0.8, shape)
    data["x"] = random.randint(0, 5, (MODEL_STEPS, 4, 2))
    data["y"] = random.uniform(-1, 1, (MODEL_STEPS, 4, 2))
    data["dense"] = random.uniform(-1, 1, (3, 2))
    data["sparse"] = random.uniform(-1, 1, (5, 2))
    data["dense_grad"] = random.normal(0, 0.3, (RAW_STEPS, 3, 2))
    data["sparse_grad_values"] = random.normal(0, 0.3, (RAW_STEPS, 3, 2))
    # Repeated rows, rows left out, and one that comes late.
    data["sparse_grad_indices"] = np.array(
        [[0, 2, 2], [1, 1, 1], [2, 0, 1], [3, 2, 0], [4, 2, 4], [0, 4, 3]])
    return {
        key: value.astype(np.int32 if value.dtype.kind == "i" else np.float32)
        for key, value in data.items()}


def build_model():
    tokens = keras.layers.Input(shape=(2,), dtype="int32", name="tokens")
    h = keras.layers.Embedding(5, 2, name="emb")(tokens)
    h = keras.layers.Flatten(name="flat")(h)
    h = keras.layers.Dense(2, name="out")(h)
    return keras.Model(tokens, h, name="golden")


def made(value):
    """An argument of a constructor."""
    if isinstance(value, Schedule):
        return golden.schedule_class(value.class_name)(**value.kwargs)
    if isinstance(value, Inner):
        return make_optimizer(value.class_name, value.kwargs)
    return value


def written(value):
    """An argument as JSON; a schedule is written by make_golden."""
    if isinstance(value, Inner):
        return {"class_name": value.class_name, "kwargs": value.kwargs}
    return value


def make_optimizer(class_name, kwargs, model=None):
    kwargs = {key: made(value) for key, value in kwargs.items()}
    if class_name == "MultiOptimizer":
        return tfa.optimizers.MultiOptimizer(
            [(optimizer, model.get_layer(layer)) for layer, optimizer in kwargs.items()])
    module = tfa.optimizers
    if class_name in ("SGD", "Adam"):  # Those of tfa.optimizers are others.
        module = keras.optimizers.legacy
    return getattr(module, class_name)(**kwargs)


def state(optimizer, variables):
    """{path: value}, of all slots: those of what is wrapped below "inner"."""
    values = collections.OrderedDict()
    for label, variable in variables.items():
        for slot in optimizer.get_slot_names():
            values["%s/%s" % (label, slot)] = optimizer.get_slot(variable, slot).numpy()
    inner = getattr(optimizer, "_optimizer", None)
    if inner is not None:
        for key, value in state(inner, variables).items():
            values["inner/" + key] = value
    return values


def stacked(path, records):
    np.savez(path, **{key: np.stack([record[key] for record in records])
                      for key in records[0]})


def run_raw(case, data, folder, info):
    golden.fresh_graph()
    optimizer = make_optimizer(case.class_name, case.kwargs)
    info["before_training"] = described(optimizer)
    variables = {name: tf.Variable(data[name], name=name)
                 for name in ("dense", "sparse")}
    records = []
    for step in range(RAW_STEPS):
        dense, values, indices = (
            tf.constant(data[name][step]) for name in
            ("dense_grad", "sparse_grad_values", "sparse_grad_indices"))
        slices = tf.IndexedSlices(values, indices, tf.constant([5, 2], tf.int64))
        if not case.is_sparse:
            slices = tf.convert_to_tensor(slices)
        optimizer.apply_gradients(
            [(dense, variables["dense"]), (slices, variables["sparse"])])
        records.append({
            **{name: variable.numpy() for name, variable in variables.items()},
            **state(optimizer, variables)})
        if step + 1 == RAW_SAVED_AT:
            prefix = os.path.join(folder, "ckpt", "raw")
            tf.train.Checkpoint(optimizer=optimizer, **variables).write(prefix)
    stacked(os.path.join(folder, "raw.npz"), records)
    if hasattr(optimizer, "assign_average_vars"):
        optimizer.assign_average_vars(list(variables.values()))
        np.savez(os.path.join(folder, "averaged.npz"),
                 **{name: variable.numpy() for name, variable in variables.items()})
    info["after_training"] = described(optimizer)


def described(optimizer):
    """Its configuration, and both formats of its serialization."""
    return collections.OrderedDict(
        get_config=optimizer.get_config(),
        serialize=keras.optimizers.serialize(optimizer),
        serialize_legacy=keras.optimizers.serialize(optimizer, use_legacy_format=True))


def run_model(case, data, folder, info):
    golden.fresh_graph()
    model = build_model()
    model.get_layer("emb").trainable = case.is_sparse
    optimizer = make_optimizer(case.class_name, case.kwargs, model)
    model.compile(optimizer, "mse")
    model.set_weights([data["model_%d" % i] for i in range(3)])
    records = []
    for step in range(MODEL_STEPS):
        model.train_on_batch(data["x"][step], data["y"][step])
        records.append({"model_%d" % i: value
                        for i, value in enumerate(model.get_weights())})
        if step + 1 == MODEL_SAVED_AT:
            info["optimizer_weights"] = [w.name for w in optimizer.weights]
            attempts = golden.Attempts()
            attempts.run("h5", lambda: model.save(os.path.join(folder, "model.h5")))
            attempts.run("model_ckpt", lambda: tf.train.Checkpoint(
                model=model, optimizer=optimizer).write(
                    os.path.join(folder, "model_ckpt", "model")))
            info["save_failures"] = attempts.failed
    stacked(os.path.join(folder, "model.npz"), records)


def classes_of(case):
    """The names of the class of a case, and of those that it wraps."""
    inner = [v.class_name for v in case.kwargs.values() if isinstance(v, Inner)]
    return [case.class_name, *inner]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("output")
    parser.add_argument("--cases", help="comma-separated; default: all")
    args = parser.parse_args()
    if os.path.exists(args.output):
        shutil.rmtree(args.output)
    os.makedirs(args.output)
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    data = make_data()
    np.savez(os.path.join(args.output, "data.npz"), **data)
    wanted = args.cases.split(",") if args.cases else None
    cases = [case for case in CASES if not wanted or case.name in wanted]
    for case in cases:
        folder = os.path.join(args.output, case.name)
        os.makedirs(folder)
        info = collections.OrderedDict(
            case=case.name, optimizer=case.class_name,
            kwargs={key: written(value) for key, value in case.kwargs.items()},
            is_sparse=case.is_sparse)
        if case.class_name != "MultiOptimizer":
            run_raw(case, data, folder, info)
        run_model(case, data, folder, info)
        golden.write_json(os.path.join(folder, "case.json"), info)
        print("%-30s %s" % (case.name, golden.jsonable(info["save_failures"]) or "ok"))
    golden.write_json(os.path.join(args.output, "manifest.json"), collections.OrderedDict(
        tensorflow=tf.__version__, tensorflow_addons=tfa.__version__,
        python=platform.python_version(), numpy=np.__version__,
        raw_steps=RAW_STEPS, raw_saved_at=RAW_SAVED_AT,
        model_steps=MODEL_STEPS, model_saved_at=MODEL_SAVED_AT,
        cases=collections.OrderedDict(
            (case.name, classes_of(case)) for case in cases)))


if __name__ == "__main__":
    main()
