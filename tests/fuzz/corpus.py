"""Hand-written programs: every op that runs, and what users write with them. See :mod:`programs`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from programs import SHAPES, Environment, Tally, check

CORPUS: dict[str, Callable[[Any, Any], Any]] = {}


def program(function):
    CORPUS[function.__name__] = function
    return function


def _of_coder(architecture: str) -> None:
    def all_of_it(o, e):
        sae = e.coder(architecture)
        f = o.encode(sae, e.x)
        return f, o.decode(sae, f), o.densify(f)

    def keep_error(o, e):
        sae = e.coder(architecture, 1)
        f = o.encode(sae, e.x)
        return e.x + o.decode(sae, o.edit(f, [0], "scale", 2.0)) - o.decode(sae, f)

    CORPUS[f"coder_{architecture}"] = all_of_it
    CORPUS[f"keep_error_{architecture}"] = keep_error


for _name in ("standard", "topk", "abstopk", "groupmax", "jumprelu", "gated", "matching_pursuit", "rescaled"):
    _of_coder(_name)


# One op at a time.


@program
def dense_encode(o, e):
    return o.encode_dense(e.x, e.W_enc, e.b_enc), o.encode_dense(e.x, e.W_enc, e.b_enc, e.b_dec)


@program
def activations_of_one_encode(o, e):
    pre = o.encode_dense(e.x, e.W_enc, e.b_enc, e.b_dec)
    return o.topk(pre, e.k), o.abstopk(pre, e.k), o.groupmax(pre, e.groups), o.relu(pre), o.jumprelu(pre, e.threshold)


@program
def batch_topk(o, e):
    f = o.batch_topk(o.encode_dense(e.x, e.W_enc, e.b_enc), e.k)
    return f, o.decode_dense(f, e.W_dec, e.b_dec)


@program
def gate_of_two_encodes(o, e):
    return o.gate(o.encode_dense(e.h, e.W_enc, e.b_enc), o.encode_dense(e.x, e.W_enc, e.b_enc, e.b_dec))


@program
def gate_of_one_activation(o, e):
    """Two encodes of one activation, fused: with one encoder, and with two."""
    gate = o.encode_dense(e.x, e.W_enc, e.b_enc, e.b_dec)
    other = e.coder("standard")
    return (
        o.gate(gate, o.encode_dense(e.x, e.W_enc, e.threshold, e.b_dec)),
        o.gate(o.encode_dense(e.h, e.W_enc, e.b_enc, e.b_dec), o.encode_dense(e.h, other.W_enc, other.b_enc, e.b_dec)),
    )


@program
def edit_of_a_gate(o, e):
    f = o.gate(o.encode_dense(e.x, e.W_enc, e.b_enc), o.encode_dense(e.x, e.W_enc, e.threshold))
    return e.x + o.decode_dense(o.edit(f, [0], "scale", 2.0), e.W_dec) - o.decode_dense(f, e.W_dec)


@program
def matching_pursuit(o, e):
    f = o.matching_pursuit(e.x, e.atoms, e.b_dec, residual_threshold=0.25, max_iterations=3)
    g = o.matching_pursuit(e.x, e.atoms, residual_threshold=0.0, max_iterations=2, stop=False)
    return f, g, o.sub(f, g)


@program
def pursuit_that_meets_a_feature_again(o, e):
    rule = {"residual_threshold": 0.0, "max_iterations": 3}
    return o.matching_pursuit(e.x, e.short_atoms, **rule), o.matching_pursuit(e.x, e.short_atoms, **rule, stop=False)


@program
def decode_with_and_without_bias(o, e):
    f = o.encode(e.coder("topk"), e.x)
    return o.decode_dense(f, e.W_dec), o.decode_dense(f, e.W_dec, e.b_dec)


@program
def every_edit(o, e):
    f, n = o.encode(e.coder("topk"), e.x), e.shape.n
    ends = sorted({0, n - 1})
    return (
        o.edit(f, ends, "set", 2.0),
        o.edit(f, ends, "scale", -1.0),
        o.edit(f, ends, "clamp", -1.0, 1.0),
        o.edit(f, ends, "ablate"),
    )


@program
def every_edit_of_compressed_rows(o, e):
    f, n = o.encode(e.coder("jumprelu"), e.x), e.shape.n
    ends = sorted({0, n - 1})
    return (
        o.edit(f, ends, "set", 2.0),
        o.edit(f, ends, "scale", -1.0),
        o.edit(f, ends, "clamp", 0.5, 1.0),
        o.edit(f, ends, "ablate"),
    )


@program
def every_delta(o, e):
    f = o.encode(e.coder("topk"), e.x)
    return (
        o.delta(f, [0], "set", 2.0),
        o.delta(f, [0], "scale", -1.0),
        o.delta(f, [0], "clamp", -1.0, 1.0),
        o.delta(f, [0], "ablate"),
    )


@program
def difference_of_features(o, e):
    f, g = o.encode(e.coder("topk"), e.x), o.encode(e.coder("topk", 1), e.x)
    a, b = o.encode(e.coder("jumprelu"), e.x), o.encode(e.coder("standard"), e.x)
    return o.sub(f, g), o.sub(a, b), o.sub(a, a), o.sub(f, f)


@program
def residual_with_and_without_skip(o, e):
    return o.residual(e.h, e.x), o.residual(e.h, e.x, e.W_skip)


@program
def every_steer(o, e):
    return tuple(o.steer(e.x, e.v, 2.0, mode) for mode in ("add", "ablate", "clamp"))


@program
def steer_by_a_number_that_is_an_argument(o, e):
    return tuple(o.steer(e.x, e.v, e.s, mode) for mode in ("add", "ablate", "clamp"))


@program
def arithmetic(o, e):
    y = (e.x * 2.0 - e.v) / e.w
    return -y, y + e.h * e.s, 1.0 - y, e.x * e.h


# What the compiler rewrites.


@program
def error_in_another_order(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, e.x)
    g = o.edit(f, [0], "set", 3.0)
    return e.x + (o.decode(sae, g) - o.decode(sae, f))


@program
def error_first(o, e):
    sae = e.coder("jumprelu")
    f = o.encode(sae, e.x)
    error = e.x - o.decode(sae, f)
    return o.decode(sae, o.edit(f, [e.shape.n - 1], "ablate")) + error


@program
def error_that_is_steered_before_the_edit_comes_back(o, e):
    sae = e.coder("jumprelu")
    f = o.encode(sae, e.x)
    error = o.steer(e.x - o.decode(sae, f), e.v, 2.0, "add")
    return o.decode(sae, o.edit(f, [0], "scale", 0.5)) + error, error


@program
def scaled_reconstructions_apart(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, e.x)
    y, z = o.decode(sae, f), o.decode(sae, o.edit(f, [e.shape.n - 1], "set", 2.0))
    return e.h + e.v * z + e.x - y * e.v, (y - z) * 0.5 - e.h, -(y - e.x) + z


@program
def edit_of_a_transcoder_with_skip(o, e):
    sae = e.coder("standard")
    f = o.encode(sae, e.x)
    return o.residual(o.decode(sae, o.edit(f, [0], "ablate")), e.x, e.W_skip) - o.decode(sae, f)


@program
def several_edits_then_the_difference(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, e.x)
    g = o.edit(o.edit(o.edit(f, [0], "set", 2.0), [e.shape.n - 1], "scale", 0.5), [e.shape.n // 2], "ablate")
    return e.x + o.decode(sae, g) - o.decode(sae, f)


@program
def edit_of_an_edited_feature(o, e):
    sae = e.coder("jumprelu")
    f = o.encode(sae, e.x)
    g = o.edit(o.edit(f, [0], "set", 2.0), [0], "ablate")
    return g, o.edit(o.edit(f, [0], "ablate"), [0], "set", 2.0), o.decode(sae, g) - o.decode(sae, f)


@program
def difference_of_two_coders(o, e):
    """Two encodes, one decoder: the difference is of features."""
    f, g = o.encode(e.coder("topk"), e.x), o.encode(e.coder("topk"), e.h)
    return o.decode_dense(f, e.W_dec, e.b_dec) - o.decode_dense(g, e.W_dec, e.b_dec)


@program
def difference_of_different_decoders(o, e):
    f = o.encode(e.coder("topk"), e.x)
    return o.decode(e.coder("topk"), f) - o.decode(e.coder("topk", 1), f)


@program
def difference_without_one_bias(o, e):
    f = o.encode(e.coder("topk"), e.x)
    return o.decode_dense(o.edit(f, [0], "set", 1.0), e.W_dec, e.b_dec) - o.decode_dense(f, e.W_dec)


@program
def difference_of_different_forms(o, e):
    f, g = o.encode(e.coder("topk"), e.x), o.encode(e.coder("jumprelu"), e.x)
    return o.decode_dense(f, e.W_dec, e.b_dec) - o.decode_dense(g, e.W_dec, e.b_dec)


@program
def decode_that_is_used_twice(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, e.x)
    y = o.decode(sae, f)
    return o.decode(sae, o.edit(f, [0], "set", 2.0)) - y, y, e.x - y


@program
def encode_that_is_used_twice(o, e):
    pre = o.encode_dense(e.x, e.W_enc, e.b_enc)
    return pre, o.topk(pre, e.k)


@program
def the_same_encode_twice(o, e):
    sae = e.coder("jumprelu")
    return o.decode(sae, o.encode(sae, e.x)) - o.decode(sae, o.edit(o.encode(sae, e.x), [0], "ablate"))


@program
def sum_and_scale_of_decodes(o, e):
    sae = e.coder("topk")
    f, g = o.encode(sae, e.x), o.encode(sae, e.h)
    return 2.0 * o.decode(sae, f) + 0.5 * o.decode(sae, g), o.decode(sae, f) * e.s - o.decode(sae, g) * e.s


@program
def decode_minus_itself(o, e):
    sae = e.coder("standard")
    f = o.encode(sae, e.x)
    return o.decode(sae, f) - o.decode(sae, f), e.x + o.decode(sae, f) - o.decode(sae, f)


@program
def dense_codes_decoded(o, e):
    """Features that are made dense and sparse again."""
    f = o.encode(e.coder("topk"), e.x)
    return o.decode_dense(o.relu(o.densify(f)), e.W_dec)


@program
def edit_with_traced_numbers(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, e.x)
    return e.x + o.decode(sae, o.edit(f, [0], "set", e.s)) - o.decode(sae, f)


# Whole analyses.


@program
def transcoder_with_skip(o, e):
    f = o.topk(o.encode_dense(e.x, e.W_enc, e.b_enc, e.b_dec), e.k)
    return o.residual(o.decode_dense(f, e.W_dec, e.b_dec), e.x, e.W_skip)


@program
def two_layers(o, e):
    first, second = e.coder("topk"), e.coder("jumprelu")
    y = e.x + o.decode(first, o.edit(o.encode(first, e.x), [0], "ablate"))
    f = o.encode(second, y)
    return f, y + o.decode(second, o.edit(f, [0], "set", 1.0)) - o.decode(second, f)


@program
def steer_then_encode(o, e):
    sae = e.coder("topk")
    f = o.encode(sae, o.steer(e.x, e.v, 2.0))
    return o.sub(f, o.encode(sae, e.x)), o.decode(sae, f)


@program
def error_of_reconstruction(o, e):
    sae = e.coder("groupmax")
    error = e.x - o.decode(sae, o.encode(sae, e.x))
    return error, error * error


@program
def patch_features_from_another_input(o, e):
    sae = e.coder("jumprelu")
    clean, other = o.encode(sae, e.x), o.encode(sae, e.h)
    return e.x + o.decode(sae, other) - o.decode(sae, clean), o.sub(other, clean)


@program
def ensemble(o, e):
    coders = [e.coder(name) for name in ("standard", "topk", "jumprelu")]
    total = o.decode(coders[0], o.encode(coders[0], e.x))
    for sae in coders[1:]:
        total = total + o.decode(sae, o.encode(sae, e.x))
    return total / 4.0


@program
def interpolation(o, e):
    return e.x * 0.25 + e.h * 0.75, e.x + (e.h - e.x) * e.s


@program
def unused_work(o, e):
    sae = e.coder("topk")
    o.decode(sae, o.encode(sae, e.h))
    return e.x + e.v


@program
def argument_as_result(o, e):
    return e.x, e.x + 0.0


@program
def steers_in_a_row(o, e):
    y = o.steer(o.steer(o.steer(e.x, e.v, 1.0), e.w, -2.0), e.v, 0.5)
    return y, o.steer(y, e.w, 1.0, "ablate")


def run_corpus(*, shapes=(SHAPES[0], SHAPES[1], SHAPES[4], SHAPES[5]), jax: bool = False) -> Tally:
    """Every program on integers and on normal numbers."""
    tally = Tally()
    for name, function in CORPUS.items():
        for i, shape in enumerate(shapes):
            try:
                check(function, Environment(shape, 7 * i + 1, integers=i % 2 == 0), tally, jax=jax)
                if i == len(shapes) - 1:
                    check(function, Environment(shape, 7 * i + 2, integers=True), tally, jax=jax)
            except Exception as error:  # noqa: BLE001 - whatever goes wrong is a finding
                tally.failures.append((name, f"{type(error).__name__}: {error}"))
                print(f"{name}, {shape}: {type(error).__name__}: {error}", flush=True)
    return tally
