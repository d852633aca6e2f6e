"""The examples run as they stand."""

import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("smollm2_gguf")]


def test_a_coder_inside_a_model(repo_root):
    done = subprocess.run(
        [sys.executable, repo_root / "examples/pythia_integration.py", "--new-tokens", "12"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "explained_variance" in done.stdout
    as_it_is = done.stdout.split("as it is:")[1].split("through the coder:")[0]
    through = done.stdout.split("through the coder:")[1].split("without #")[0]
    without = done.stdout.split("without #")[1].split(":", 1)[1]
    assert as_it_is.strip() == through.strip()  # the error term makes it exact
    assert without.strip() != through.strip()
