"""The examples run as they stand."""

import re
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("smollm2_gguf")]


def output_of(path, *arguments):
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_coder_inside_a_model(repo_root):
    said = output_of(repo_root / "examples/pythia_integration.py", "--new-tokens", "12")
    assert "explained_variance" in said
    as_it_is = said.split("as it is:")[1].split("through the coder:")[0]
    through = said.split("through the coder:")[1].split("without #")[0]
    without = said.split("without #")[1].split(":", 1)[1]
    assert as_it_is.strip() == through.strip()  # the error term makes it exact
    assert without.strip() != through.strip()


def test_effects_of_features(repo_root):
    said = output_of(repo_root / "examples/feature_effects.py")
    total, of = map(float, re.search(r"(\S+)  in all, of (\S+)", said).groups())
    assert abs(total - of) < 0.01 * abs(of)  # completeness
    by_token = {token: float(by) for by, token in re.findall(r"^ +([+-][\d.]+)  '(.*)'$", said, re.MULTILINE)}
    assert by_token[" Italy"] > 0.9 * total  # the only one that differs
    effects = {int(j): float(by) for j, by in re.findall(r"#(\d+), active .*\(([+-][\d.]+)\)", said)}
    assert len(effects) == 8
    assert min(effects, key=effects.get) == 3617
    assert effects[3617] < -5


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--against", "Rome"], "--text has 16 tokens and --against 1: they are compared token by token"),
        (["--answers", " Rome", " electroencephalography"], "--answers takes one token each, got [["),
    ],
)
def test_what_cannot_be_compared(repo_root, arguments, text):
    path = repo_root / "examples/feature_effects.py"
    done = subprocess.run([sys.executable, path, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert text in done.stderr
