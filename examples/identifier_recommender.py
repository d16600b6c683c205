"""Recommend identifiers to go with others, by LazyAdam and by Adam.

Functions of Python's standard library are the users of a recommender, and the
identifiers in them its items: from all others that a function uses, one that it
uses, too, has to be found.  The gradients of both tables are tf.IndexedSlices.
Adam moves all rows in each step, LazyAdam those of the batch: the shares of
functions for which the ten best recommendations hold the identifier are printed
side by side with the time of a step.
"""

import argparse
import ast
import collections
import pathlib
import sys
import sysconfig
import time
import warnings

import numpy as np
import tensorflow as tf
from common import positive

import keras_legacy_opt
from keras_legacy_opt import addons

SIZE = 64
BATCH = 256
NEGATIVES = 20
CONTEXT = 8  # Of a function, this many other identifiers are looked at.
BEST = 10
# How many times the share that the most frequent identifiers would reach, and
# the smallest share of Adam's hits that LazyAdam has to have.
GOAL = 2.0
SAME_QUALITY = 0.9


def functions():
    """Yield the identifiers of each function of the standard library."""
    for path in sorted(pathlib.Path(sysconfig.get_path("stdlib")).glob("*.py")):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # About escapes in the source.
            tree = ast.parse(path.read_bytes())
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                used = {
                    each.id if isinstance(each, ast.Name) else each.attr
                    for each in ast.walk(node)
                    if isinstance(each, (ast.Name, ast.Attribute))
                } - {"self"}
                if len(used) > 2:
                    yield sorted(used)


def read_corpus():
    """Return the identifiers, and functions to train on and held out."""
    found = list(functions())
    counts = collections.Counter(name for used in found for name in used)
    names = [name for name, _ in counts.most_common()]
    numbers = {name: number for number, name in enumerate(names)}
    rows = [np.array([numbers[name] for name in used]) for used in found]
    held_out = rows[::10]
    train = [row for i, row in enumerate(rows) if i % 10]
    return names, train, held_out


def examples(rows, rng):
    """Return for each row the numbers of CONTEXT identifiers, and another."""
    drawn = [rng.permutation(row) for row in rows]
    context = [np.resize(row[1:], CONTEXT) for row in drawn]
    return np.array(context, np.int32), np.array(
        [r[0] for r in drawn], np.int32
    )


def train_with(optimizer, initial, batches):
    """Train both tables; return them, and the median seconds of a step."""
    inputs, outputs = (tf.Variable(table) for table in initial)

    @tf.function
    def step(context, candidates):
        with tf.GradientTape() as tape:
            user = tf.reduce_mean(tf.gather(inputs, context), 1)
            scores = tf.einsum(
                "bd,bcd->bc", user, tf.gather(outputs, candidates)
            )
            # The first candidate is the one that is used.
            loss = tf.reduce_mean(
                tf.nn.sparse_softmax_cross_entropy_with_logits(
                    tf.zeros(len(context), tf.int32), scores
                )
            )
        optimizer.minimize(loss, [inputs, outputs], tape=tape)

    seconds = []
    for context, candidates in batches:
        start = time.perf_counter()
        step(context, candidates)
        seconds.append(time.perf_counter() - start)
    return inputs.numpy(), outputs.numpy(), np.median(seconds)


def hits(scores, context, wanted):
    """The share of rows whose best identifiers hold the one that is wanted."""
    scores = scores.copy()
    np.put_along_axis(scores, context, -np.inf, 1)
    best = np.argpartition(-scores, BEST, 1)[:, :BEST]
    return np.mean((best == wanted[:, np.newaxis]).any(1))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=positive, default=800)
    args = parser.parse_args()

    names, train, held_out = read_corpus()
    print(
        f"{len(names)} identifiers, {len(train)} functions to train on,"
        f" {len(held_out)} held out"
    )
    rng = np.random.default_rng(0)
    shape = (len(names), SIZE)
    initial = [rng.normal(0, 0.1, shape).astype(np.float32) for _ in range(2)]
    batches = []
    for _ in range(args.steps):
        chosen = rng.choice(len(train), BATCH)
        context, wanted = examples([train[i] for i in chosen], rng)
        noise = rng.integers(len(names), size=(BATCH, NEGATIVES))
        candidates = np.concatenate([wanted[:, np.newaxis], noise], 1)
        batches.append((tf.constant(context), tf.constant(candidates)))
    context, wanted = examples(held_out, rng)

    shares = {}
    for optimizer in (
        keras_legacy_opt.Adam(learning_rate=3e-3),
        addons.LazyAdam(learning_rate=3e-3),
    ):
        name = type(optimizer).__name__
        inputs, outputs, seconds = train_with(optimizer, initial, batches)
        scores = inputs[context].mean(1) @ outputs.T
        shares[name] = hits(scores, context, wanted)
        print(
            f"{name}: {shares[name]:.1%} found among the best {BEST},"
            f" {seconds * 1e3:.2f} ms per step"
        )
    frequent = np.tile(-np.arange(len(names), dtype=float), (len(wanted), 1))
    baseline = hits(frequent, context, wanted)
    print(f"the most frequent identifiers: {baseline:.1%}")
    ok = (
        min(shares.values()) > GOAL * baseline
        and shares["LazyAdam"] > SAME_QUALITY * shares["Adam"]
    )
    print(f"better than the most frequent ones, and equally good: {ok}")
    return 0 if ok else 1


if __name__ == "__main__":
    sys.exit(main())
