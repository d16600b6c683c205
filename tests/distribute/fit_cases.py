"""What Keras 3's `fit` and its siblings can do, under any strategy in step.

Each case is a function of a strategy, an optimizer's class and a folder, and
returns what has to be the same on all workers, and under other strategies.
"""

import pathlib

import keras
import numpy as np
import tensorflow as tf

import keras_legacy_opt

BATCH = 8
CASES = {}


def case(function):
    CASES[function.__name__] = function
    return function


def data(examples=32):
    rng = np.random.default_rng(3)
    tokens = rng.integers(0, 12, (examples, 3)).astype("int32")
    labels = (tokens.sum(1, keepdims=True) > 16).astype("float32")
    return tokens, labels


def sharded(dataset, policy="DATA"):
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = getattr(
        tf.data.experimental.AutoShardPolicy, policy
    )
    # Its thread may end late, and what deletes the dataset waits for that.
    options.autotune.enabled = False
    return dataset.with_options(options)


def batches(examples=32):
    dataset = tf.data.Dataset.from_tensor_slices(data(examples))
    return sharded(dataset.batch(BATCH))


def layers(dtype=None):
    keras.utils.set_random_seed(4)
    return [
        keras.layers.Input((3,), dtype="int32"),
        keras.layers.Embedding(12, 4, dtype=dtype),
        keras.layers.Flatten(dtype=dtype),
        keras.layers.Dense(
            6, activation="tanh", kernel_regularizer="l2", dtype=dtype
        ),
        keras.layers.Dense(1, activation="sigmoid", dtype="float32"),
    ]


def compiled(
    strategy, optimizer, model=keras.Sequential, wrapper=None, dtype=None, **to
):
    with strategy.scope():
        to.setdefault("metrics", ["mae", keras.metrics.AUC(name="auc")])
        built = model(layers(dtype))
        optimizer = optimizer(0.05)
        built.compile(
            wrapper(optimizer) if wrapper else optimizer,
            "binary_crossentropy",
            **to,
        )
    return built


def found(model, history=None, **more):
    variables = model.optimizer.variables
    return {
        "history": history.history if history else {},
        "weights": model.get_weights(),
        "iterations": int(model.optimizer.iterations.numpy()),
        "optimizer": [np.array(tf.convert_to_tensor(v)) for v in variables],
        **more,
    }


def quiet(**more):
    return {"verbose": 0, "shuffle": False, **more}


@case
def datasets(strategy, optimizer, folder):
    model = compiled(strategy, optimizer)
    history = model.fit(
        batches(), validation_data=batches(), epochs=2, **quiet()
    )
    return found(
        model,
        history,
        evaluated=model.evaluate(batches(29), verbose=0),
        predicted=model.predict(batches(29), verbose=0),
    )


@case
def arrays(strategy, optimizer, folder):
    """With weights of classes, and validation that does not divide evenly."""
    model = compiled(
        strategy, optimizer, metrics=["mae"], weighted_metrics=["mse"]
    )
    tokens, labels = data()
    weights = np.linspace(0.5, 1.5, 32).astype("float32")
    first = model.fit(
        tokens,
        labels,
        batch_size=BATCH,
        class_weight={0: 1.0, 1: 3.0},
        validation_data=(tokens[:13], labels[:13], weights[:13]),
        **quiet(),
    )
    second = model.fit(
        tokens, labels, batch_size=BATCH, sample_weight=weights, **quiet()
    )
    return found(
        model,
        first,
        second=second.history,
        predicted=model.predict(tokens[:29], batch_size=BATCH, verbose=0),
    )


@case
def uneven_batches(strategy, optimizer, folder):
    """The last one has a single example: one replica has none."""
    model = compiled(strategy, optimizer)
    tokens, labels = data(25)
    history = model.fit(tokens, labels, batch_size=BATCH, epochs=2, **quiet())
    return found(model, history)


@case
def steps(strategy, optimizer, folder):
    """Of an endless dataset, and several of them to an execution."""
    model = compiled(strategy, optimizer, steps_per_execution=3)
    one = model.fit(batches().repeat(), steps_per_epoch=6, epochs=2, **quiet())
    other = model.fit(batches(), epochs=2, **quiet())
    return found(
        model,
        one,
        other=other.history,
        evaluated=model.evaluate(batches(), verbose=0),
        predicted=model.predict(batches(29), verbose=0),
    )


@case
def compiled_outside_of_the_scope(strategy, optimizer, folder):
    """The loss is that of all workers, and what looks at it acts alike."""
    with strategy.scope():
        model = keras.Sequential(layers())
    model.compile(optimizer(0.05), "binary_crossentropy", metrics=["mae"])
    plateau = keras.callbacks.ReduceLROnPlateau(
        "loss", min_delta=0.05, patience=1, factor=0.1
    )
    history = model.fit(
        batches(),
        validation_data=batches(),
        epochs=5,
        callbacks=[plateau],
        **quiet(),
    )
    return found(model, history, evaluated=model.evaluate(batches(), verbose=0))


class TruePositives(keras.metrics.Metric):
    """Its result is its variable, as in Keras' documentation."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.sum = self.add_variable((), "zeros", name="sum")

    def update_state(self, y, predicted, sample_weight=None):
        true = keras.ops.logical_and(y > 0.5, predicted > 0.4)
        self.sum.assign_add(keras.ops.sum(keras.ops.cast(true, "float32")))

    def result(self):
        return self.sum


def metrics_that_return_variables():
    return [
        TruePositives(name="own"),
        keras.metrics.FalsePositives([0.3, 0.4, 0.5], name="of_thresholds"),
    ]


@case
def results_that_are_variables(strategy, optimizer, folder):
    with strategy.scope():
        metrics = metrics_that_return_variables()
    model = compiled(strategy, optimizer, metrics=metrics)
    history = model.fit(
        batches(), validation_data=batches(16), epochs=2, **quiet()
    )
    return found(
        model,
        history,
        evaluated=model.evaluate(batches(29), verbose=0, return_dict=True),
    )


@case
def single_examples(strategy, optimizer, folder):
    """One worker never has any: there is no mean of what it has."""
    model = compiled(strategy, optimizer)
    tokens, labels = data(3)
    before = [
        model.evaluate(tokens[:1], labels[:1], verbose=0),
        model.evaluate(tokens, labels, batch_size=1, verbose=0),
        model.predict(tokens, batch_size=1, verbose=0),
    ]
    with strategy.scope():
        model.compile(optimizer(0.05), "mse", run_eagerly=True)
    before.append(model.evaluate(tokens[:1], labels[:1], verbose=0))
    history = model.fit(
        tokens[:2],
        labels[:2],
        batch_size=1,
        validation_data=(tokens[:1], labels[:1]),
        **quiet(),
    )
    return found(model, history, before=before)


@case
def generators(strategy, optimizer, folder):
    """Each batch is given once, also if the model is built with the first."""

    def generate():
        tokens, labels = data(40)
        for n in range(0, 40, BATCH):
            yield tokens[n : n + BATCH], labels[n : n + BATCH]

    keras.utils.set_random_seed(4)
    with strategy.scope():
        model = keras.Sequential(layers()[1:])
        model.compile(optimizer(0.05), "mse", metrics=["mae"])
    history = model.fit(generate(), steps_per_epoch=2, epochs=2, **quiet())
    return found(
        model,
        history,
        evaluated=model.evaluate(generate(), steps=5, verbose=0),
    )


@case
def eager(strategy, optimizer, folder):
    model = compiled(strategy, optimizer, run_eagerly=True, metrics=["mae"])
    history = model.fit(batches(), **quiet())
    return found(model, history)


class OwnStep(keras.Sequential):
    """It returns what is no metric of the model, and numbers of Python."""

    def train_step(self, data):
        x, y = data
        with tf.GradientTape() as tape:
            error = tf.square(self(x, training=True) - y)
            loss = tf.reduce_sum(error) / BATCH
        gradients = tape.gradient(loss, self.trainable_variables)
        pairs = zip(gradients, self.trainable_variables)  # noqa: B905 AutoGraph
        self.optimizer.apply_gradients(pairs)
        return {"error": tf.reduce_mean(error), "one": 1.0}


@case
def own_train_step(strategy, optimizer, folder):
    model = compiled(strategy, optimizer, model=OwnStep, metrics=[])
    return found(model, model.fit(batches(), epochs=2, **quiet()))


@case
def normalization_and_dropout(strategy, optimizer, folder):
    """Statistics are those of a replica; without dropout, all are the same."""
    with strategy.scope():
        keras.utils.set_random_seed(4)
        model = keras.Sequential(
            [
                keras.layers.Input((3,)),
                keras.layers.BatchNormalization(synchronized=True),
                keras.layers.Dropout(1e-9),
                keras.layers.Dense(1),
            ]
        )
        model.compile(optimizer(0.05), "mse")
    tokens, labels = data()
    history = model.fit(
        tokens.astype("float32"), labels, batch_size=BATCH, **quiet()
    )
    return found(model, history)


@case
def half_precision(strategy, optimizer, folder):
    def wrapper(inner):
        if isinstance(inner, keras_legacy_opt.Optimizer):
            return keras_legacy_opt.LossScaleOptimizer(inner)
        return keras.optimizers.LossScaleOptimizer(inner)

    model = compiled(
        strategy,
        optimizer,
        wrapper=wrapper,
        dtype="mixed_float16",
        metrics=["mae"],
    )
    return found(model, model.fit(batches(), epochs=2, **quiet()))


@case
def callbacks(strategy, optimizer, folder):
    """All workers have the same paths; only the chief's files are left."""
    folder = pathlib.Path(folder)
    model = compiled(strategy, optimizer, metrics=["mae"])
    history = model.fit(
        batches(),
        validation_data=batches(16),
        epochs=9,
        callbacks=[
            keras.callbacks.ModelCheckpoint(
                str(folder / "best_{epoch}.keras"),
                monitor="val_loss",
                save_best_only=True,
            ),
            keras.callbacks.TensorBoard(str(folder / "logs")),
            keras.callbacks.CSVLogger(str(folder / "log.csv"), append=True),
            keras.callbacks.BackupAndRestore(str(folder / "backup")),
            keras.callbacks.ReduceLROnPlateau(
                "val_loss", min_delta=0.05, patience=0, factor=0.1
            ),
            keras.callbacks.EarlyStopping("val_loss", 0.02, patience=2),
        ],
        **quiet(),
    )
    return found(model, history)


def on_batch(strategy, optimizer, folder, part):
    """Each worker gives its `part` of the batch."""
    with strategy.scope():
        metrics = [
            "mae",
            keras.metrics.AUC(name="auc"),
            keras.metrics.Precision(0.4, name="precision"),
            *metrics_that_return_variables(),
        ]
    model = compiled(strategy, optimizer, metrics=metrics)
    tokens, labels = data()
    predicted = [
        model.predict_on_batch(tokens[n : 2 * n]) for n in (BATCH, 3, 1)
    ]
    logs = [
        method(tokens[part], labels[part], return_dict=True)
        for method in (model.train_on_batch, model.test_on_batch)
    ]
    after = model.predict_on_batch(tokens[:3])
    return found(model, logs=logs, predicted=predicted, after=after)


def own_shards(strategy, optimizer, folder, part, size, **to):
    """Datasets of known lengths, of which a worker has a part of its own."""
    model = compiled(strategy, optimizer, **to)
    tokens, labels = data(24)
    dataset = tf.data.Dataset.from_tensor_slices((tokens[part], labels[part]))
    dataset = sharded(dataset.batch(size), "OFF")
    # The rows in any order: those of the workers are not put back into it.
    predicted = np.sort(model.predict(dataset, verbose=0), 0)
    evaluated = model.evaluate(dataset, verbose=0)
    history = model.fit(
        dataset, validation_data=dataset, epochs=2, **quiet()
    ).history
    return found(
        model,
        counted={n: history[n] for n in ("auc", "mae")},
        evaluated=evaluated,
        predicted=predicted,
    )


def statistics(strategy, optimizer, synchronized):
    """Of BatchNormalization: before and after batches of 1, and of 8 and 1."""
    with strategy.scope():
        keras.utils.set_random_seed(4)
        model = keras.Sequential(
            [
                keras.layers.Input((3,)),
                keras.layers.BatchNormalization(
                    momentum=0.5, synchronized=synchronized
                ),
                keras.layers.Dense(1),
            ]
        )
        model.compile(optimizer(0.05), "mse")
    tokens, labels = data(9)
    tokens = tokens.astype("float32")
    seen = []
    for examples in (1, 9):
        x, y = tokens[:examples], labels[:examples]
        history = model.fit(x, y, batch_size=BATCH, **quiet())
        seen.append([w.numpy() for w in model.layers[0].weights[2:]])
    return {
        "seen": seen,
        "loss": history.history["loss"],
        "trained": [v.numpy() for v in model.trainable_variables],
    }


def metric_outside_of_the_scope(strategy):
    metrics = [keras.metrics.AUC(name="auc")]
    compiled(strategy, keras_legacy_opt.Adam, metrics=metrics).fit(
        batches(), **quiet()
    )


def endless_on_some_workers(strategy, is_endless):
    dataset = batches().repeat() if is_endless else batches()
    compiled(strategy, keras_legacy_opt.Adam).fit(
        dataset, steps_per_epoch=9, **quiet()
    )


def compiled_by_xla(strategy):
    model = compiled(strategy, keras_legacy_opt.Adam, jit_compile=True)
    model.fit(batches(), **quiet())


def lines(paths):
    def parsed(line):
        columns = [tf.constant([], tf.int32)] * 4
        *tokens, label = tf.io.decode_csv(line, columns)
        return tf.stack(tokens, -1), tf.cast(label[..., None], tf.float32)

    dataset = tf.data.Dataset.from_tensor_slices(paths)
    dataset = dataset.interleave(tf.data.TextLineDataset, cycle_length=1)
    return sharded(dataset.batch(BATCH).map(parsed), "FILE")


def written(folder):
    """The paths of two files, one with four times as many lines."""
    paths = []
    for examples in (32, 8):
        table = np.concatenate(data(examples), 1)
        paths.append(f"{folder}/{examples}.csv")
        np.savetxt(paths[-1], table, "%d", ",")
    return paths


def files(strategy, optimizer, paths):
    """Each worker reads a file, and one runs out of data before the other."""
    model = compiled(strategy, optimizer)
    evaluated = model.evaluate(lines(paths), verbose=0)
    history = model.fit(lines(paths), epochs=2, **quiet())
    return found(model, history, evaluated=evaluated)


def files_on_one_device(optimizer, paths):
    """The same steps: the mean of the parts, of which one may be empty."""
    parts = [list(lines([p]).unbatch().batch(BATCH // 2)) for p in paths]
    ones = tf.ones([BATCH // 2])
    steps = []
    for n, (tokens, labels) in enumerate(parts[0]):
        if n < len(parts[1]):
            both = zip((tokens, labels), parts[1][n], strict=True)
            tokens, labels = (tf.concat(pair, 0) for pair in both)
            steps.append((tokens, labels, tf.concat([ones, ones], 0)))
        else:
            steps.append((tokens, labels, ones / 2))
    dataset = tf.data.Dataset.from_generator(
        lambda: steps,
        output_signature=tuple(
            tf.TensorSpec([None, *t.shape[1:]], t.dtype) for t in steps[0]
        ),
    )
    strategy = tf.distribute.get_strategy()
    model = compiled(strategy, optimizer)
    evaluated = model.evaluate(lines(paths), verbose=0)
    # Without an end of the data, where Keras may count one more step.
    more = quiet(epochs=2, steps_per_epoch=len(steps))
    model.fit(dataset.repeat(), **more)
    return found(model, evaluated=evaluated)
