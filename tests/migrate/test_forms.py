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
