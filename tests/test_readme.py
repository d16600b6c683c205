"""The code of the README runs, and what it names exists."""

import re

import documents
import pytest

PATH = documents.ROOT / "README.md"
README = PATH.read_text()
BLOCKS = documents.blocks(PATH)


def test_there_is_code():
    assert len(BLOCKS) == 3
    assert all("assert " in block.code for block in BLOCKS)


@pytest.mark.parametrize("block", BLOCKS, ids=["keras", "tf_keras", "loop"])
def test_code(block, tmp_path):
    documents.run(PATH, [block], tmp_path)


def test_links_and_commands_exist():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    commands = re.findall(r"^    \./(\S+)", README, re.MULTILINE)
    assert commands == ["scripts/example.sh", "scripts/test.sh"]
    for path in links + commands:
        assert (documents.ROOT / path).exists(), path
