"""The code of the manual runs and prints what it shows; its files exist."""

import re

import documents
import preforked
import pytest

import keras_legacy_opt

NAMED = re.compile(
    r"\b(?:benchmarks|docs|examples|scripts|tests|tf_custom_ops)/[\w./]*\w"
)
FENCES = re.compile(r"^``` *([^`\n]+)\n(.*)", re.MULTILINE)


@pytest.mark.processes
@pytest.mark.parametrize(
    "page",
    [page for page in documents.PAGES if documents.blocks(page)],
    ids=lambda page: page.stem,
)
def test_code(page, tmp_path, native_ops):
    """In a process of its own, which no other test has changed."""
    status, output = preforked.run(
        documents.__file__,
        page,
        tmp_path,
        env={},
        log=tmp_path / "log",
    )
    assert status == 0, output


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: page.stem)
def test_what_is_named_exists(page):
    for name in NAMED.findall(page.read_text()):
        assert (documents.ROOT / name).exists(), name


def test_code_that_is_not_run_is_included():
    """In a fence of another kind than those that `test_code` runs."""
    for page in documents.PAGES:
        for fence, line in FENCES.findall(page.read_text()):
            if "py" in fence and fence not in ("python", "pycon"):
                assert line.startswith('--8<-- "'), f"{page.name}: {line}"


def test_all_pages_are_in_the_contents():
    contents = (documents.ROOT / "mkdocs.yml").read_text()
    for page in documents.PAGES:
        assert f": {page.name}\n" in contents


def test_all_public_names_are_in_the_reference():
    reference = (documents.ROOT / "docs" / "reference.md").read_text()
    for name in keras_legacy_opt.__all__:
        assert f"::: keras_legacy_opt.{name}\n" in reference
