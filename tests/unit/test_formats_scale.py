"""Coders larger than is comfortable, in small: tests/benchmarks/bench_scale.py with fewer rows, held to bounds."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from iam.formats import SafetensorsFile, write_safetensors

SCRIPT = Path(__file__).resolve().parents[1] / "benchmarks" / "bench_scale.py"
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc and asks mincore")


def bench(tmp_path, *arguments):
    out = tmp_path / "result.json"
    command = [sys.executable, str(SCRIPT), "--folder", str(tmp_path), "--json", str(out), *arguments]
    subprocess.run(command, check=True, capture_output=True, timeout=300)
    return json.loads(out.read_text())


@linux
def test_rows_are_streamed_past_a_coder_that_is_held_once(tmp_path):
    """Peak memory is the weights, once, and one batch of rows; neither a second copy nor the rows' file fits under the bound."""
    found = bench(tmp_path, "--only", "stream", "--rows", "16000", "--d-in", "1024", "--d-sae", "4096")["stream"]
    weights, rows, batch = found["weight_bytes"], found["rows_bytes"], 2048 * 1024 * 4
    bound = 1.1 * weights + batch + (24 << 20)  # libraries, codes of a batch, scratch of the kernel
    assert weights + rows > bound and 2 * weights + batch + (8 << 20) > bound - (8 << 20)
    assert found["hwm"] - found["rss_before"] < bound, found
    assert 40 < found["l0"] < 90 and found["largest_error"] < 1e-4


@linux
def test_a_cross_layer_transcoder_of_160_gb_reads_the_rows_that_it_uses(tmp_path):
    found = bench(tmp_path, "--only", "cross_layer")["cross_layer"]
    # the benchmark reports seconds by the clock; a test shares its machine, so it counts those of the processor
    assert found["bytes"] > 160e9 and found["open_cpu_seconds"] < 0.5
    assert found["bytes_in_memory_before"] < 1 << 20
    # whole pages at both ends of each row
    assert found["bytes_in_memory"] < found["bytes_of_used_rows"] + 2 * 4096 * 16 * 26 + (1 << 20)
    assert found["hwm"] < 256 << 20


def test_hints_change_nothing_about_what_is_read(tmp_path):
    """Rows in any order, twice, from the end, as a mask, of a view: what NumPy gives."""
    array = np.random.default_rng(0).normal(size=(500, 3, 40)).astype(np.float32)
    write_safetensors(tmp_path / "x.safetensors", {"pad": np.zeros(3, np.float32), "x": array})
    lazy = SafetensorsFile(tmp_path / "x.safetensors").lazy("x")
    for index in ([499, 0, 0, -1], np.arange(500) % 7 == 0, np.zeros(0, int), [[1, 2], [3, 499]], slice(3, 9), 5):
        assert np.array_equal(lazy.rows(index), array[index])
    assert np.array_equal(lazy.from_layer(1).rows([7, 3]), array[[7, 3], 1:])
    assert np.array_equal(lazy.T.rows([7, 3]), array.T[[7, 3]])
    for wrong in ([500], [-501]):
        with pytest.raises(IndexError):
            lazy.rows(wrong)
