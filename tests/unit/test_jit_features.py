"""What users expect of a JIT: containers, static values and rows, donation, sites, threads, pickling, readable errors."""

import copy
import dataclasses
import json
import pickle
import re
import subprocess
import sys
import textwrap
import threading
import types
from typing import NamedTuple

import numpy as np
import pytest

import iam
from iam import ops
from iam.core.errors import ArgumentError, ShapeError, SiteError, TraceError
from iam.core.sites import Site

D, F = 6, 21


def make_sae(d_in=D, d_sae=F, k=4, seed=0, hook=None, kind=iam.SAE, **metadata):
    rng = np.random.default_rng(seed)
    cfg = iam.SAEConfig(
        architecture="topk",
        d_in=d_in,
        d_sae=d_sae,
        k=k,
        apply_b_dec_to_input=kind is iam.SAE,
        metadata={**({} if hook is None else {"hook_name": hook}), **metadata},
    )
    return kind(
        cfg,
        W_enc=rng.normal(size=(d_in, d_sae)),
        b_enc=rng.normal(size=d_sae),
        W_dec=rng.normal(size=(d_sae, d_in)),
        b_dec=rng.normal(size=d_in),
    )


@pytest.fixture(scope="module")
def sae():
    return make_sae()


@pytest.fixture
def x(rng):
    return rng.normal(size=(5, D)).astype(np.float32)


def close(a, b, tolerance=1e-5):
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


# Containers.


@dataclasses.dataclass
class Pair:
    x: object
    scale: object
    note: str = "none"

    def __post_init__(self):
        if not isinstance(self.x, (np.ndarray, iam.SparseFeatures)) and not hasattr(self.x, "__iam_trace__"):
            raise TypeError("x")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hashable and without arrays: a constant, which may decide what is recorded."""

    mode: str
    strength: float


@dataclasses.dataclass(frozen=True, slots=True)
class Frozen:
    features: object
    y: object


class Named(NamedTuple):
    y: object
    rest: object


def test_dataclasses_are_containers(sae, x):
    @iam.jit
    def analyse(pair):
        f = sae.encode(pair.x)
        return Frozen(f, Pair(sae.decode(f) * pair.scale, None, pair.note))

    for scale in (2.0, 3.0):
        result = analyse(Pair(x, scale, "kept"))
        assert type(result) is Frozen
        assert type(result.y) is Pair
        assert result.y.note == "kept"
        close(result.y.x, sae(x) * scale)
        close(result.features.to_dense(), sae.encode(x).to_dense())
    assert analyse.stats()["recordings"] == 1
    analyse(Pair(x, 2.0, "another"))  # a word is a constant
    assert analyse.stats()["recordings"] == 2


def test_hashable_dataclasses_are_constants(x):
    @iam.jit
    def steered(x, settings):
        v = np.ones(D, np.float32)
        return iam.steer(x, v, settings.strength, settings.mode) if settings.strength > 0 else x

    close(steered(x, Settings("add", 2.0)), x + 2.0)
    close(steered(x, Settings("add", -2.0)), x)
    close(steered(x, Settings("add", 2.0)), x + 2.0)
    assert steered.stats()["recordings"] == 2


def test_named_tuples_and_nesting(sae, x):
    program = iam.jit(lambda a: Named(a["p"].y + a["p"].rest[0], {"deep": [(a["p"].y * 2.0,)]}))
    result = program({"p": Named(x, [x + 1.0])})
    assert type(result) is Named
    close(result.y, 2 * x + 1.0)
    close(result.rest["deep"][0][0], x * 2.0)


def test_the_order_of_keywords_is_no_matter(x):
    program = iam.jit(lambda x, **k: x * k["a"] + k["b"])
    close(program(x, a=2.0, b=1.0), program(x, b=1.0, a=2.0))
    assert program.stats()["recordings"] == 1


def test_keywords_are_not_taken_for_positions(x):
    program = iam.jit(lambda x, a=1.0, b=1.0, number=1.0: x * a + b * number)
    close(program(x, 2.0, 3.0), x * 2.0 + 3.0)
    close(program(x, number=5.0), x + 5.0)
    close(program(x, 2.0, number=5.0), x * 2.0 + 5.0)


def test_unknown_keywords_are_pythons_business(x):
    with pytest.raises(TypeError, match="unexpected keyword argument 'strenght'"):
        iam.jit(lambda x, strength=1.0: x * strength)(x, strenght=2.0)


def test_inlined_functions_and_their_constants(sae, x):
    factor = 2.0

    @iam.jit(static_argnames="double")
    def inner(x, double):
        return sae(x) * (factor if double else 1.0)

    outer = iam.jit(lambda x: x - inner(x, True) + inner(x, double=False))
    close(outer(x), x - sae(x) * 2.0 + sae(x), 1e-4)
    assert outer.mlir().count("func.func") == 1
    factor = 3.0
    close(outer(x), x - sae(x) * 3.0 + sae(x), 1e-4)


# Values that are known while recording.


def test_static_arguments(x):
    @iam.jit(static_argnames=("strength",))
    def steered(x, strength, v):
        return iam.steer(x, v, strength) if strength > 0.5 else x * 1.0

    v = np.arange(D, dtype=np.float32)
    close(steered(x, 2.0, v), x + 2.0 * v)
    close(steered(x, 0.25, v), x)
    close(steered(x, strength=2.0, v=v), x + 2.0 * v)
    assert steered.stats()["recordings"] == 3
    assert "f32," not in steered.mlir().split("->")[0]  # no number among the arguments
    with pytest.raises(TraceError, match="hashable"):
        steered(x, [1.0, {}], v)


def test_signed_zeros_and_nan_are_values(x):
    program = iam.jit(lambda x, s: x * (1.0 if str(s)[0] == "-" else 2.0), static_argnames="s")
    close(program(x, 0.0), x * 2)
    close(program(x, -0.0), x)
    program(x, float("nan"))
    program(x, float("nan"))
    assert program.stats()["recordings"] == 3


def test_static_rows(sae, x):
    @iam.jit(static_rows=True)
    def scaled(x, y):
        assert type(x.shape[0]) is int
        f = sae.encode(x)
        return sae.decode(f) * (1.0 / x.shape[0]) + y * 2.0 + np.ones(D, np.float32), f, f.ablate(3)

    for given in (x, x[:3], x.reshape(1, 5, D), x[0]):
        y, f, g = scaled(given, given)
        rows = given.size // D
        assert y.shape == given.shape
        close(y, sae(given) / rows + given * 2.0 + 1.0)
        close(f.to_dense(), sae.encode(given).to_dense())
        close(g.to_dense(), sae.encode(given).ablate(3).to_dense())
        assert f"tensor<{rows}x6xf32>" in scaled.mlir()
        assert "tensor<?x" not in scaled.mlir()
    close(scaled(x, x + 1.0)[0], sae(x) / 5 + x * 2.0 + 3.0)
    assert scaled.stats()["recordings"] == 3  # (5, D) and (1, 5, D) have five rows


def test_no_rows_are_a_number_of_rows(sae, x):
    dynamic, static = iam.jit(lambda x: sae(x) + x), iam.jit(lambda x: sae(x) + x, static_rows=True)
    close(dynamic(x), sae(x) + x)
    assert static(x[:0]).shape == (0, D)
    assert static(x[:0].reshape(3, 0, D)).shape == (3, 0, D)
    close(static(x), sae(x) + x)
    assert static.stats()["compilations"] == 2


def test_static_rows_of_one_argument(x):
    program = iam.jit(lambda x, y: (x * float(x.shape[0]), y * 2.0), static_rows="x")
    close(program(x, x[:2])[0], x * 5)
    close(program(x, x[:3])[1], x[:3] * 2)
    assert program.stats()["recordings"] == 1
    close(program(x[:4], x)[0], x[:4] * 4)
    assert program.stats()["recordings"] == 2


def test_static_rows_that_do_not_fit(x):
    with pytest.raises(ShapeError, match=r"same number of rows, got \[5, 6\] and \[2, 6\].*test_jit_features\.py:\d+"):
        iam.jit(lambda x, y: x + y, static_rows=True)(x, x[:2])


def test_rows_that_are_not_known_say_what_to_write(x):
    with pytest.raises(TraceError, match="static_rows=True"):
        iam.jit(lambda x: x * x.shape[0])(x)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"static_argnames": "strenth"}, 'static_argnames names "strenth"; did you mean "strength"'),
        ({"donate": "z"}, 'donate names "z"'),
        ({"static_rows": ["q"]}, 'static_rows names "q"'),
        ({"sites": {"h": "resid_post.1"}}, 'sites names "h"'),
        ({"static_argnames": "x", "donate": "x"}, "x is in static_argnames"),
    ],
)
def test_options_that_make_no_sense(options, says):
    with pytest.raises(ArgumentError, match=re.escape(says)):
        iam.jit(lambda x, strength: x * strength, **options)


# What objects hold.


def test_attributes_of_self_are_watched(x):
    class Study:
        def __init__(self):
            self.shift, self.options = 1.0, types.SimpleNamespace(scale=2.0)
            self.sae, self.calls = make_sae(seed=21), 0

        def scaled(self, y):
            return y * self.options.scale

        @iam.jit
        def run(self, x):
            return self.scaled(self.sae(x)) + self.shift

    study = Study()

    def check(recordings):
        study.calls += 1  # the code does not name it
        close(study.run(x), study.sae(x) * study.options.scale + study.shift)
        assert Study.run.stats()["recordings"] == recordings

    check(1)
    check(1)
    study.shift = 3.0
    check(2)
    study.options.scale = 5.0
    check(3)
    study.options = types.SimpleNamespace(scale=-1.0)
    check(4)
    study.sae = make_sae(seed=22)
    check(5)
    check(5)


def test_side_effects_are_told(x):
    class Counter:
        calls = 0

        @iam.jit
        def run(self, x):
            self.calls = self.calls + 1
            return x * float(self.calls)

    counter = Counter()
    counter.calls = 0
    close(counter.run(x), x)
    close(counter.run(x), x * 2.0)
    with pytest.warns(RuntimeWarning, match=r"recorded anew for 3 calls, because calls changed while it was recorded"):
        close(counter.run(x), x * 3.0)
    close(counter.run(x), x * 4.0)


def test_objects_of_a_closure_and_functions_as_arguments(x):
    settings, weight = types.SimpleNamespace(scale=2.0), 3.0

    def weighted(y):
        return y * weight

    program = iam.jit(lambda x, then: then(x * settings.scale))
    close(program(x, weighted), x * 6.0)
    settings.scale = 1.0
    close(program(x, weighted), x * 3.0)
    weight = 4.0
    close(program(x, weighted), x * 4.0)
    assert program.stats()["recordings"] == 3
    close(program(x, abs_free), x + 0.0)


def abs_free(y):
    return y


# Donation.


def test_donated_memory_is_the_result(x):
    v = np.arange(D, dtype=np.float32)
    program = iam.jit(lambda x, v, s: (x + v) * s - 1.0, donate="x")
    before = x.copy()
    y = program(x, v, 2.0)
    assert y is x
    close(y, (before + v) * 2.0 - 1.0)
    assert "_mlir_memref_to_llvm_alloc" not in program.mlir("llvm")
    assert "memcpy" not in program.mlir("llvm")
    assert program(x, v, 2.0) is x  # every call
    assert "llvm.call @_mlir_memref_to_llvm_alloc" in iam.jit(lambda x, v: x + v).lower(x, v).mlir("llvm")


def test_donation_with_other_results_and_leading_dimensions(sae, x):
    given = x.reshape(1, 5, D).copy()

    @iam.jit(donate=["x"])
    def edited(x):
        f = sae.encode(x)
        return {"f": f, "y": x + sae.decode(f.set([7], 3.0)) - sae.decode(f)}

    expected = given + sae.decode(sae.encode(given).set([7], 3.0)) - sae.decode(sae.encode(given))
    codes = sae.encode(given)
    result = edited(given)
    assert result["y"] is given
    assert given.shape == (1, 5, D)
    close(given, expected, 1e-4)
    close(result["f"].to_dense(), codes.to_dense())


def test_memory_that_is_still_read_is_not_overwritten_too_early(x):
    program = iam.jit(lambda x: (x + x, x * x, iam.steer(x * 3.0, np.ones(D, np.float32), 1.0, "ablate")), donate="x")
    before = x.copy()
    a, b, c = program(x)
    assert a is x
    close(a, before + before)
    close(b, before * before)
    close(c, iam.steer(before * 3.0, np.ones(D, np.float32), 1.0, "ablate"), 1e-4)


def test_donated_torch(x):
    torch = pytest.importorskip("torch")
    given = torch.from_numpy(x.copy())
    pointer = given.data_ptr()
    program = iam.jit(lambda x: x * 2.0, donate="x")
    y = program(given)
    assert y is given
    assert y.data_ptr() == pointer
    close(y, x * 2)
    recorded = torch.from_numpy(x.copy()).requires_grad_()
    with torch.no_grad(), pytest.raises(ArgumentError, match="its gradient is recorded"):
        program(recorded)


def test_two_donated_arguments(x):
    a, b = x.copy(), x + 1.0
    program = iam.jit(lambda a, b: (a + b, a - b), donate=("a", "b"))
    s, d = program(a, b)
    assert s is a
    assert d is b
    close(s, x + x + 1.0)
    close(d, np.full_like(x, -1.0))


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: iam.steer(x, np.ones(D, np.float32), 1.0, "ablate"), "made by iam.policy.steer ablate at"),
        (lambda x: ops.densify(ops.topk(x, 2)), "made by iam.clt.densify"),
        (lambda x: ops.topk(x, 2), "no result has its shape [rows, 6]"),
        (lambda x: x, "made by an argument"),
    ],
)
def test_donation_that_saves_nothing_is_refused(function, says, x):
    with pytest.raises(ArgumentError, match="argument x cannot be donated") as caught:
        iam.jit(function, donate="x")(x)
    assert says in str(caught.value)


def test_memory_that_cannot_be_donated(x):
    program = iam.jit(lambda x, y: x + y, donate="x")
    frozen = x.copy()
    frozen.flags.writeable = False
    for given, says in (
        (x.astype(np.float64), "float64"),
        (np.asfortranarray(x), "not contiguous"),
        (frozen, "read-only"),
    ):
        with pytest.raises(ArgumentError, match=says):
            program(given, x)
    before = x.copy()
    with pytest.raises(ArgumentError, match="shares memory"):
        program(x, x)
    assert np.array_equal(x, before)
    with pytest.raises(ArgumentError, match="only activations"):
        iam.jit(lambda x, v: x + v, donate="v")(x, np.ones(D, np.float32))


# Sites.


def at(site, **options):
    return make_sae(hook=site.hook_name, **options)


POST6, POST8 = Site(6, "resid_post"), Site(8, "resid_post")


def refused(function, *args, **options):
    with pytest.raises(SiteError) as caught:
        iam.jit(function, **options)(*args)
    message = str(caught.value)
    assert re.search(r"test_jit_features\.py:\d+", message), message
    assert "allow_other_sites=True" in message
    return message


def test_two_coders_of_different_sites_on_one_activation(x):
    first, second = at(POST6), at(POST8, seed=1)
    message = refused(lambda x: first(x) + second(x), x)
    assert "this coder was trained at resid_post.8 and is given an activation of resid_post.6" in message
    assert "the coder that encodes it at" in message
    close(iam.jit(lambda x: first(x) + second(x), allow_other_sites=True)(x), first(x) + second(x))


def test_captured_activations_carry_their_site(x):
    coder = at(POST8)
    captured = {POST6: x, POST8: x + 1.0}
    close(iam.jit(lambda acts: coder(acts[POST8]))(captured), coder(x + 1.0))
    message = refused(lambda acts: coder(acts[POST6]), captured)
    assert "given an activation of resid_post.6, which is known from the key that it is given under" in message


def test_declared_sites(x):
    coder = at(POST8)
    close(iam.jit(lambda x: coder(x), sites={"x": "resid_post.8"})(x), coder(x))
    assert "sites= of iam.jit for argument x" in refused(lambda x: coder(x), x, sites={"x": "blocks.6.hook_resid_post"})


def test_an_edit_stays_at_its_site(x):
    first, second = at(POST6), at(POST8, seed=1)
    v = np.ones(D, np.float32)
    message = refused(lambda x: second.encode(iam.steer(x * 2.0 + v, v, 1.0)), x, sites={"x": POST6})
    assert "given an activation of resid_post.6" in message
    assert "features of a coder of resid_post.6" in refused(lambda x: second.decode(first.encode(x).ablate(2)), x)


def test_what_a_coder_decodes_is_where_it_writes(x):
    transcoder = at(Site(6, "mlp_in"), hook_name_out="blocks.6.hook_mlp_out", kind=iam.Transcoder, seed=2)
    out = at(Site(6, "mlp_out"), seed=3)
    close(iam.jit(lambda x: out(transcoder(x)))(x), out(transcoder(x)), 1e-4)
    assert "given an activation of mlp_out.6" in refused(lambda x: at(POST6)(transcoder(x)), x)


def test_positions_relative_to_the_norm(x):
    normed, residual = Site(6, "mlp_in"), Site(6, "resid_mid")
    program = iam.jit(lambda acts: acts[POST6] - acts[residual])
    close(program({POST6: x, residual: x * 2}), -x)  # both in the residual stream
    message = refused(lambda acts: acts[normed] + acts[residual], {normed: x, residual: x})
    assert "mlp_in.6 (after the norm, its gain included; known from the key that it is given under)" in message
    assert "resid_mid.6 (in the residual stream, before any norm" in message
    other, here = at(normed), at(residual, seed=1)
    assert "subtracted" in refused(
        lambda acts: other.encode(acts[normed]) - here.encode(acts[residual]), {normed: x, residual: x}
    )


def test_coders_without_a_site_are_not_checked(sae, x):
    other = make_sae(seed=1)
    close(iam.jit(lambda x: sae(x) + other(x), sites={"x": POST6})(x), sae(x) + other(x))


def test_check_at_runs_nothing(x):
    coder = at(POST8)
    program = iam.jit(lambda x: coder(x) + 1.0)
    program.check_at(POST8, D)
    with pytest.raises(SiteError, match=r"resid_post\.8 and is given an activation of resid_post\.6"):
        program.check_at("resid_post.6", D)
    with pytest.raises(ShapeError, match="d_in of the coder"):
        program.check_at(POST8, D + 1)
    assert program.stats()["recordings"] == 0


# What an error says.


def test_errors_show_the_line_and_who_called(x):
    def inner(x):
        return x.sum()  # the line

    def outer(x):
        return inner(x)

    with pytest.raises(TraceError) as caught:
        iam.jit(outer)(x)
    message = str(caught.value)
    line = inner.__code__.co_firstlineno + 1
    assert f"test_jit_features.py:{line} in " in message
    assert f"called from {__file__}:{outer.__code__.co_firstlineno + 1} in" in message
    assert "return the tensor and reduce the result outside" in message
    assert message.endswith(f"\n  {line} | return x.sum()  # the line")


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (lambda x: x.detach(), "leave it out"),
        (lambda x: x.reshape(-1), "reshape outside"),
        (lambda x: np.maximum(x, 0), ".clamp(features"),
        (lambda x: np.exp(x), "The dialect has no op for it"),
        (lambda x: np.concatenate([x, x]), "join or cut the results outside"),
        (lambda x: x.add_(1.0), "write a new one, as x = x + y"),
        (lambda x: np.matmul(x, x), "iam.ops.encode(x, W, b)"),
        (lambda x: ops.topk(x, 2).indices, "the result has them"),
        (lambda x: x & x, "no & | ^"),
        (lambda x: ~x, "no ~"),
        (lambda x: round(x), "no round()"),
        (lambda x: x.frobnicate, "Supported: + - * /"),
    ],
)
def test_errors_say_what_to_write_instead(function, says, x):
    with pytest.raises(TraceError) as caught:
        iam.jit(function)(x)
    assert says in str(caught.value)


# What the compiler made of it.


def steered_with(sae):
    @iam.jit
    def steered(x, s):
        f = sae.encode(x)
        g = f.set([7], s)
        return x + sae.decode(g) - sae.decode(f)

    return steered


def test_explain_counts_what_it_says(sae, x):
    found = steered_with(sae).explain(x, 3.0).to_dict()
    rows, k = 5, 4
    before = {op["op"]: op for op in found["before"]["ops"]}
    after = {op["op"]: op for op in found["after"]["ops"]}
    assert list(before) == [
        "iam.clt.encode", "iam.clt.topk", "iam.clt.edit set", "iam.clt.decode", "arith.addf", "arith.subf",
    ]  # fmt: skip
    assert list(after) == ["iam.clt.encode_sparse topk", "iam.clt.delta set", "iam.clt.decode", "arith.addf"]
    encode = before["iam.clt.encode"]
    assert encode["flops"] == 2 * rows * D * F + rows * F + rows * D
    assert encode["read"] == 4 * (rows * D + D * F + F + D)
    assert encode["written"] == encode["memory"] == 4 * rows * F
    assert before["iam.clt.topk"]["memory"] == 8 * rows * k
    sparse = after["iam.clt.encode_sparse topk"]
    assert sparse["flops"] == encode["flops"] + rows * F
    assert sparse["memory"] == 8 * rows * k
    decode = after["iam.clt.decode"]  # one edited feature a row, no bias
    assert decode["flops"] == 2 * rows * D
    assert decode["read"] == 8 * rows + 4 * min(rows, F) * D
    assert after["iam.clt.delta set"]["flops"] == rows * k + rows
    assert before["arith.addf"]["memory"] == 0  # one loop with the subtraction
    assert before["arith.subf"]["memory"] == 4 * rows * D
    for side in ("before", "after"):
        ops, total = found[side]["ops"], found[side]["total"]
        assert all(op["known"] for op in ops)
        for name in ("flops", "read", "written", "memory"):
            assert total[name] == sum(op[name] for op in ops)
        assert max(op["memory"] for op in ops) <= total["peak"] <= total["memory"]
    assert found["before"]["total"]["peak"] == 4 * rows * F + 8 * rows * k  # pre-activations and codes
    assert found["arguments"] == {"x": "(5, 6)", "s": "number"}


def test_explain_names_the_lines(sae, x):
    program = steered_with(sae)
    first = program.function.__code__.co_firstlineno
    here = f"{__file__}:{first + 2}", f"{__file__}:{first + 3}", f"{__file__}:{first + 4}"
    explanation = program.explain(x, 3.0)
    assert [op.lines for op in explanation.before.ops] == [(here[0],)] * 2 + [(here[1],)] + [(here[2],)] * 4
    assert explanation.remarks == (
        f"{here[0]}: iam.clt.encode, iam.clt.topk became iam.clt.encode_sparse topk",
        f"{here[1]}: iam.clt.edit set became iam.clt.delta set",
        f"{here[2]}: iam.clt.decode, arith.subf removed",
        f"{here[0]}: remark: encodes all features although 1 would do: topk cannot be sliced, "
        "whether a feature is active depends on all others of its row",
    )
    text = str(explanation)
    for part in ("as recorded:", "after the rewrites:", "func.func @steered", *explanation.remarks, "peak memory"):
        assert part in text
    json.dumps(explanation.to_dict())
    assert program.stats()["recordings"] == program.stats()["compilations"] == 0


def test_explain_passes_on_what_passes_say():
    from iam.compiler import _explain

    class Location:
        filename, start_line = "study.py", 7

        def is_a_file(self):
            return True

        def is_a_name(self):
            return False

        is_a_fused = is_a_callsite = is_a_name

    def diagnostic(severity):
        return types.SimpleNamespace(severity=f"DiagnosticSeverity.{severity}", location=Location(), message="a gain")

    listening = _explain._Listening()
    assert [listening(diagnostic(severity)) for severity in ("REMARK", "WARNING", "ERROR", "NOTE")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert listening.found == ["study.py:7: remark: a gain", "study.py:7: warning: a gain"]


def test_explain_of_other_ops(x):
    W = np.ones((D, D), np.float32)
    v = np.ones(D, np.float32)

    @iam.jit
    def program(x, f):
        y = iam.steer(ops.residual(x, x, W), v, 1.0, "ablate")
        g = ops.relu(y)
        return ops.densify(f - g), ops.decode(g, W, v)

    codes = ops.relu(x)
    found = {op.op: op for op in program.explain(x, codes).after.ops}
    rows, active = 5, len(codes.values)
    assert found["iam.clt.residual"].flops == rows * D + 2 * rows * D * D
    assert found["iam.policy.steer ablate"].flops == 4 * rows * D + 2 * D
    assert found["iam.clt.relu"].memory == 8 * rows * D  # min(F, 64) are assumed
    assert found["iam.clt.sub"].flops == active + rows * D  # of an argument, they are known
    assert found["iam.clt.densify"].written == 4 * rows * D
    assert found["iam.clt.decode"].flops == 2 * rows * D * D + rows * D


def test_explain_says_what_is_written_in_place(x):
    explanation = iam.jit(lambda x: x + 1.0, donate="x").explain(x)
    assert explanation.donated == ("x",)
    assert "written in place: x" in str(explanation)


def test_every_op_has_its_line(sae, x):
    def helper(f):
        return f.scale([1, 2], 0.5)

    program = iam.jit(lambda x: sae.decode(helper(sae.encode(x))) * 2.0 + np.ones(D, np.float32))
    program.lower(x)
    assert program._last.program.nodes
    for node in program._last.program.nodes:
        assert node.frames[0].file == __file__, node.op
    edit = next(node for node in program._last.program.nodes if node.op == "iam.clt.edit")
    assert [frame.line for frame in edit.frames] == [
        helper.__code__.co_firstlineno + 1,
        program.function.__code__.co_firstlineno,
    ]


# Threads.


def test_first_calls_race_for_different_programs(rng):
    """Threads meet a function that was never called, with different shapes, coders, constants and keywords."""
    coders = [make_sae(d_in=4 + i, d_sae=16 + i, seed=i) for i in range(3)]

    @iam.jit(static_argnames="doubled")
    def program(coder, x, s, doubled):
        f = coder.encode(x)
        y = x + coder.decode(f.scale([3], s)) - coder.decode(f)
        return {"y": y * 2.0 if doubled else y, "f": f}

    def expected(coder, x, s, doubled):
        f = coder.encode(x)
        return (x + coder.decode(f.scale([3], s)) - coder.decode(f)) * (2.0 if doubled else 1.0)

    n_threads, errors = 12, []
    barrier = threading.Barrier(n_threads)
    draws = [np.random.default_rng(i) for i in range(n_threads)]

    def work(number):
        try:
            barrier.wait()
            for step in range(30):
                coder = coders[(number + step) % len(coders)]
                x = draws[number].normal(size=(1 + (number * step) % 7, coder.d_in)).astype(np.float32)
                s, doubled = float(step), bool((number + step) % 2)
                result = program(coder, x, s=s, doubled=doubled)
                close(result["y"], expected(coder, x, s, doubled), 1e-3)
                close(result["f"].to_dense(), coder.encode(x).to_dense())
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(n_threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert program.stats()["recordings"] == 6  # three coders, doubled or not: each once
    assert program.stats()["compilations"] == 6


def test_functions_that_share_a_program_race(rng):
    sae = make_sae(seed=11, d_in=7)
    programs = [iam.jit(lambda x, i=i: sae(x) - x, name=f"p{i}") for i in range(8)]
    x = rng.normal(size=(3, 7)).astype(np.float32)
    barrier, results = threading.Barrier(8), {}

    def work(i):
        barrier.wait()
        results[i] = programs[i](x)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i in range(8):
        close(results[i], sae(x) - x)
    assert sum(program.stats()["compilations"] for program in programs) == 1


def test_looking_while_others_call(rng):
    """Calls, texts of every stage, explanations and counters at once, from the first call on."""
    sae = make_sae(seed=16)
    program = iam.jit(lambda x, s: x + sae.decode(sae.encode(x).set([3], s)) - sae.decode(sae.encode(x)))
    inputs = [rng.normal(size=(n, D)).astype(np.float32) for n in (1, 4, 9)]
    expected = [program.function(x, 2.0) for x in inputs]
    errors, barrier = [], threading.Barrier(6)

    def work(i):
        try:
            barrier.wait()
            for step in range(15):
                x = inputs[(i + step) % 3]
                if i < 3:
                    close(program(x, 2.0), expected[(i + step) % 3], 1e-4)
                elif i == 3:
                    assert "llvm.func" in program.lower(x, 2.0).mlir("llvm")
                elif i == 4:
                    assert "iam.clt.delta" in program.explain(x, 2.0).after.mlir
                else:
                    assert program.lower(x, 2.0).mlir("fused").count("iam.clt.decode") == 1
                    assert program.stats()["compilations"] <= 1
        except Exception as error:  # noqa: BLE001 - reported by the main thread
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors, errors[0]
    assert program.stats()["compilations"] == 1


def test_names_that_change_while_others_call(x):
    """A thread binds another coder and another factor while others call: a recording is never used for other values."""
    coders = make_sae(seed=12), make_sae(seed=13)
    coder = coders[0]
    program = iam.jit(lambda x: coder(x))
    wanted = [c(x) for c in coders]
    stop, wrong = threading.Event(), []

    def call():
        while not stop.is_set():
            y = program(x)
            if not any(np.allclose(y, w, atol=1e-4) for w in wanted):
                wrong.append(y)

    threads = [threading.Thread(target=call) for _ in range(3)]
    for thread in threads:
        thread.start()
    for i in range(50):
        coder = coders[i % 2]
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong
    for coder in (*coders, *coders):
        close(program(x), coder(x))


def test_a_name_that_changes_during_the_recording(x):
    coders = make_sae(seed=14), make_sae(seed=15)
    coder, state = coders[0], types.SimpleNamespace(done=False)

    def switch():
        nonlocal coder
        if not state.done:
            coder, state.done = coders[1], True

    program = iam.jit(lambda x: (switch(), coder(x))[1])
    close(program(x), coders[1](x))
    coder = coders[0]
    close(program(x), coders[0](x))


# Pickling and copying.


@iam.jit(name="doubled")
def module_level(x):
    return x * 2.0


def plain(x):
    return x * 3.0


tripled = iam.jit(plain, static_rows=True)


class Analysis:
    @iam.jit
    def run(self, x):
        return x * 4.0


def test_pickled_by_name(x):
    data = pickle.dumps(module_level)
    assert b"module_level" in data
    assert len(data) < 600  # no code, no weights
    assert pickle.loads(data) is module_level
    assert pickle.loads(pickle.dumps(Analysis.run)) is Analysis.run
    other = pickle.loads(pickle.dumps(tripled))
    assert other is not tripled
    assert other.function is plain
    assert other._options == tripled._options
    close(other(x), x * 3.0)


def test_another_process_finds_it_by_name(tmp_path, x):
    (tmp_path / "their_programs.py").write_text("import iam\n\n@iam.jit\ndef halved(x):\n    return x * 0.5\n")
    code = """
    import pickle, sys
    sys.path.insert(0, sys.argv[1])
    import their_programs
    sys.stdout.buffer.write(pickle.dumps(their_programs.halved))
    """
    arguments = [sys.executable, "-c", textwrap.dedent(code), str(tmp_path)]
    data = subprocess.run(arguments, capture_output=True, check=True).stdout
    with pytest.raises(ModuleNotFoundError):
        pickle.loads(data)
    sys.path.insert(0, str(tmp_path))
    try:
        close(pickle.loads(data)(x), x * 0.5)
        (tmp_path / "their_programs.py").write_text("halved = 3\n")
        sys.modules["their_programs"].halved = 3
        with pytest.raises(ArgumentError, match=r"pickled as their_programs\.halved, which is int 3 here"):
            pickle.loads(data)
    finally:
        sys.path.remove(str(tmp_path))
        sys.modules.pop("their_programs", None)


def test_what_has_no_name_is_not_pickled():
    local = iam.jit(lambda x: x + 1.0)
    with pytest.raises(pickle.PicklingError, match=r"Define it at the top of a module"):
        pickle.dumps(local)


def test_copies_are_the_function(x):
    program = iam.jit(lambda x: x + 1.0)
    assert copy.copy(program) is program
    assert copy.deepcopy({"analysis": [program]})["analysis"][0] is program


def test_jit_of_a_compiled_function_is_compiled_with_the_new_options(x):
    again = iam.jit(module_level, static_rows=True, name="again")
    close(again(x), x * 2)
    assert "tensor<5x6xf32>" in again.mlir()
    assert again.function is module_level.function
