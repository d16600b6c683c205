"""Keras 3's `fit` on clusters: two workers in step, or parameter servers.

Two replicas add up two numbers, in whatever order: workers end with the bits of
MirroredStrategy in one process.
"""

import functools
import types

import fit_cases
import keras
import numpy as np
import outcomes
import pytest
import tensorflow as tf
from cluster import Cluster
from strategies import strategy_called

import keras_legacy_opt
from keras_legacy_opt import clusters, private_api

pytestmark = [
    pytest.mark.processes,
    # Workers that have no data left, and what Keras says of it.
    pytest.mark.filterwarnings("ignore:Your input ran out of data"),
]
PATIENCE = 120
ADAM = keras_legacy_opt.Adam


@pytest.fixture(scope="module")
def workers(tmp_path_factory):
    """What two workers of a MultiWorkerMirroredStrategy found."""
    folder = tmp_path_factory.mktemp("fit")
    paths = fit_cases.written(folder)
    with Cluster(folder, worker=2) as cluster:
        names = cluster.start_all("worker", "fit_worker.py", folder, *paths)
        cluster.wait(names, timeout=400)
    return types.SimpleNamespace(
        results=[outcomes.load(folder / f"fit_{i}.pickle") for i in range(2)],
        folder=folder,
        paths=paths,
    )


@functools.cache
def on(strategy, name, optimizer):
    """What a case finds on this machine."""
    strategies = {
        "one device": tf.distribute.get_strategy,
        "two devices": lambda: strategy_called("mirrored"),
    }
    return fit_cases.CASES[name](strategies[strategy](), optimizer, None)


def assert_same(found, expected, **tolerance):
    """Equal, or close, through all dictionaries and lists."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert_same(found[name], value, **tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other, **tolerance)
    elif tolerance:
        np.testing.assert_allclose(found, expected, **tolerance)
    else:
        np.testing.assert_array_equal(found, expected)


def assert_finite(found):
    for value in tf.nest.flatten(found):
        assert np.isfinite(value).all()


def without(found, *names):
    return {n: value for n, value in found.items() if n not in names}


# What Keras 3.15 fails in under MirroredStrategy: several steps per execution,
# batches of one example; or does otherwise: it loses batches of generators, and
# adds up a loss in one variable, in another order, if that is not in its scope.
OTHERWISE = {
    "steps",
    "single_examples",
    "generators",
    "compiled_outside_of_the_scope",
}
MIRRORED = [n for n in fit_cases.CASES if n not in {"callbacks", *OTHERWISE}]
CLOSE = [
    "datasets",
    "arrays",
    "steps",
    "generators",
    "compiled_outside_of_the_scope",
    "results_that_are_variables",
]
OWN = ["datasets", "half_precision"]


@pytest.mark.parametrize("name", fit_cases.CASES)
def test_workers_agree(workers, name):
    one, other = (result(name) for result in workers.results)
    assert_same(one, other)
    for values in (*one["weights"], *one["history"].values()):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", MIRRORED)
def test_bits_of_two_devices_of_one_machine(workers, name):
    expected = on("two devices", name, ADAM)
    assert_same(workers.results[0](name), expected)


@pytest.mark.parametrize("name", OWN)
def test_with_an_optimizer_of_keras(workers, name):
    one, other = (result(f"{name} own") for result in workers.results)
    assert_same(one, other)
    assert_same(one, on("two devices", name, keras.optimizers.Adam))


# Half precision rounds sums of other parts differently.
@pytest.mark.parametrize("name", CLOSE)
def test_close_to_one_device(workers, name):
    found = without(workers.results[0](name), "optimizer")
    expected = without(on("one device", name, ADAM), "optimizer")
    assert_same(found, expected, rtol=1e-5, atol=1e-5)


def test_files_of_different_lengths(workers):
    one, other = (result("files") for result in workers.results)
    assert_same(one, other)
    expected = fit_cases.files_on_one_device(ADAM, workers.paths)
    for name in ("weights", "iterations", "evaluated"):
        assert_same(one[name], expected[name], rtol=1e-5, atol=1e-6)


def test_single_examples(workers):
    """Losses, metrics and predictions if some workers have no example."""
    found = workers.results[0]("single_examples")["before"]
    expected = on("one device", "single_examples", ADAM)["before"]
    assert_same(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ["own shards", "in executions"])
def test_own_shards_of_different_lengths(workers, name):
    """An epoch ends when no worker has data; each of them counts once."""
    one, other = (result(name) for result in workers.results)
    assert_same(one, other)
    size = fit_cases.BATCH // 2
    assert one["iterations"] == 2 * (16 // size)  # In two epochs.
    expected = fit_cases.own_shards(
        tf.distribute.get_strategy(), ADAM, None, slice(0, 24), fit_cases.BATCH
    )
    for part in ("evaluated", "predicted"):
        assert_same(one[part], expected[part], rtol=1e-5, atol=1e-6)


def test_statistics_of_no_examples(workers):
    """Each worker has its own; those without examples keep what they have."""
    one, other = (result("statistics") for result in workers.results)
    example = fit_cases.data(9)[0][0]
    assert_same(one["seen"][0], [0.5 * example, np.full(3, 0.5)])
    assert_same(other["seen"][0], [np.zeros(3), np.ones(3)])
    assert_same(without(one, "seen"), without(other, "seen"))
    for found in (one, other):
        assert_finite(found)


def test_synchronized_statistics_of_no_examples(workers):
    """Those of all examples: of one device, on all workers."""
    one, other = (r("synchronized statistics") for r in workers.results)
    assert_same(one, other)
    expected = fit_cases.statistics(
        tf.distribute.get_strategy(), ADAM, synchronized=True
    )
    assert_same(one["seen"], expected["seen"], rtol=1e-5, atol=1e-6)


def test_what_workers_cannot_train_with(workers):
    """All of them say so, and say what to do."""
    for result in workers.results:
        metric = result.failure("metric outside").message
        assert "'auc/true_positives'" in metric
        assert "with strategy.scope():" in metric
        endless = result.failure("endless").message
        assert "on workers [0]" in endless
        assert "repeat()" in endless
        assert "jit_compile=True" in result.failure("xla").message


def test_on_batch(workers):
    """Each worker gives its part of the batch, and all of what it predicts."""
    expected = fit_cases.on_batch(
        tf.distribute.get_strategy(), ADAM, None, slice(0, fit_cases.BATCH)
    )
    for result in workers.results:
        found = result("on batch")
        for name in ("weights", "logs", "predicted", "after"):
            assert_same(found[name], expected[name], rtol=1e-5, atol=1e-6)


def test_callbacks(workers):
    """Stopped and slowed down at the same epoch; one set of files is left."""
    chief = workers.results[0]("callbacks")
    rates = chief["history"]["learning_rate"]
    assert 2 < len(rates) < 9
    assert rates[0] > rates[-1]
    losses = chief["history"]["val_loss"]
    best = [n for n in range(len(losses)) if losses[n] <= min(losses[: n + 1])]
    files = {path.name for path in workers.folder.glob("best_*")}
    assert files == {f"best_{n + 1}.keras" for n in best}
    model = keras.saving.load_model(
        workers.folder / f"best_{best[-1] + 1}.keras"
    )
    tokens, labels = fit_cases.data(16)
    loss, _ = model.evaluate(tokens, labels, verbose=0)
    np.testing.assert_allclose(loss, min(losses), rtol=1e-5)
    assert int(model.optimizer.iterations) == 4 * (best[-1] + 1)
    logs = list((workers.folder / "logs" / "train").glob("events*"))
    assert len(logs) == 1
    lines = (workers.folder / "log.csv").read_text().splitlines()
    assert len(lines) == 1 + len(rates)
    assert not (workers.folder / "backup").exists()


def test_report(workers):
    lines = workers.results[0]("report")
    assert len(lines) == 12
    assert sum(line.endswith(": corrected") for line in lines) >= 4
    assert not any("not known" in line for line in lines)
    failure = workers.results[0].failure("disabled")
    assert failure, "Keras has mended it: nothing is to be corrected"
    assert "PerReplica" in failure.message


@pytest.fixture(scope="module")
def coordinator(tmp_path_factory):
    """What a coordinator found, one of whose workers was killed in the end."""
    folder = tmp_path_factory.mktemp("fit_ps")
    with Cluster(folder, chief=1, worker=2, ps=2) as cluster:
        servers = cluster.start_all("worker", "server.py")
        cluster.start_all("ps", "server.py")
        names = cluster.start_all("chief", "fit_coordinator.py", folder)
        cluster.wait_for_file(folder / "epoch_2", names, 400)
        cluster.kill(servers[0])
        (folder / "killed").touch()
        cluster.wait(names, PATIENCE)
    return outcomes.load(folder / "coordinator.pickle")


STEPS = 12


@pytest.mark.parametrize("name", ["ours", "executions", "its own"])
def test_parameter_servers(coordinator, name):
    """Out of step: the result varies a little from run to run."""
    history, iterations = coordinator(name)
    assert set(history) == {
        f"{prefix}{name}"
        for prefix in ("", "val_")
        for name in ("loss", "mae", "auc")
    }
    assert history["loss"][2] < history["loss"][0]
    if name != "its own":  # Keras' own counters lose steps of other workers.
        assert iterations == 3 * STEPS


def test_parameter_servers_lose_nothing_of_metrics(coordinator):
    logs, states = coordinator("evaluate")
    model = fit_cases.compiled(tf.distribute.get_strategy(), ADAM)
    tokens, labels = fit_cases.data(fit_cases.BATCH)
    expected = model.evaluate(tokens, labels, verbose=0)
    np.testing.assert_allclose(logs, expected, rtol=1e-5)
    variables = [v.numpy() for v in model.metrics_variables]
    for state, once in zip(states, variables, strict=True):
        np.testing.assert_allclose(state, STEPS * once, rtol=1e-5)


def test_rows_not_tables_come_from_parameter_servers(coordinator):
    kinds = coordinator("lookup")
    assert "ResourceGather" in kinds
    assert not kinds & {"Gather", "GatherV2"}


def test_other_methods_on_parameter_servers(coordinator):
    predicted, on_batch, before, logs, after = coordinator("other methods")
    model = fit_cases.compiled(tf.distribute.get_strategy(), ADAM)
    tokens, labels = fit_cases.data(fit_cases.BATCH)
    expected = model.predict(tokens, verbose=0)
    for each in (predicted, on_batch):
        np.testing.assert_allclose(each, expected, rtol=1e-5)
    assert_same(
        [before, logs, after],
        [
            model.test_on_batch(tokens, labels),
            model.train_on_batch(tokens, labels),
            model.test_on_batch(tokens, labels),
        ],
        rtol=1e-5,
    )


def test_own_train_step_on_parameter_servers(coordinator):
    history = coordinator("own train step")
    assert history["one"] == [1.0, 1.0]
    assert history["error"][1] < history["error"][0]


def test_what_parameter_servers_cannot_train_with(coordinator):
    arrays = coordinator.failure("arrays")
    assert arrays.kind == "ValueError"
    assert "tf.distribute.InputContext" in arrays.message
    steps = coordinator.failure("no steps")
    assert "steps_per_epoch" in steps.message
    assert coordinator.failure("disabled")


def test_worker_of_parameter_servers_killed(coordinator):
    """Each step is taken once; that of the lost worker, once or twice."""
    losses, taken_twice = coordinator("killed")
    assert np.isfinite(losses).all()
    assert len(losses) >= 7
    assert 0 <= taken_twice <= 1


def test_a_keras_that_is_not_understood_is_left_alone(monkeypatch):
    """One line says so, and says it once."""
    lines = []
    monkeypatch.setattr(
        clusters.switch.logging,
        "warning",
        lambda *a: lines.append(a[0] % a[1:]),
    )

    def fail():
        raise KeyError("axis")

    fault = clusters.switch.Fault("the mean", fail)
    assert not fault.is_present()
    assert not fault.is_present()
    assert len(lines) == 1
    assert "the mean: not known of this Keras" in lines[0]
    assert "KeyError" in lines[0]


def test_a_keras_that_has_mended_it_is_left_alone():
    multi_worker = clusters.multi_worker

    def reduce_per_replica(values, strategy, reduction):
        return tf.nest.map_structure(
            lambda v: strategy.reduce("MEAN", v, axis=None), values
        )

    def build(self, iterator=None, data_batch=None):
        local = self.distribute_strategy.experimental_local_results
        batch = next(next(iter(iterator))[-1])
        data_batch = tf.nest.map_structure(lambda x: local(x)[0], batch)
        self._symbolic_build(data_batch=data_batch)

    def make_function(self, step):
        take_step = tf.function(step)

        def take_steps(iterator):
            return take_step(iterator.get_next())

        return take_steps

    assert not multi_worker._fails_to_reduce(reduce_per_replica)
    assert not multi_worker._fails_to_build(build)
    assert not multi_worker._fails_at_the_end(make_function)


def test_faults_of_this_keras_are_found():
    multi_worker = clusters.multi_worker
    trainer = private_api.tensorflow_trainer(keras)
    methods = trainer.TensorFlowTrainer
    reduce = trainer.reduce_per_replica.__wrapped__
    assert multi_worker._fails_to_reduce(reduce)
    build = methods._maybe_symbolic_build.__wrapped__.__wrapped__
    assert multi_worker._fails_to_build(build)
    make = methods._make_function.__wrapped__
    assert multi_worker._fails_at_the_end(make)


@pytest.mark.parametrize("strategy", ["one device", "mirrored"])
def test_nothing_changes_on_one_machine(monkeypatch, strategy):
    """Keras is not even asked whether it would fail on clusters."""

    def fail(fault):
        raise AssertionError(fault.what)

    monkeypatch.setattr(clusters.switch.Fault, "is_present", fail)
    with strategy_called(strategy).scope():
        model = keras.Sequential([keras.layers.Dense(1)])
        model.compile(ADAM(), "mse")
    x = np.ones((8, 2))
    model.fit(x, x[:, :1], verbose=0)
    model.evaluate(x, x[:, :1], verbose=0)
    assert model.predict(x, verbose=0).shape == (8, 1)


LEFT = "left as it is"


def test_switches(monkeypatch):
    assert clusters.report()[0].endswith("corrected")
    clusters.disable()
    try:
        assert clusters.report() == [f"{LEFT}: clusters.disable() was called"]
    finally:
        clusters.enable()
    monkeypatch.setenv("KERAS_LEGACY_OPT_CLUSTERS", "0")
    assert clusters.report() == [f"{LEFT}: KERAS_LEGACY_OPT_CLUSTERS is 0"]
