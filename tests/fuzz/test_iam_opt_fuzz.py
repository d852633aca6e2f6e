"""A short run of the fuzzer of ``iam-opt``; the long one is ``python tests/fuzz/fuzz_iam_opt.py --runs 100000``."""

import sys
from pathlib import Path

import pytest

pytest.importorskip("iam.mlir.ir", reason="IAM was built without its compiler")
sys.path.insert(0, str(Path(__file__).parent))

import fuzz_iam_opt as fuzz


def test_nothing_crashes_or_hangs():
    report = fuzz.fuzz(seed=0, runs=2000, workers=2, seconds=45)
    assert not [found for found in report["findings"] if fuzz.is_bad(found[0])]
    # A fuzzer whose inputs are all refused tests the parser alone.
    assert report["runs"] >= 100
    assert report["outcomes"]["done"] >= 0.1 * report["runs"]
    assert report["outcomes"]["failed"] > 0


def test_the_grammar_writes_programs_that_verify():
    with fuzz.new_context():
        for seed in range(60):
            made = fuzz.Grammar(fuzz.random.Random(seed))
            made.mistakes = 0.0
            text = made.program()
            assert fuzz.run_one(text, "") == "done", text


def test_a_crash_and_a_hang_are_told_apart_from_a_refusal():
    assert fuzz.alone("func.func @f() { return }", "canonicalize") == "done"
    assert fuzz.alone("func.func @f() { return", "canonicalize") == "refused"
    assert fuzz.alone("func.func @f() { return }", "canonicalize", seconds=0.001) == "hang"
    assert fuzz.is_bad("hang")
    assert fuzz.is_bad("SIGSEGV: nothing said")
    assert not fuzz.is_bad("refused")
