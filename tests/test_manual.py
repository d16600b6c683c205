"""The code of the manual runs and prints what it shows; what it names exists."""

import re

import documents
import pytest

NAMED = re.compile(
    r"\b(?:benchmarks|docs|examples|scripts|tests|tf_custom_ops)/[\w./]*\w"
)


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


def test_all_pages_are_in_the_contents():
    contents = (documents.ROOT / "mkdocs.yml").read_text()
    for page in documents.PAGES:
        assert f": {page.name}\n" in contents
