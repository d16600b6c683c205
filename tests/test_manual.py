"""The code of the manual runs and prints what it shows; its files exist."""

import re

import documents
import pytest

import keras_legacy_opt

# Of what other tests have imported.
pytestmark = pytest.mark.filterwarnings("ignore:.*imported from Keras before")


@pytest.fixture(autouse=True)
def uninstalled():
    """Whatever a page does, or fails to do."""
    yield
    keras_legacy_opt.uninstall()


NAMED = re.compile(
    r"\b(?:benchmarks|docs|examples|scripts|tests|tf_custom_ops)/[\w./]*\w"
)
FENCES = re.compile(r"^``` *([^`\n]+)\n(.*)", re.MULTILINE)


@pytest.mark.parametrize("page", documents.PAGES, ids=lambda page: page.stem)
def test_code(page, tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    if "native ops\n" in page.read_text():
        request.getfixturevalue("native_ops")
    documents.run(page, documents.blocks(page), tmp_path)


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
