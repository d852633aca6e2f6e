"""The compiler against the oracle: the corpus, a part of the random programs, and rewrites that are wrong on purpose.

The whole of it is `python tests/fuzz/programs.py --random 2000`.
"""

import re
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("iam.mlir.ir", reason="IAM was built without its compiler")
sys.path.insert(0, str(Path(__file__).parent))

import corpus
import programs
from programs import SHAPES, Disagreement, Environment, Tally

from iam.compiler import compile_module
from iam.compiler._trace import FromArgument
from iam.core.errors import IamError

SHAPE = SHAPES[4]


@pytest.mark.parametrize("name", corpus.CORPUS)
def test_hand_written_programs(name):
    tally = Tally()
    for integers in (True, False):
        programs.check(corpus.CORPUS[name], Environment(SHAPE, 3, integers=integers), tally)
    assert tally.rows > 0
    assert tally.open <= 0.25 * tally.rows


def test_there_are_forty_programs_and_every_op_that_runs():
    assert len(corpus.CORPUS) >= 40
    text = ""
    for function in corpus.CORPUS.values():
        jitted, args = programs.recorded(function, Environment(SHAPE, 0, integers=True))
        text += programs.text_of(jitted, args, "iam") + programs.text_of(jitted, args, "fused")
    used = set(re.findall(r"iam\.(?:clt|policy)\.\w+", text))
    ops = "encode topk abstopk groupmax batch_topk jumprelu relu gate matching_pursuit encode_sparse decode densify residual edit delta sub"
    assert used == {*(f"iam.clt.{op}" for op in ops.split()), "iam.policy.steer"}


def test_random_programs():
    tally = programs.run_random(2026, 60)
    assert not tally.failures
    # Choices that rounding decides are left out; there must be few of them, and most programs must be compared.
    assert tally.open <= 0.06 * (tally.rows + tally.open)
    assert tally.too_large <= 3
    assert tally.exact >= 0.2 * tally.rows
    assert tally.executions == (tally.programs - tally.too_large) * 2 * len(programs.levels())


@pytest.mark.skipif(not programs.has_jax(), reason="needs jax, and JitFunction.stablehlo")
def test_random_programs_in_jax():
    tally = programs.run_random(2027, 20, jax=True)
    assert not tally.failures


def test_failures_shrink():
    """A program is cut down to the step that matters."""
    for index in range(200):
        program = programs.random_program(0, index)
        if len(program.steps) >= 5 and any(step.op == "steer" for step in program.steps):
            break
    small = programs.shrink(program, lambda p: any(step.op == "steer" for step in p.steps))
    assert [step.op for step in small.steps] == ["steer"]
    assert small.steps[0].numbers == (0, 0, 0, 0)
    assert programs.outcome(small) is None


# Rewrites that are wrong on purpose: the comparison must catch each.


PLANTED = {
    "bias of a decode dropped": (
        "coder_topk",
        r"(decode %\w+, %\w+), bias %\w+ : \((.*), tensor<\d+xf32>\) ->",
        r"\1 : (\2) ->",
    ),
    "subtraction of b_dec dropped": (
        "coder_topk",
        r"(encode_sparse topk %\w+, %\w+, %\w+) subtract %\w+ (k = \d+) : \((.*), tensor<7xf32>\) ->",
        r"\1 \2 : (\3) ->",
    ),
    "one more feature kept": ("coder_topk", r"k = 9", "k = 10"),
    "one feature less kept": ("coder_abstopk", r"k = 9", "k = 8"),
    "AbsTopK for TopK": ("coder_topk", r"encode_sparse topk", "encode_sparse abstopk"),
    "TopK for AbsTopK": ("coder_abstopk", r"encode_sparse abstopk", "encode_sparse topk"),
    "threshold dropped": (
        "coder_jumprelu",
        r"encode_sparse jumprelu (.*) threshold %\w+ : \((.*), tensor<33xf32>\) ->",
        r"encode_sparse relu \1 : (\2) ->",
    ),
    "operands of a difference swapped": ("error_of_reconstruction", r"subf (%\w+), (%\w+)", r"subf \2, \1"),
    "difference for sum": ("keep_error_topk", r"addf", "subf"),
    "operands of sub swapped": ("difference_of_features", r"clt\.sub (%0), (%1)", r"clt.sub \2, \1"),
    "edited feature off by one": ("error_in_another_order", r"features \[0\]", "features [1]"),
    "last edited feature off by one": (
        "every_edit",
        r"edit set (.*) features \[0, 32\]",
        r"edit set \1 features [0, 31]",
    ),
    "edit of another mode": ("every_edit_of_compressed_rows", r"edit scale", "edit set"),
    "delta of the unedited features": ("several_edits_then_the_difference", r"delta scale %1", "delta scale %2"),
    "ablation forgotten": ("keep_error_jumprelu", r"addf %x, %\w+", "addf %x, %x"),
    "bounds of a clamp swapped": ("every_edit", r"(edit clamp .*) by (%\w+), (%\w+)", r"\1 by \3, \2"),
    "steer of another mode": ("every_steer", r"steer ablate", "steer add"),
    "steer by another number": ("every_steer", r"2\.000000e\+00", "2.000010e+00"),
    "one step of the pursuit left out": ("matching_pursuit", r"max_iterations = 3", "max_iterations = 2"),
    "duplicates do not end the pursuit": ("pursuit_that_meets_a_feature_again", r" stop_on_duplicate_support", ""),
    "skip of another input": ("transcoder_with_skip", r"(residual %\w+), %x", r"\1, %h"),
    "scale of a decode lost": ("sum_and_scale_of_decodes", r"5\.000000e-01", "1.000000e+00"),
    "encode of another input": ("patch_features_from_another_input", r"(encode_sparse jumprelu) %h", r"\1 %x"),
    "constant of the next feature": (
        "every_edit",
        r"dense<2\.000000e\+00> : tensor<2xf32>",
        "dense<[2.0, 1.0]> : tensor<2xf32>",
    ),
}


def run_text(text, jitted, args):
    """Compile the program at stage ``fused`` and call it as ``iam.jit`` would."""
    inputs = programs.recording(jitted, args).program.inputs
    given = [args[v.source.leaf] if isinstance(v.source, FromArgument) else np.asarray(v.source.array) for v in inputs]
    return programs.as_tuple(compile_module(text)(*given))


@pytest.mark.parametrize("planted", PLANTED)
def test_a_wrong_rewrite_is_caught(planted):
    name, pattern, replacement = PLANTED[planted]
    function = corpus.CORPUS[name]
    caught = []
    for integers in (True, False):
        environment = Environment(SHAPE, 3, integers=integers)
        jitted, args = programs.recorded(function, environment)
        text = programs.text_of(jitted, args, "fused")
        wrong, count = re.subn(pattern, replacement, text)
        assert count, f"nothing to change:\n{text}"
        expected, open_rows = programs.by_oracle(function, environment)
        programs.compare("right", expected, open_rows, run_text(text, jitted, args), Tally())
        try:
            programs.compare("wrong", expected, open_rows, run_text(wrong, jitted, args), Tally())
        except (Disagreement, IamError) as error:  # a program that is refused is caught, too
            caught.append(str(error))
    assert caught
