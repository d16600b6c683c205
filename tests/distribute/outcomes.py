"""What a script of a cluster hands to the tests: results by name."""

import pickle
import time


class Outcomes:
    """Collects results, and errors in place of results."""

    def __init__(self):
        self._found = {}

    def record(self, name, function, *args, **kwargs):
        """Stores what a function returns, or raises, as a result."""
        start = time.monotonic()
        try:
            self._found[name] = function(*args, **kwargs)
        except Exception as error:
            self._found[name] = Failure(type(error).__name__, str(error))
        print(f"{name}: {time.monotonic() - start:.1f} s", flush=True)

    def save(self, path):
        with open(path, "wb") as file:
            pickle.dump(self._found, file)


class Failure:
    def __init__(self, kind, message):
        self.kind, self.message = kind, message

    def __repr__(self):
        return f"{self.kind}: {self.message}"


def load(path):
    """A function from a name to its result."""
    with open(path, "rb") as file:
        found = pickle.load(file)

    def result(name):
        value = found[name]
        assert not isinstance(value, Failure), f"{name}: {value}"
        return value

    result.failure = lambda name: (
        isinstance(found[name], Failure) and found[name]
    )
    return result
