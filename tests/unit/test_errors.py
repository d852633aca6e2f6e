"""Errors: what they derive from, their codes, and the page that each code has."""

import copy
import pickle
import re

import pytest

import iam
from iam.core import errors

CLASSES = [getattr(errors, name) for name in errors.__all__ if isinstance(getattr(errors, name), type)]


@pytest.mark.parametrize(
    ("name", "builtin"),
    [
        ("ArgumentError", ValueError),
        ("ShapeError", ValueError),
        ("DtypeError", TypeError),
        ("NonFiniteError", ValueError),
        ("FormatError", ValueError),
        ("SiteError", ValueError),
        ("CompileError", ValueError),
        ("TraceError", TypeError),
        ("MissingDependencyError", ImportError),
        ("InternalError", RuntimeError),
        ("OutOfMemoryError", MemoryError),
    ],
)
def test_is_also_the_builtin_that_python_users_expect(name, builtin):
    cls = getattr(iam.errors, name)
    assert issubclass(cls, errors.IamError) and issubclass(cls, builtin)
    with pytest.raises(builtin, match="what happened"):
        raise cls("what happened")


@pytest.mark.parametrize("cls", CLASSES)
def test_code_survives_copy_and_pickle(cls):
    error = cls("text", code="k-range")
    for other in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(other) is cls and str(other) == "text" and other.code == "k-range"


@pytest.mark.parametrize("cls", CLASSES)
def test_default_code_is_listed(cls):
    assert cls("text").code == cls.default_code
    assert cls.default_code in errors.CODES


def test_codes_and_pages_agree(repo_root):
    pages = {path.stem for path in (repo_root / "docs" / "errors").glob("*.md")} - {"README"}
    assert pages == set(errors.CODES)
    assert list(errors.CODES) == sorted(errors.CODES)


@pytest.mark.parametrize("code", errors.CODES)
def test_page_says_what_to_do(repo_root, code):
    text = (repo_root / "docs" / "errors" / f"{code}.md").read_text(encoding="utf-8")
    assert text.startswith(f"# {code}\n")
    assert "## What to do" in text
    named = set(re.findall(r"`(\w+Error)`", text))
    assert named and named <= set(errors.__all__), "the page names the class, and only classes that exist"


def test_index_lists_every_page(repo_root):
    text = (repo_root / "docs" / "errors" / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| \[([\w-]+)\]\(\1\.md\)", text, flags=re.M) == list(errors.CODES)


def test_every_code_in_the_sources_is_listed(repo_root):
    unknown = []
    for path in sorted((repo_root / "python").rglob("*.py")):
        for code in re.findall(r"""\bcode=["']([^"']+)["']""", path.read_text(encoding="utf-8")):
            if code not in errors.CODES:
                unknown.append(f"{path.relative_to(repo_root)}: {code}")
    assert not unknown


def test_both_names_of_the_module_are_one():
    assert iam.errors.__all__ == errors.__all__
    assert all(getattr(iam.errors, name) is getattr(errors, name) for name in errors.__all__)
