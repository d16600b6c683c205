"""`migrate` on programs in which something is hard to see or to place.

Each ends with the optimizers it has made in `made`.  What becomes of it is run:
all of them are this package's then.
"""

import textwrap
import types

import keras
import libcst as cst
import pytest

from keras_legacy_opt.migrate import codemod, rewrite


def program(text):
    return textwrap.dedent(text).lstrip("\n")


def run(code):
    """The namespace of a program."""
    module = types.ModuleType("program")
    exec(compile(code, "program", "exec", dont_inherit=True), vars(module))
    return vars(module)


def check(code, newline="\n"):
    """What becomes of a program, and once more nothing becomes of that."""
    before = code.replace("\n", newline)
    after = codemod.rewritten(before).code
    assert codemod.rewritten(after).code == after
    assert after.count("\n") == after.count(newline)
    for made in run(after)["made"]:
        package = type(made).__module__.partition(".")[0]
        assert package == "keras_legacy_opt", after
    return after.replace(newline, "\n")


DIVIDED = {
    "one name stays": """
        from tensorflow.keras.optimizers import (
            Adam,
            AdamW,
            SGD,
        )
        made = Adam(), SGD()
        """,
    "comments": """
        from tensorflow.keras.optimizers import (  # of Keras
            # the usual one
            Adam,  # first
            # new in 2.11
            AdamW,  # second
            Lion,
            # the oldest
            SGD as Descent,  # third
            # the end
        )
        made = Adam(), Descent()
        """,
    "no comma at the end": """
        from tensorflow.keras.optimizers import (Adam, AdamW,
                                                 SGD, Lion)
        made = Adam(), SGD()
        """,
    "commas first": """
        from tensorflow.keras.optimizers import ( Adam  # first
                                                , AdamW  # second
                                                # of all the last
                                                , SGD  # third
                                                )
        made = Adam(), SGD()
        """,
    "comment at the end": """
        from tensorflow.keras.optimizers import (
            AdamW, Adam, SGD  # two that are old
        )
        made = Adam(), SGD()
        """,
    "in a line": """
        from tensorflow.keras.optimizers import Adam, AdamW, SGD  # a comment
        made = Adam(), SGD()
        """,
    "continued lines": """
        from tensorflow.keras.optimizers import Adam, \\
            AdamW, \\
            SGD
        made = Adam(), SGD()
        """,
    "in a function, with tabs": """
        def make():
        \tfrom tensorflow.keras.optimizers import (
        \t\tAdam,
        \t\t# a comment

        \t\tAdamW,
        \t\tSGD,
        \t)
        \treturn Adam(), SGD()
        made = make()
        """,
    "modules": """
        from tensorflow.keras import (
            layers,
            optimizers,
            # what is left
            losses,
        )
        made = [optimizers.Adam()]
        """,
    "modules in a line": """
        import tensorflow.keras.optimizers as ko, os, \\
            sys
        made = [ko.Adam()]
        """,
    "all of it is used up": """
        try:
            from tensorflow.keras import optimizers
        except ImportError:
            from keras import optimizers
        if True: from keras import optimizers as others
        made = optimizers.Adam(), others.SGD()
        """,
}


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("name", DIVIDED)
def test_divided_imports(name, newline):
    code = program(DIVIDED[name])
    after = check(code, newline)
    comments = [line.partition("#")[2] for line in code.splitlines()]
    for comment in filter(None, comments):
        assert after.count(f"#{comment}\n") >= 1, after
    namespace = run(after)
    for new in ("AdamW", "Lion"):
        if new in code:
            assert namespace.get(new, keras.optimizers.AdamW).__module__


def test_form_of_divided_imports():
    assert check(program(DIVIDED["comments"])) == program(
        """
        from tensorflow.keras.optimizers import (  # of Keras
            # new in 2.11
            AdamW,  # second
            Lion,
        )
        from keras_legacy_opt import (  # of Keras
            # the usual one
            Adam,  # first
            # the oldest
            SGD as Descent,  # third
            # the end
        )
        made = Adam(), Descent()
        """
    )


A, B, C = map(cst.Name, "abc")
LINES = cst.Comma(whitespace_after=cst.ParenthesizedWhitespace(indent=True))
SUM = cst.BinaryOperation(A, cst.Add(), B)


@pytest.mark.parametrize(
    "wrong",
    [
        # No Python: it would need parentheses.
        cst.Import([cst.ImportAlias(A, comma=LINES), cst.ImportAlias(B)]),
        # Another sum: it would need them, too.
        cst.Expr(cst.BinaryOperation(SUM, cst.Multiply(), C)),
        # Not in a function.
        cst.Return(A),
    ],
)
def test_nothing_wrong_is_written(wrong, monkeypatch):
    """Whatever a rewrite makes: it is read again."""

    def rewritten(module, found):
        return module.with_changes(body=[cst.SimpleStatementLine([wrong])])

    monkeypatch.setattr(rewrite, "rewritten", rewritten)
    with pytest.raises(ValueError, match="a mistake of `migrate`"):
        codemod.rewritten("import keras\nkeras.optimizers.Adam()\n")


PLACED = {
    "used in the line of the import": """
        import tensorflow as tf; made = [tf.keras.optimizers.Adam(1e-3)]
        """,
    "the import that is used up": """
        import os; import tensorflow.keras.optimizers as ko; made = [ko.Adam()]
        """,
    "used before the import": """
        import builtins
        made = [builtins.__import__("keras").Sequential()]
        made[0].compile("adam"); made = [made[0].optimizer]; import keras
        """,
    "used in the statement of the import": """
        '''A docstring.'''

        # Whatever there is.
        try:
            import tensorflow as tf
            made = [tf.keras.optimizers.Adam()]
        except ImportError:
            pass
        """,
    "imported in functions only": """
        '''A docstring.'''; from __future__ import annotations; import os
        def make():
            import keras
            return [keras.optimizers.Adam()]
        made = make()
        """,
    "in a class": """
        from __future__ import annotations
        class Settings:
            import tensorflow as tf
            made = [tf.keras.optimizers.Adam()]
        made = Settings.made
        import tensorflow as tf
        """,
    "imported as another name, later": """
        import keras
        made = [keras.optimizers.Adam()]
        import keras_legacy_opt as klo
        made.append(keras.optimizers.SGD())
        """,
    "imported in a function, too": """
        import keras
        def make():
            import keras_legacy_opt as klo
            return klo.Adam()
        made = [keras.optimizers.Adam(), make()]
        """,
    "in a condition": """
        TYPE_CHECKING = False
        if TYPE_CHECKING:
            from tensorflow import keras
        if not TYPE_CHECKING: import keras; made = [keras.optimizers.Adam()]
        """,
    "close to words": """
        import keras as k
        made = [k.optimizers.SGD()if False else(k).optimizers.Adam()]
        """,
}


@pytest.mark.parametrize("name", PLACED)
def test_place_of_the_import(name):
    check(program(PLACED[name]))


def test_a_line_stays_a_line():
    assert check(program(PLACED["used in the line of the import"])) == program(
        """
        import tensorflow as tf; import keras_legacy_opt; \\
        made = [keras_legacy_opt.Adam(1e-3)]
        """
    ).replace("\\\n", "")


HARD_TO_SEE = {
    "a suite in the line of its condition": """
        if True: from tensorflow.keras.optimizers import Adam
        if True: x = 1; from keras.optimizers import SGD, AdamW; y = 2
        made = Adam(), SGD()
        """,
    "conditional names": """
        import keras
        condition, other = True, None
        for key in (0, 1, 2):
            model = keras.Sequential()
            if key == 0:
                model.compile(optimizer='adam' if condition else'sgd')
            elif key == 1:
                model.compile(("nadam" if other else other) or "adamax", "mse")
            else:
                model.compile(
                    (
                        "rmsprop"  # the default
                        if not condition
                        else keras.optimizers.SGD(0.5)
                    ),
                )
        made = [model.optimizer]
        """,
    "addons": """
        import tensorflow_addons as tfa
        from tensorflow_addons.optimizers import LAMB, SWA as Average
        from tensorflow_addons import optimizers
        from tensorflow_addons.optimizers.lookahead import Lookahead
        import tensorflow_addons.optimizers as ao
        import tensorflow_addons.optimizers.yogi
        base = tfa.optimizers.RectifiedAdam
        ko = tfa.optimizers
        made = [
            LAMB(0.1),
            Average(base(0.1), 0, 1),
            optimizers.AdamW(0.1, 0.1),
            Lookahead(ao.NovoGrad(0.1)),
            tensorflow_addons.optimizers.yogi.Yogi(0.1),
            ko.COCOB(),
        ]
        """,
    "the modules of schedules": """
        from tensorflow.keras.optimizers import schedules, SGD
        import keras
        other = keras.optimizers.schedules
        same = schedules
        made = [same.CosineDecay(0.1, 3), other.PolynomialDecay(0.1, 3), SGD()]
        """,
    "modules by other names": """
        import tensorflow as tf
        keras = tf.keras
        k = keras
        ko = k.optimizers
        some = keras.optimizers
        if module := k.optimizers:
            made = [module.Adam()]
        def make():
            own = keras.optimizers
            return [own.Adam(), k.optimizers.SGD(), ko.SGD(), some.Ftrl(0.1)]
        made += make()
        made += [some.legacy.Adam(), some.schedules.CosineDecay(0.1, 3)]
        assert some.AdamW
        v2 = tf.compat.v2
        made += [v2.optimizers.SGD(), tf.compat.v2.keras.optimizers.SGD()]
        """,
    "names that are taken": """
        import keras, keras_legacy_opt as klo
        def make(keras_legacy_opt, klo):
            return keras.optimizers.Adam()
        made = [make(1, 2)]
        keras_legacy_opt_ = 3
        """,
    "methods that are functions": """
        import keras, re as r
        class Model(keras.Sequential):
            def compile(self, **kwargs):
                keras.Sequential.compile(self, "adam", **kwargs)
        first, second, third = Model(), keras.Sequential(), keras.Sequential()
        first.compile()
        keras.Model.compile(second, "sgd")
        keras.Model.compile(third, optimizer="sgd")
        made = [first.optimizer, second.optimizer, third.optimizer]
        assert r.compile("adam").match("adam")
        """,
    "a file of old releases": """
        import keras.optimizers.optimizer_v2.adam
        import keras.optimizer_v2.gradient_descent as gradient_descent
        made = [
            keras.optimizers.optimizer_v2.adam.Adam(),
            gradient_descent.SGD(0.1),
        ]
        assert keras.Model
        """,
}


@pytest.mark.parametrize("name", HARD_TO_SEE)
def test_what_is_hard_to_see(name):
    check(program(HARD_TO_SEE[name]))


def test_names_that_others_may_import_stay():
    code = program(
        """
        from tensorflow.keras import optimizers
        __all__ = ["optimizers"]
        class Settings:
            from tensorflow.keras import optimizers as inside
            made = [inside.Adam()]
        made = [optimizers.SGD(), Settings.inside.AdamW()]
        del made[1]
        """
    )
    assert run(check(code))["optimizers"].AdamW


# What is told of is in the lines with a mark.
TOLD = {
    "names in variables": """
        import keras
        name = "adam"
        ours = keras.optimizers.Adam()
        for each in ("sgd", "adam"):
            model.compile(optimizer=each, loss="mse")  # told
        for own in (keras.optimizers.SGD(), keras.optimizers.Adam()):
            model.compile(own)
        model.compile(optimizer=name)  # told
        model.compile(optimizer=ours)
        model.compile(name if name else ours)  # told
        model.compile(optimizer=(new := name))  # told
        table = {"a": "adam", "b": ours}
        model.compile(table["a"])  # told
        optimizers = {"a": keras.optimizers.SGD(), "b": ours}
        model.compile(optimizers["a"])
        first, second = "adam", ours
        model.compile(optimizer=first)  # told
        [model.compile(optimizer=each) for each in ["ftrl"]]  # told
        """,
    "arguments": """
        import keras
        def build(optimizer="adam", other=keras.optimizers.SGD(), **cfg):
            model.compile(optimizer=optimizer)  # told
            model.compile(optimizer=other)
            model.compile(**cfg)  # told
            model.compile(other, **cfg)
        def train(optimizer, other: str, third: keras.optimizers.Optimizer):
            model.compile(optimizer)  # told
            model.compile(other)  # told
            model.compile(third)
        model.compile(optimizer=args.optimizer)  # told
        model.compile(optimizer=config["optimizer"])  # told
        model.compile(optimizer=config.get("optimizer", "x"))  # told
        model.compile(optimizer=getattr(args, "optimizer"))  # told
        model.compile(optimizer=args.name.lower())  # told
        model.compile(optimizer=f"{name}")  # told
        model.compile(optimizer=choice("optimizer", ["adam", "sgd"]))  # told
        model.compile(optimizer={"class_name": "Adam", "config": {}})  # told
        model.compile(optimizer=keras.optimizers.Adam(name="Adam"))
        model.compile(optimizer=make())
        model.compile(*settings)  # told
        model.compile(loss="mse")  # told
        """,
    "attributes": """
        import keras
        class Trainer:
            def __init__(self, chosen):
                self.own = keras.optimizers.Adam()
                self.chosen = chosen
            def compile(self, optimizer, **kwargs):
                super().compile(optimizer=optimizer, **kwargs)
            def train(self, model):
                model.compile(optimizer=self.own)
                model.compile(optimizer=self.chosen)  # told
                model.compile(optimizer=model.optimizer, loss="mse")
        """,
    "other functions": """
        import re, keras, torch
        from settings import optimizer
        pattern = "adam"
        re.compile(pattern)
        torch.compile(pattern)
        lowered.compile()
        make(optimizer="adam" if pattern else None)  # told
        model.compile(optimizer)  # told
        """,
    "in a file without Keras": """
        def build(optimizer, pattern="adam"):
            lowered.compile(pattern)
            lowered.compile(**pattern)
            model.compile(optimizer=optimizer)  # told
        """,
    "addons": """
        import tensorflow_addons as tfa  # told
        import tensorflow_addons.layers  # told
        from tensorflow_addons.layers import WeightNormalization  # told
        from tensorflow_addons.optimizers import LAMB, Unknown  # told
        tfa.optimizers.AdamW(0.1, 0.1)
        tfa.layers.GELU()
        """,
    "modules that are handed on": """
        import keras
        from keras import optimizers
        settings.optimizers = optimizers  # told
        pair = keras.optimizers, 1  # told
        ko = optimizers  # told
        call(optimizers=3)
        def f():
            if optimizers is None:
                return keras.optimizers  # told
            hasattr(optimizers, "legacy")
            return 1
        """,
    "a default of `compile`": """
        import keras
        class Model(keras.Model):
            def compile(self, optimizer="adam", **kwargs):  # told
                super().compile(optimizer, **kwargs)
        def build(optimizer="adam"):
            return optimizer
        """,
    "a part of a module": """
        import tensorflow as tf
        policies = tf.keras.mixed_precision
        policies.set_global_policy("float32")
        scaling = tf.keras.mixed_precision  # told
        scaling.set_global_policy("float32")
        scaling.LossScaleOptimizer(1)
        """,
}


@pytest.mark.parametrize("name", TOLD)
def test_what_is_told(name):
    code = program(TOLD[name])
    lines = enumerate(code.splitlines(), start=1)
    marked = [number for number, line in lines if "# told" in line]
    notes = codemod.rewritten(code).notes
    assert sorted({line for line, _ in notes}) == marked, notes


def test_comments_over_what_is_removed_stay():
    code = program(
        """
        import keras
        def make():
            # what is used
            from keras import optimizers

            # how it is used
            try:
                # of Keras
                from keras import optimizers
            except ImportError: pass
            return [optimizers.SGD()]
        made = make()
        """
    )
    after = check(code)
    for comment in ("what is used", "how it is used", "of Keras"):
        assert f"# {comment}\n" in after
