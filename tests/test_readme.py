"""The code of the README runs, and what it names exists."""

import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_there_is_code():
    assert len(BLOCKS) == 5
    assert all("assert " in block for block in BLOCKS)


@pytest.mark.parametrize(
    "block", BLOCKS, ids=["keras", "loop", "by name", "float16", "minimize"]
)
def test_code(block, tmp_path):
    path = tmp_path / "readme.py"  # tf.function reads its source.
    path.write_text(block)
    exec(compile(block, str(path), "exec"), {"__name__": "readme"})


def test_links_and_commands_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    commands = re.findall(r"^    \./(\S+)", README, re.MULTILINE)
    assert commands == ["scripts/example.sh", "scripts/test.sh"]
    for path in links + commands:
        assert (ROOT / path).exists(), path
