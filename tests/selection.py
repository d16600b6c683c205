"""Which tests a quick run takes, and which tests one process has to run."""

import collections
from collections.abc import Sequence

import pytest

# Fixtures that start a cluster, once for all tests of a process.
CLUSTERS = ("workers", "coordinator")
# By these arguments, tests are made for each optimizer, and for each Keras.
KEPT = ("case", "row", "name", "library")
HOST = "host"


def starts_processes(item: pytest.Item) -> bool:
    """Whether a test starts processes, each of which costs seconds."""
    fixtures = getattr(item, "fixturenames", ())
    marked = item.get_closest_marker("processes")
    return marked is not None or not set(CLUSTERS).isdisjoint(fixtures)


def group(item: pytest.Item) -> str:
    """The name of the group of tests that `--dist=loadgroup` keeps together.

    The tests of a file, but those made for each optimizer apart; and the tests
    on a cluster.
    """
    fixtures = getattr(item, "fixturenames", ())
    for cluster in CLUSTERS:
        if cluster in fixtures:
            return cluster
    file = item.nodeid.partition("::")[0]
    case = _arguments(item).get("case")
    row = getattr(case, "row", None)
    return file if row is None else f"{file}-{row.name}"


def quick(items: Sequence[pytest.Item]) -> list[pytest.Item]:
    """The first case of each test for each optimizer and for each Keras.

    Of a test that is made for both, each optimizer has one Keras, in turn.
    """
    tests = collections.defaultdict(dict)  # {test: {optimizer: {Keras: case}}}
    for item in items:
        if starts_processes(item):
            continue
        arguments = _arguments(item)
        kept = [arguments.get(name) for name in KEPT]
        optimizer = tuple(str(getattr(value, "row", value)) for value in kept)
        cases = tests[item.nodeid.partition("[")[0]].setdefault(optimizer, {})
        cases.setdefault(str(arguments.get(HOST)), item)
    chosen: set[pytest.Item] = set()
    for test in tests.values():
        for turn, cases in enumerate(test.values()):
            of_hosts = list(cases.values())
            if len(test) > 1:
                of_hosts = [of_hosts[turn % len(of_hosts)]]
            chosen.update(of_hosts)
    return [item for item in items if item in chosen]


def _arguments(item: pytest.Item) -> dict:
    call = getattr(item, "callspec", None)
    return {} if call is None else call.params
