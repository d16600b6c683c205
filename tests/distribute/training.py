"""Trains a few variables under a strategy, with a global batch to split.

The inputs are small multiples of 1/16, and the loss is linear in the variables:
the sum of the gradients is exact in float32, in whichever order replicas add
it.  Every strategy must then end with the same bits.
"""

import functools

import numpy as np
import tensorflow as tf
from registry import WRAPPERS, own_cases

import keras_legacy_opt

BATCH = 8
STEPS = 4
SHAPES = {"matrix": (3, 2), "table": (6, 2), "vector": (5,)}
KINDS = {
    "dense": ("matrix", "vector"),
    "sparse": ("table",),
    "mixed": ("matrix", "table", "vector"),
}

# These pretend that a second worker exists: no N replicas equal one device.
_OWN_AGGREGATION = ("AveragingWorkers",)


@functools.cache
def every_case():
    return own_cases()


def equals_one_device(case):
    return case.row.name not in _OWN_AGGREGATION


def equal_cases():
    """The cases in which N replicas equal one device."""
    return [case for case in every_case() if equals_one_device(case)]


def one_case_per_row():
    cases = {}
    for case in equal_cases():
        cases.setdefault(case.row.name, case)
    return list(cases.values())


def wrapper_cases():
    """Those that do not know variables by names, as shards have others."""
    return [c for c in own_cases(WRAPPERS) if c.row.name != "MultiOptimizer"]


def initial_values():
    rng = np.random.default_rng(1)
    return {
        name: rng.standard_normal(shape).astype("float32")
        for name, shape in SHAPES.items()
    }


def batches():
    """Global batches; rows of the table come repeatedly, and some never."""
    rng = np.random.default_rng(2)

    def sixteenths(*shape):
        return (rng.integers(-8, 9, shape) / 16).astype("float32")

    return [
        {
            "matrix": sixteenths(BATCH, *SHAPES["matrix"]),
            "vector": sixteenths(BATCH, *SHAPES["vector"]),
            "rows": rng.integers(0, SHAPES["table"][0] - 1, (BATCH, 2)),
            "table": sixteenths(BATCH, 2, SHAPES["table"][1]),
        }
        for _ in range(STEPS)
    ]


def split(strategy, batch):
    """The per-replica parts of a global batch, as `strategy.run` takes them."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return {name: tf.constant(array) for name, array in batch.items()}
    size = BATCH // replicas
    return {
        name: strategy.experimental_distribute_values_from_function(
            lambda context, array=array: tf.constant(
                array[context.replica_id_in_sync_group * size :][:size]
            )
        )
        for name, array in batch.items()
    }


def loss_of(variables, batch):
    """The mean over the global batch of the part of it that is here."""
    loss = 0.0
    for name, variable in variables.items():
        value = variable
        if name == "table":
            value = tf.compat.v1.nn.embedding_lookup(
                shards_of(variable), batch["rows"], partition_strategy="div"
            )
        loss += tf.reduce_sum(batch[name] * value)
    return loss / BATCH


def shards_of(variable):
    """The variables that a perhaps sharded variable consists of."""
    return list(getattr(variable, "variables", [variable]))


def gradients_of(variables, batch):
    """Pairs of gradients and variables."""
    shards = [s for v in variables.values() for s in shards_of(v)]
    with tf.GradientTape() as tape:
        loss = loss_of(variables, batch)
    return list(zip(tape.gradient(loss, shards), shards, strict=True))


def make_variables(kind):
    values = initial_values()
    return {name: tf.Variable(values[name], name=name) for name in KINDS[kind]}


def values_of(variables, optimizer):
    return {
        w.name: w.numpy() for w in [*variables.values(), *optimizer.weights]
    }


def train(
    strategy,
    make_optimizer,
    kind="mixed",
    accumulates=1,
    **kwargs,
):
    """Returns the values of all variables after a few steps.

    Args:
      strategy: under which variables and optimizer are made.
      make_optimizer: function without arguments.
      kind: of the gradients; a key of `KINDS`.
      accumulates: how many steps are one iteration.
      **kwargs: of `run_steps`.
    """
    with strategy.scope():
        variables = make_variables(kind)
        optimizer = make_optimizer()
    run_steps(strategy, variables, optimizer, batches(), **kwargs)
    assert optimizer.iterations.numpy() == STEPS // accumulates
    return values_of(variables, optimizer)


def run_steps(
    strategy,
    variables,
    optimizer,
    batches,
    wrap=lambda step: step,
    gradients=gradients_of,
    **kwargs,
):
    """Takes one step for each batch.

    Args:
      strategy: of the variables and the optimizer.
      variables: by name.
      optimizer: updates them.
      batches: global batches.
      wrap: makes another function of the step, such as `tf.function`.
      gradients: function of the variables and a replica's batch.
      **kwargs: for `apply_gradients`.
    """

    def replica_step(batch):
        optimizer.apply_gradients(gradients(variables, batch), **kwargs)

    @wrap
    def step(batch):
        strategy.run(replica_step, args=(batch,))

    for batch in batches:
        step(split(strategy, batch))


# State: of an Adam that has taken half of the steps.


def make_adam():
    return keras_legacy_opt.Adam(0.1, decay=0.1)


def half_way(strategy):
    """Variables and their optimizer after half of the steps."""
    with strategy.scope():
        variables, optimizer = make_variables("mixed"), make_adam()
    run_steps(strategy, variables, optimizer, batches()[: STEPS // 2])
    return variables, optimizer


def state_of(variables, optimizer):
    """Values by names that depend on no strategy; shards are joined."""
    state = {"iterations": optimizer.iterations.numpy()}
    for name, variable in variables.items():
        state[name] = joined(variable)
        for slot_name in optimizer.get_slot_names():
            slot = optimizer.get_slot(variable, slot_name)
            state[f"{name} {slot_name}"] = joined(slot)
    return state


def joined(variable):
    """The value of a perhaps sharded variable."""
    shards = [shard.numpy() for shard in shards_of(variable)]
    return np.concatenate(shards) if len(shards) > 1 else shards[0]


def checkpoint_of(variables):
    return tf.train.Checkpoint(**variables, optimizer=make_adam())


def saved_values(strategy, path):
    """Takes half of the steps, writes a checkpoint; returns what is in it."""
    variables, optimizer = half_way(strategy)
    checkpoint = tf.train.Checkpoint(**variables, optimizer=optimizer)
    checkpoint.write(str(path))
    return state_of(variables, optimizer)


def restored_values(strategy, path):
    """Restores, and takes the other half: the values before and after."""
    with strategy.scope():
        variables = make_variables("mixed")
        checkpoint = checkpoint_of(variables)
        status = checkpoint.read(str(path))
        checkpoint.optimizer.build(list(variables.values()))
    status.assert_consumed()
    before = state_of(variables, checkpoint.optimizer)
    run_steps(
        strategy, variables, checkpoint.optimizer, batches()[STEPS // 2 :]
    )
    return before, state_of(variables, checkpoint.optimizer)


def continued_values(strategy, give, **kwargs):
    """The values when another optimizer has taken the other half.

    Args:
      strategy: of the variables and both optimizers.
      give: function of an optimizer to another, which has its state.
      **kwargs: of `run_steps`.
    """
    variables, optimizer = half_way(strategy)
    with strategy.scope():
        given = give(optimizer)
    rest = batches()[STEPS // 2 :]
    run_steps(strategy, variables, given, rest, **kwargs)
    return state_of(variables, given)


def undisturbed_values():
    """After all steps, on one device."""
    variables = make_variables("mixed")
    optimizer = checkpoint_of(variables).optimizer
    run_steps(tf.distribute.get_strategy(), variables, optimizer, batches())
    return state_of(variables, optimizer)


def assert_same_bits(ours, theirs):
    assert sorted(ours) == sorted(theirs), (sorted(ours), sorted(theirs))
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
