"""Every pass has a page, made of its ODS text and of a lit test, and the page is current."""

import subprocess
import sys


def test_pages_are_current(repo_root):
    done = subprocess.run(
        [sys.executable, repo_root / "scripts" / "gen_pass_docs.py", "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_pass_is_in_the_overview(repo_root):
    overview = (repo_root / "docs" / "passes.md").read_text(encoding="utf-8")
    for page in (repo_root / "docs" / "passes").glob("*.md"):
        assert f"passes/{page.name}" in overview, f"docs/passes.md does not link {page.name}"
