"""The README does what it says: its program runs, its links lead somewhere, its commands exist."""

import pathlib
import re
import subprocess
import sys

import pytest

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "docs/**/*.md", "tests/benchmarks/README.md")


def python_blocks(text: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", text, flags=re.DOTALL | re.MULTILINE)


def documents(root: pathlib.Path) -> list[pathlib.Path]:
    return sorted({path for pattern in DOCUMENTS for path in root.glob(pattern)})


@pytest.mark.slow
def test_program_of_the_readme_runs(repo_root, smollm2_gguf):
    (program,) = python_blocks((repo_root / "README.md").read_text())
    lines = [line for line in program.splitlines() if line.strip()]
    assert len(lines) <= 17, "the README promises about fifteen lines"
    run = subprocess.run([sys.executable, "-c", program], cwd=repo_root, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    assert "SparseFeatures" in run.stdout
    assert "iam.clt.delta" in run.stdout, "the fused program edits by a delta"
    assert run.stdout.count("iam.clt.decode") == 1, "the second decode is gone"


def test_links_lead_to_files(repo_root):
    broken = []
    for document in documents(repo_root):
        for target in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
            path = target.split("#")[0]
            if path and not re.match(r"[a-z]+:", target) and not (document.parent / path).exists():
                broken.append(f"{document.relative_to(repo_root)}: {target}")
    assert not broken, broken


def test_make_targets_exist(repo_root):
    targets = set(re.findall(r"^([a-z-]+):", (repo_root / "Makefile").read_text(), flags=re.MULTILINE))
    named = {
        target
        for document in documents(repo_root)
        for target in re.findall(r"`?\bmake ([a-z]+(?:-[a-z]+)*)`", document.read_text())
    }
    assert named, "no document names a make target: the pattern of this test is wrong"
    assert named <= targets, named - targets


def test_status_lists_every_op(repo_root):
    families = (repo_root / "mlir/include/iam/Dialect/IAM/IR").glob("*Ops.td")
    ops = {
        f"iam.{name}"
        for path in families
        for name in re.findall(r'^def \w+ : \w+<"([a-z_.]+)"', path.read_text(), re.M)
    }
    rows = re.findall(r"^\| `(iam\.[a-z_.]+)` \|", (repo_root / "docs/status.md").read_text(), flags=re.MULTILINE)
    assert ops, "no op found in the .td files: the pattern of this test is wrong"
    assert set(rows) == ops
