"""The main job, as a user runs it: ``iam demo`` in a process of its own, on the real model."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("smollm2_gguf")]

COMMAND = [sys.executable, "-m", "iam.cli", "demo"]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Output and report of one run."""
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [*COMMAND, "--json", folder / "report.json", "--max-new-tokens", "24"],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        env={**os.environ, "COLUMNS": "100"},
    )
    assert done.returncode == 0, done.stderr
    assert os.listdir(folder) == ["report.json"]
    return done, json.loads((folder / "report.json").read_text())


def test_demo_report(demo):
    _, report = demo
    assert report["site"] == "resid_post.15"
    assert report["coder"]["features"] == 4608 and report["coder"]["k"] == 32
    assert 0.6 < report["quality"]["explained_variance"] < 1
    assert 24 <= report["quality"]["l0"] <= 32
    assert not report["tokens"][0]["counted"]
    shown = {active["feature"] for token in report["tokens"] for active in token["features"]}
    explained = [feature for feature in shown if report["features"][str(feature)]["examples"]]
    assert len(explained) > len(shown) / 2


def test_demo_steers(demo):
    _, report = demo
    steering = report["steering"]
    assert steering["kl"] > 0.1
    assert steering["continuation_before"] != steering["continuation_after"]
    assert report["features"][str(steering["feature"])]["examples"]
    for side in ("before", "after"):
        probabilities = [token[side] for token in steering[f"top_{side}"]]
        assert probabilities == sorted(probabilities, reverse=True) and sum(probabilities) <= 1 + 1e-9


def test_demo_ran_a_compiled_and_fused_program(demo):
    _, report = demo
    steered = report["programs"]["steered"]
    assert "iam.clt.decode" in steered["iam"] and "iam.clt.delta" not in steered["iam"]
    assert "iam.clt.delta" in steered["fused"]
    assert report["compilation"]["steered"]["compilations"] == 1


def test_demo_says_where_it_comes_from(demo):
    _, report = demo
    assert set(report["hashes"]) == {"prompt", "coder", "model"}
    assert all(report["versions"][name] for name in ("iam", "mlir", "numpy", "torch", "transformers"))
    assert {stage["name"] for stage in report["stages"]} >= {"load the model", "encode and decode"}


def test_demo_output_is_plain_and_fits(demo):
    done, report = demo
    assert "\x1b" not in done.stdout  # no terminal, no colour
    assert max(map(len, done.stdout.splitlines())) <= 100
    for text in ("variance explained", "KL", "steered", f"#{report['steering']['feature']}"):
        assert text in done.stdout


def wait_until_mapped(process, file):
    """Until the process has mapped a file of that name: how far it is, whatever the speed of the machine."""
    maps = pathlib.Path(f"/proc/{process.pid}/maps")
    for _ in range(6000):
        if process.poll() is not None or file in maps.read_text():
            return
        time.sleep(0.02)
    raise TimeoutError(f"the demo did not load {file}")


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="watches the process through /proc")
@pytest.mark.parametrize(("loaded", "seconds"), [("libtorch_cpu", 0.0), ("model.safetensors", 0.5)])
def test_ctrl_c_during_the_demo(tmp_path, loaded, seconds):
    """Interrupted while libraries load, and while the model works."""
    process = subprocess.Popen(
        [*COMMAND, "--json", tmp_path / "report.json", "--max-new-tokens", "512"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        wait_until_mapped(process, loaded)
        time.sleep(seconds)
        assert process.poll() is None, process.stderr.read()
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == 130, err
    assert "interrupted" in err
    assert "Traceback" not in err
    assert os.listdir(tmp_path) == []
