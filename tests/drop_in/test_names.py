"""`install` and `uninstall` in a process that has imported everything."""

import importlib
import importlib.util
import pickle
import subprocess
import sys
import threading
import types
import warnings

import keras
import numpy as np
import pytest
import registry
import tensorflow as tf
import tf_keras

import keras_legacy_opt
from keras_legacy_opt import legacy_names

# Of what other tests have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*imported from Keras before")

OPTIMIZERS = [
    "SGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "Adamax",
    "Ftrl",
    "Nadam",
    "Optimizer",
    "RMSprop",
]
# Every module object with the public names.
PUBLIC = [
    "keras.optimizers",
    "keras._tf_keras.keras.optimizers",
    "tensorflow.keras.optimizers",
    "tf_keras.optimizers",
    "tf_keras.api._v1.keras.optimizers",
    "tf_keras.api._v2.keras.optimizers",
]
# Packages of one file per optimizer, and the file of Adam in it.
OF_FILES = [
    "keras.optimizer_v2",
    "keras.optimizers.legacy",
    "keras.optimizers.optimizer_v2",
    "keras.src.optimizers.legacy",
    "tensorflow.python.keras.optimizer_v2",
]
KERASES = {"keras": keras, "tf_keras": tf_keras}
LEVELS = {"legacy": False, "top level": True}


def names_of_kerases():
    """{(module, attribute): value} of all of Keras and of its old copy."""
    return {
        (name, attribute): value
        for name, module in list(sys.modules.items())
        if isinstance(module, types.ModuleType)
        and ("keras" in name or name == "tensorflow")
        and not name.startswith("keras_legacy_opt")
        for attribute, value in list(vars(module).items())
        # Caches of lazy modules.
        if not attribute.startswith("_")
    }


@pytest.fixture(params=LEVELS)
def top_level(request):
    with keras_legacy_opt.installed(LEVELS[request.param]):
        yield LEVELS[request.param]


@pytest.mark.parametrize("module", PUBLIC)
def test_public_modules(module, top_level):
    public = importlib.import_module(module)
    legacy = importlib.import_module(f"{module}.legacy")
    assert hasattr(public, "legacy")
    for name in OPTIMIZERS:
        ours = getattr(keras_legacy_opt, name)
        assert getattr(legacy, name) is ours
        assert getattr(public.legacy, name) is ours
        assert (getattr(public, name) is ours) == top_level
        new = getattr(public.experimental, name)
        assert new is not ours
        assert new.__module__.partition(".")[0] in KERASES
    schedules = importlib.import_module(f"{module}.schedules")
    for name in keras_legacy_opt.schedules.__all__:
        ours = getattr(keras_legacy_opt.schedules, name)
        assert (getattr(schedules, name, None) is ours) == top_level
    assert (public.serialize is keras_legacy_opt.serialize) == top_level


def test_lazy_modules(top_level):
    for module in (tf.keras.optimizers, tf.optimizers):
        assert module.legacy.Adam is keras_legacy_opt.Adam
        assert (module.Adam is keras_legacy_opt.Adam) == top_level
    for library in (tf.keras, keras, tf_keras):
        cls = library.mixed_precision.LossScaleOptimizer
        assert (cls is keras_legacy_opt.LossScaleOptimizer) == top_level


@pytest.mark.parametrize("package", OF_FILES)
def test_files_of_optimizers(package, top_level):
    for name, file in {
        **{name: name.lower() for name in OPTIMIZERS if name != "SGD"},
        "SGD": "gradient_descent",
        "Optimizer": "optimizer_v2",
    }.items():
        module = importlib.import_module(f"{package}.{file}")
        attribute = "OptimizerV2" if name == "Optimizer" else name
        ours = getattr(keras_legacy_opt, name)
        assert getattr(module, attribute) is ours
    schedules = importlib.import_module(f"{package}.learning_rate_schedule")
    ours = keras_legacy_opt.schedules.ExponentialDecay
    assert schedules.ExponentialDecay is ours
    assert schedules.LearningRateSchedule.__module__.startswith(
        "keras_legacy_opt"
    )


@pytest.mark.parametrize("package", OF_FILES)
def test_old_pickles(package, top_level):
    """They name the file that defined a class."""
    text = f"c{package}.adam\nAdam\n.".encode()
    assert pickle.loads(text) is keras_legacy_opt.Adam


def test_modules_have_specs(top_level):
    for name in (
        *(f"{module}.experimental" for module in PUBLIC),
        *(f"{package}.adam" for package in OF_FILES),
    ):
        spec = importlib.util.find_spec(name)
        assert spec.name == name
        assert importlib.import_module(name).__spec__.name == name


@pytest.mark.parametrize("host", KERASES)
def test_strings_and_configs(host, top_level):
    library = KERASES[host]
    ours = keras_legacy_opt.Adam
    old = {"class_name": "Adam", "config": {"lr": 0.5, "decay": 0.25}}
    model = library.Sequential([library.layers.Dense(1)])
    model.compile("adam", "mse")
    assert isinstance(model.optimizer, ours) == top_level
    get, deserialize = library.optimizers.get, library.optimizers.deserialize
    assert isinstance(get("Adam"), ours) == top_level
    for optimizer in (get(old), deserialize(old)):
        assert type(optimizer) is ours
        assert optimizer.get_config()["decay"] == 0.25
    if top_level:
        assert type(get("adam", use_legacy_optimizer=True)) is ours
        assert not isinstance(get("adam", use_legacy_optimizer=False), ours)
        plain = {"class_name": "Adam", "config": {}}
        assert not isinstance(
            deserialize(plain, use_legacy_optimizer=False), ours
        )
    # What legacy never had is the host's.
    assert type(get("adamw")).__module__.startswith(host)
    with pytest.raises(ValueError, match="no_such"):
        get("no_such")
    for optimizer in (ours(), get("adamw")):
        assert get(optimizer) is optimizer


@pytest.mark.parametrize("row", registry.BUILT_IN, ids=lambda row: row.name)
@pytest.mark.parametrize("host", KERASES)
def test_configs_of_legacy(host, row, top_level):
    """Code that asks `isinstance(..., legacy.Optimizer)` gets what it had."""
    library = KERASES[host]
    inner = getattr(library.optimizers.legacy, row.name)(0.5)
    config = {"class_name": row.name, "config": inner.get_config()}
    if row.name == "SGD":  # As tf_keras writes it.
        config["config"]["is_legacy_optimizer"] = True
    again = library.optimizers.deserialize(config)
    assert type(again) is getattr(keras_legacy_opt, row.name)
    assert again.get_config() == inner.get_config()


@pytest.mark.parametrize("host", KERASES)
def test_new_optimizers_stay_what_they_are(host, top_level, tmp_path):
    """In configs and in files, too."""
    library = KERASES[host]
    new = library.optimizers.experimental.Adam
    config = library.optimizers.serialize(new(0.5))
    assert type(library.optimizers.deserialize(config)) is new
    model = library.Sequential(
        [library.layers.Input((2,)), library.layers.Dense(1)]
    )
    model.compile(new(0.5), library.losses.MeanSquaredError())
    x, y = np.ones((4, 2), "f"), np.ones((4, 1), "f")
    model.fit(x, y, verbose=0)
    for file in ("model.keras", "model.h5"):
        with warnings.catch_warnings():  # Of files in HDF5.
            warnings.simplefilter("ignore", UserWarning)
            model.save(tmp_path / file)
        loaded = library.models.load_model(tmp_path / file)
        assert type(loaded.optimizer) is new


def test_converts_to_keras_and_back(top_level):
    """To what Keras has, whatever its names mean."""
    decayed = keras_legacy_opt.schedules.ExponentialDecay(0.5, 2, 0.5)
    for ours in (
        keras_legacy_opt.Adam(0.5, decay=0.25),
        keras_legacy_opt.SGD(decayed, momentum=0.5),
    ):
        new = keras_legacy_opt.checkpoints.to_keras_3(ours, [tf.Variable(1.0)])
        assert type(new) is getattr(
            keras.optimizers.experimental, type(ours).__name__
        )
        back = keras_legacy_opt.checkpoints.from_keras_3(new)
        assert type(back) is type(ours)


def test_classes_of_users(top_level):
    base = tf.keras.optimizers.legacy.Optimizer

    class Own(base):
        def get_config(self):
            return super().get_config()

    optimizer = Own("own")
    assert isinstance(optimizer, tf.keras.optimizers.legacy.Optimizer)
    assert isinstance(optimizer, keras_legacy_opt.Optimizer)
    for library in KERASES.values():
        model = library.Sequential([library.layers.Dense(1)])
        model.compile(optimizer, "mse")
        assert model.optimizer is optimizer


def test_everything_is_put_back():
    # Keras' own, which Python makes an attribute when it is first imported.
    importlib.import_module("tensorflow.keras.optimizers.legacy")
    before = names_of_kerases()
    modules = set(sys.modules)
    for _ in range(2):
        keras_legacy_opt.install()
        keras_legacy_opt.install(top_level=True)
        keras_legacy_opt.install()
        # The level only rises.
        assert keras.optimizers.Adam is keras_legacy_opt.Adam
        new = importlib.import_module("keras.optimizers.experimental")
        assert new.Adam is before["keras.optimizers", "Adam"]
        importlib.import_module("keras.optimizer_v2.adam")
        importlib.import_module("tensorflow.keras.optimizers.legacy")
        keras_legacy_opt.uninstall()
        keras_legacy_opt.uninstall()
    after = names_of_kerases()
    for key, value in before.items():
        assert after[key] is value, key
    added = {module for module, _ in after.keys() - before.keys()}
    # Only what Keras itself has.
    assert added.isdisjoint(modules)
    for name in added:
        assert sys.modules[name].__file__
    with pytest.raises(ImportError):
        importlib.import_module("keras.optimizer_v2.adam")


def test_what_others_have_changed_stays(monkeypatch):
    keras_legacy_opt.install(top_level=True)
    mine = type("Adam", (keras_legacy_opt.Adam,), {})
    monkeypatch.setattr(keras.optimizers, "Adam", mine)
    keras_legacy_opt.uninstall()
    assert keras.optimizers.Adam is mine
    monkeypatch.undo()
    keras.optimizers.Adam = importlib.import_module("keras.src.optimizers").Adam


def test_contexts_nest():
    own = keras.optimizers.Adam
    with keras_legacy_opt.installed():
        with keras_legacy_opt.installed(top_level=True):
            assert keras.optimizers.Adam is keras_legacy_opt.Adam
            with keras_legacy_opt.installed():
                assert keras.optimizers.Adam is keras_legacy_opt.Adam
        assert keras.optimizers.Adam is own
        assert keras.optimizers.legacy.Adam is keras_legacy_opt.Adam
    assert keras.optimizers.legacy.Adam is not keras_legacy_opt.Adam
    with pytest.raises(KeyError), keras_legacy_opt.installed():
        raise KeyError
    assert keras.optimizers.legacy.Adam is not keras_legacy_opt.Adam


def test_what_was_imported_before_is_named(monkeypatch):
    program = types.ModuleType("some_program")
    program.Adam = keras.optimizers.Adam
    program.make = keras.optimizers.legacy.SGD
    monkeypatch.setitem(sys.modules, "some_program", program)
    with pytest.warns(UserWarning, match="imported from Keras") as caught:
        keras_legacy_opt.install(top_level=True)
    assert program.Adam is not keras_legacy_opt.Adam
    keras_legacy_opt.uninstall()
    (warning,) = caught
    assert warning.filename == __file__
    text = str(warning.message)
    assert "some_program.Adam, some_program.make" in text
    assert "python -m keras_legacy_opt run" in text


def test_threads():
    """All see all names, whoever installs or takes them away."""
    errors = []

    def work():
        try:
            for _ in range(5):
                keras_legacy_opt.install(top_level=True)
                importlib.import_module("keras.optimizers.optimizer_v2.adam")
                keras_legacy_opt.uninstall()
        except ImportError:
            pass  # Another has uninstalled it.
        except KeyError as error:  # Or its parent, as it was imported.
            if error.args != ("keras.optimizers.optimizer_v2",):
                errors.append(error)
        except Exception as error:
            errors.append(error)

    own = keras.optimizers.Adam
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    keras_legacy_opt.uninstall()
    assert not errors
    assert keras.optimizers.Adam is own


def run(arguments, tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "keras_legacy_opt", "run", *arguments],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 3, done.stderr
    return done.stdout


@pytest.mark.processes
def test_run(tmp_path):
    (tmp_path / "beside.py").write_text(
        "from tensorflow.keras.optimizers import Adam\n"
    )
    (tmp_path / "program.py").write_text("""
import sys
import beside
import tensorflow as tf
assert __name__ == "__main__"
print(beside.Adam.__module__, tf.keras.optimizers.legacy.Adam.__module__)
print(*sys.argv[1:])
sys.exit(3)
""")
    ours = "keras_legacy_opt.rules.adam"
    output = run(["program.py", "-m", "--legacy-only"], tmp_path)
    assert output == f"{ours} {ours}\n-m --legacy-only\n"
    output = run(["--legacy-only", "-m", "program", "a"], tmp_path)
    assert output == f"keras.src.optimizers.adam {ours}\na\n"


@pytest.mark.parametrize("name", legacy_names.HELPERS)
def test_files_of_helpers(name, top_level):
    helpers = importlib.import_module(name)
    gradient, variable = tf.constant(3.0), tf.Variable(1.0)
    pairs = [(gradient, variable), (None, tf.Variable(1.0))]
    ((kept, of),) = helpers.filter_empty_gradients(pairs)
    assert kept is gradient
    assert of is variable
    clip = helpers.make_gradient_clipvalue_fn(0.5)
    assert float(clip([(gradient, variable)])[0][0]) == 0.5
    package, _, file = name.rpartition(".")
    assert getattr(importlib.import_module(package), file) is helpers
