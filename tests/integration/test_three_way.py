"""Three executions agree: the NumPy oracle, the eager kernels, and compiled programs.

Inputs are small integers: sums and products of them are exact in float32, so oracle (float64), eager and compiled results
must be *equal*, and equal pre-activations (ties) are everywhere. Only steering that divides by a norm has a tolerance.
Eager and compiled results are compared component by component, order of slots included.
"""

import functools

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import iam
from iam import ops
from iam.reference import clt, policy

ARCHITECTURES = ("topk", "abstopk", "groupmax", "jumprelu", "standard")
WITH_K = ("topk", "abstopk", "groupmax")
EDITS = ("set", "scale", "clamp", "ablate")

# Rows, width, dictionary, k. Kernels work on tiles of rows and of the dictionary, so sizes are odd, prime, 1, or all.
SHAPES = [
    (0, 3, 7, 2),
    (1, 1, 1, 1),
    (1, 5, 13, 13),
    (2, 3, 70, 4),
    (3, 8, 64, 64),
    (5, 7, 33, 9),
    (17, 4, 129, 3),
    (40, 6, 257, 5),
]
shapes = st.sampled_from(SHAPES)
seeds = st.integers(0, 2**16)

_alive = []
"""Every compiled function, so that examples of one shape share machine code."""


def compiled(function, *args):
    program = iam.jit(function)
    _alive.append(program)
    return program(*args)


def draw(rng, *shape, low=-2, high=3):
    return rng.integers(low, high, shape).astype(np.float32)


def slots(architecture, n, k):
    """k of a coder: a divisor of the dictionary where it is a number of groups."""
    if architecture == "groupmax":
        return max(i for i in range(1, k + 1) if n % i == 0)
    return k if architecture in WITH_K else None


def make_sae(architecture, shape, seed, subtract=True):
    _, d, n, k = shape
    rng = np.random.default_rng(seed)
    cfg = iam.SAEConfig(
        architecture=architecture,
        d_in=d,
        d_sae=n,
        k=slots(architecture, n, k),
        apply_b_dec_to_input=subtract,
    )
    return iam.SAE(
        cfg,
        W_enc=draw(rng, d, n),
        b_enc=draw(rng, n),
        W_dec=draw(rng, n, d),
        b_dec=draw(rng, d),
        threshold=draw(rng, n, low=0) if architecture == "jumprelu" else None,
    )


def wide(array):
    return None if array is None else array.astype(np.float64)


def oracle_encode(sae, x):
    activation = "relu" if sae.cfg.architecture == "standard" else sae.cfg.architecture
    shift = wide(sae.b_dec) if sae.cfg.apply_b_dec_to_input else None
    return clt.encode_sparse(
        activation, wide(x), wide(sae.W_enc), wide(sae.b_enc), shift, threshold=wide(sae.threshold), k=sae.cfg.k
    )


def oracle_decode(sae, f):
    return clt.decode(f, wide(sae.W_dec), wide(sae.b_dec))


def dense(f):
    """Features as a dense array by the oracle, from their components."""
    values, indices, offsets = f.components
    return clt.densify(wide(values), indices, offsets, f.n_features)


def equal(reference, eager, program):
    """``reference`` (dense) against features or arrays from the other two, which also agree slot by slot."""
    if isinstance(eager, iam.SparseFeatures):
        assert isinstance(program, iam.SparseFeatures)
        assert program.shape == eager.shape
        assert program.k == eager.k
        for a, b in zip(eager.components, program.components, strict=True):
            assert (a is None) == (b is None)
            if a is not None:
                assert a.dtype == b.dtype
                np.testing.assert_array_equal(a, b)
        eager, program = dense(eager), dense(program)
    np.testing.assert_array_equal(eager, reference)
    np.testing.assert_array_equal(program, reference)


# One op at a time.


@pytest.mark.parametrize("subtract", [True, False])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@given(shapes, seeds)
def test_encode_and_decode(architecture, subtract, shape, seed):
    sae = make_sae(architecture, shape, seed, subtract)
    x = draw(np.random.default_rng(seed + 1), shape[0], shape[1])

    def program(x):
        f = sae.encode(x)
        return f, sae.decode(f), f.to_dense()

    f, y, d = compiled(program, x)
    reference = oracle_encode(sae, x)
    equal(reference, sae.encode(x), f)
    equal(oracle_decode(sae, reference), sae.decode(sae.encode(x)), y)
    equal(reference, sae.encode(x).to_dense(), d)


ACTIVATIONS = {
    "topk": (lambda pre, k, t: ops.topk(pre, k), lambda pre, k, t: clt.topk(pre, k=k)),
    "abstopk": (lambda pre, k, t: ops.abstopk(pre, k), lambda pre, k, t: clt.abstopk(pre, k=k)),
    "groupmax": (
        lambda pre, k, t: ops.groupmax(pre, slots("groupmax", pre.shape[-1], k)),
        lambda pre, k, t: clt.groupmax(pre, k=slots("groupmax", pre.shape[-1], k)),
    ),
    "batch_topk": (lambda pre, k, t: ops.batch_topk(pre, k), lambda pre, k, t: clt.batch_topk(pre, k=k)),
    "jumprelu": (lambda pre, k, t: ops.jumprelu(pre, t), lambda pre, k, t: clt.jumprelu(pre, wide(t))),
    "relu": (lambda pre, k, t: ops.relu(pre), lambda pre, k, t: clt.relu(pre)),
    "gate": (lambda pre, k, t: ops.gate(pre + t, pre), lambda pre, k, t: clt.gate(pre + wide(t), pre)),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
@given(shapes, seeds)
def test_activations_of_given_pre_activations(name, shape, seed):
    rng = np.random.default_rng(seed)
    rows, _, n, k = shape
    pre, threshold = draw(rng, rows, n), draw(rng, n)
    op, oracle = ACTIVATIONS[name]
    equal(
        oracle(wide(pre), k, threshold),
        op(pre, k, threshold),
        compiled(lambda pre: op(pre, k, threshold), pre),
    )


@given(shapes, seeds, st.booleans(), st.booleans())
def test_encode_decode_residual_with_and_without_bias(shape, seed, bias, skip):
    rng = np.random.default_rng(seed)
    rows, d, n, k = shape
    x, W, b = draw(rng, rows, d), draw(rng, d, n), draw(rng, n)
    W_dec, b_dec = draw(rng, n, d + 1 if skip else d), draw(rng, d + 1 if skip else d) if bias else None
    shift = draw(rng, d) if bias else None
    W_skip = draw(rng, d, d + 1) if skip else None

    def program(x):
        pre = ops.encode(x, W, b, shift)
        return pre, ops.residual(ops.decode(ops.topk(pre, k), W_dec, b_dec), x, W_skip)

    pre = clt.encode(wide(x), wide(W), wide(b), wide(shift))
    y = clt.residual(clt.decode(clt.topk(pre, k=k), wide(W_dec), wide(b_dec)), wide(x), wide(W_skip))
    for reference, eager, got in zip((pre, y), program(x), compiled(program, x), strict=True):
        equal(reference, eager, got)


@given(shapes, seeds, st.booleans(), st.sampled_from([0, -6, -40]))
def test_gate_of_two_encodes(shape, seed, subtract, bias):
    """Fused: many gates open, few, none."""
    rng = np.random.default_rng(seed)
    rows, d, n, _ = shape
    x, W, V, b, c = draw(rng, rows, d), draw(rng, d, n), draw(rng, d, n), draw(rng, n) + np.float32(bias), draw(rng, n)
    shift = draw(rng, d) if subtract else None

    for magnitude in (V, W):

        def program(x, W_mag=magnitude):
            return ops.gate(ops.encode(x, W, b, shift), ops.encode(x, W_mag, c, shift))

        reference = clt.encode_sparse(
            "gate", wide(x), wide(W), wide(b), wide(shift), W_mag=wide(magnitude), b_mag=wide(c)
        )
        equal(reference, program(x), compiled(lambda x, program=program: program(x), x))


@given(shapes, seeds, st.booleans())
def test_batch_topk_of_an_encode(shape, seed, subtract):
    rng = np.random.default_rng(seed)
    rows, d, n, k = shape
    x, W, b = draw(rng, rows, d), draw(rng, d, n), draw(rng, n)
    shift = draw(rng, d) if subtract else None

    def program(x):
        return ops.batch_topk(ops.encode(x, W, b, shift), k)

    reference = clt.encode_sparse("batch_topk", wide(x), wide(W), wide(b), wide(shift), k=k)
    equal(reference, program(x), compiled(program, x))


def operands(rng, mode, count):
    if mode == "ablate":
        return ()
    a = draw(rng, count)
    return (a,) if mode != "clamp" else (a, a + draw(rng, count, low=0))


@pytest.mark.parametrize("given_as", ["constants", "numbers", "vectors"])
@pytest.mark.parametrize("mode", EDITS)
@given(shapes, seeds, st.sampled_from(ARCHITECTURES), st.data())
@settings(max_examples=25)
def test_edits(mode, given_as, shape, seed, architecture, data):
    sae = make_sae(architecture, shape, seed)
    rng = np.random.default_rng(seed + 1)
    x = draw(rng, shape[0], shape[1])
    features = data.draw(
        st.lists(st.integers(0, shape[2] - 1), min_size=1, max_size=min(4, shape[2]), unique=True), label="features"
    )
    arrays = operands(rng, mode, len(features))
    if given_as == "constants":
        fixed = [a.tolist() for a in arrays]
        extra = ()
    elif given_as == "numbers":
        fixed = None
        extra = ([a.tolist() for a in arrays],)
    else:
        fixed = None
        extra = arrays if arrays else ()

    def program(x, *rest):
        values = fixed if fixed is not None else rest[0] if given_as == "numbers" else rest
        f = sae.encode(x)
        g = ops.edit(f, features, mode, *values)
        return g, ops.delta(f, features, mode, *values), g - f, sae.decode(g), sae.decode(g) - sae.decode(f)

    f = oracle_encode(sae, x)
    g = clt.edit(f, features, mode, *map(wide, arrays))
    delta = clt.delta(f, features, mode, *map(wide, arrays))
    expected = (g, delta, clt.sub(g, f), oracle_decode(sae, g), clt.decode(delta, wide(sae.W_dec)))
    eager = program(x, *extra)
    for reference, a, b in zip(expected, eager, compiled(program, x, *extra), strict=True):
        equal(reference, a, b)


@pytest.mark.parametrize("mode", ["add", "ablate", "clamp"])
@given(shapes, seeds, st.integers(-3, 3))
def test_steer(mode, shape, seed, strength):
    rng = np.random.default_rng(seed)
    h, v = draw(rng, shape[0], shape[1]), draw(rng, shape[1])
    v[0] += 3.0
    reference = policy.steer(wide(h), wide(v), float(strength), mode)
    eager = iam.steer(h, v, float(strength), mode)
    program = compiled(lambda h, v, s: iam.steer(h, v, s, mode), h, v, float(strength))
    np.testing.assert_array_equal(eager, program)
    # h·v has d terms: its rounding is at most d·eps·sum|h_i v_i|, and the result adds one product and one sum.
    eps = np.finfo(np.float32).eps
    size = np.abs(wide(h)) @ np.abs(wide(v)) / np.linalg.norm(v) + abs(strength) * np.linalg.norm(v) + abs(strength) + 3
    bound = (shape[1] + 4) * eps * size[:, None]
    assert (np.abs(eager - reference) <= bound).all()


# Whole programs.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("mode", EDITS)
@given(shapes, seeds, st.booleans())
@settings(max_examples=20)
def test_edits_that_keep_the_error(mode, architecture, shape, seed, other_order):
    """``x + decode(edit(f)) − decode(f)``, which the compiler reduces to the edited features."""
    sae = make_sae(architecture, shape, seed)
    rng = np.random.default_rng(seed + 1)
    x = draw(rng, shape[0], shape[1])
    features = sorted({0, shape[2] // 2, shape[2] - 1})
    arrays = operands(rng, mode, len(features))

    def program(x):
        f = sae.encode(x)
        g = ops.edit(f, features, mode, *arrays)
        if other_order:
            return x + (sae.decode(g) - sae.decode(f))
        return x + sae.decode(g) - sae.decode(f)

    f = oracle_encode(sae, x)
    g = clt.edit(f, features, mode, *map(wide, arrays))
    equal(wide(x) + oracle_decode(sae, g) - oracle_decode(sae, f), program(x), compiled(program, x))


STEPS = ("encode", "set", "scale", "clamp", "ablate", "decode", "add", "multiply", "vector", "steer", "negate", "skip")


class Eager:
    """What the steps of a random program do; the same code runs eagerly and while it is recorded."""

    encode = staticmethod(lambda sae, x: sae.encode(x))
    decode = staticmethod(lambda sae, f: sae.decode(f))
    edit = staticmethod(ops.edit)
    steer = staticmethod(iam.steer)


class Oracle:
    encode = staticmethod(oracle_encode)
    decode = staticmethod(oracle_decode)
    edit = staticmethod(lambda f, features, mode, *a: clt.edit(f, features, mode, *map(wide, a)))
    steer = staticmethod(lambda h, v, s: policy.steer(h, wide(v), s))


def run_steps(of, sae, steps, v, x):
    h, f = x, None
    kept = [x]
    features = sorted({0, sae.d_sae - 1})
    n = len(features)
    ones = np.ones(n, np.float32)
    for step in steps:
        if step == "encode" or (f is None and step in (*EDITS, "decode")):
            f = of.encode(sae, h)
        elif step == "set":
            f = of.edit(f, features, "set", ones * 2)
        elif step == "scale":
            f = of.edit(f, features, "scale", -ones)
        elif step == "clamp":
            f = of.edit(f, features, "clamp", -ones, ones * 3)
        elif step == "ablate":
            f = of.edit(f, features[:1], "ablate")
        elif step == "decode":
            h = of.decode(sae, f)
        elif step == "add":
            h = h + kept[0]
        elif step == "multiply":
            h = h * 0.5
        elif step == "vector":
            h = v - h
        elif step == "steer":
            h = of.steer(h, v, 2.0)
        elif step == "negate":
            h = -h
        elif step == "skip":
            kept.insert(0, h)
    return h if f is None else (h, f)


@given(
    shapes.filter(lambda shape: shape[2] <= 70),
    seeds,
    st.sampled_from(ARCHITECTURES),
    st.lists(st.sampled_from(STEPS), min_size=1, max_size=6),
)
@example((5, 7, 33, 9), 0, "topk", ["encode", "set", "decode", "add", "encode", "ablate"])
@example((1, 5, 13, 13), 1, "jumprelu", ["negate", "vector", "steer", "encode", "clamp", "decode"])
@settings(max_examples=60)
def test_random_programs(shape, seed, architecture, steps):
    # Values stay exact: at most two encodes and decodes, whose sums are below 2**24 in units of 2**-4.
    if steps.count("decode") > 1 or steps.count("multiply") > 3:
        return
    sae = make_sae(architecture, shape, seed)
    rng = np.random.default_rng(seed + 1)
    x, v = draw(rng, shape[0], shape[1]), draw(rng, shape[1])
    reference = run_steps(Oracle, sae, steps, wide(v), wide(x))
    eager = run_steps(Eager, sae, steps, v, x)
    program = compiled(lambda x: run_steps(Eager, sae, steps, v, x), x)
    if not isinstance(reference, tuple):
        reference, eager, program = (reference,), (eager,), (program,)
    for a, b, c in zip(reference, eager, program, strict=True):
        equal(a, b, c)


# The result depends on neither threads, kernels nor the batch.


@functools.cache
def everything(architecture, shape):
    """A program with every kernel, on real numbers, and its coder."""
    rows, d, n, k = shape
    rng = np.random.default_rng(0)
    cfg = iam.SAEConfig(architecture=architecture, d_in=d, d_sae=n, k=slots(architecture, n, k))
    sae = iam.SAE(
        cfg,
        W_enc=rng.normal(size=(d, n)),
        b_enc=rng.normal(size=n),
        W_dec=rng.normal(size=(n, d)),
        b_dec=rng.normal(size=d),
        threshold=np.abs(rng.normal(size=n)) if architecture == "jumprelu" else None,
    )
    v = rng.normal(size=d).astype(np.float32)

    @iam.jit
    def program(x):
        f = sae.encode(x)
        g = f.set([0, n - 1], 1.5).scale(1, 2.0).ablate(2)
        y = x + sae.decode(g) - sae.decode(f)
        return f, g, g - f, iam.steer(y, v, 0.5, "clamp"), sae.decode(g), g.to_dense(), ops.residual(y, x) / 3.0

    return program, rng.normal(size=(rows, d)).astype(np.float32)


def flat(results):
    for result in results:
        if isinstance(result, iam.SparseFeatures):
            yield from (c for c in result.components if c is not None)
        else:
            yield result


BIG = [(64, 32, 1031, 8), (129, 16, 300, 300)]


@pytest.mark.parametrize("shape", BIG)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_threads_do_not_matter(architecture, shape, restore_threads):
    program, x = everything(architecture, shape)
    restore_threads.set_num_threads(1)
    one = list(flat(program(x)))
    restore_threads.set_num_threads(2)
    for a, b in zip(one, flat(program(x)), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_the_batch_does_not_matter(architecture):
    program, x = everything(architecture, BIG[0])
    whole = program(x)
    for rows in (slice(0, 1), slice(3, 20), slice(63, 64)):
        for a, b in zip(whole, program(x[rows]), strict=True):
            if isinstance(a, iam.SparseFeatures):
                a, b = dense(a), dense(b)
            np.testing.assert_array_equal(a[rows], b)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_cpu_level(architecture, restore_cpu_level):
    levels = restore_cpu_level.available_cpu_levels()
    assert levels
    shape = (37, 9, 131, 7)
    sae = make_sae(architecture, shape, 3)
    x = draw(np.random.default_rng(4), shape[0], shape[1])

    def steps(of, x):
        f = of.encode(sae, x)
        g = of.edit(f, [0, 5, 130], "clamp", np.zeros(3, np.float32), np.full(3, 2, np.float32))
        return g, of.steer(of.decode(sae, g), sae.b_dec + 1, 3.0)

    expected = steps(Oracle, wide(x))
    program = iam.jit(lambda x: steps(Eager, x))
    for level in levels:
        restore_cpu_level.set_cpu_level(level)
        assert restore_cpu_level.cpu_level() == level
        for reference, a, b in zip(expected, steps(Eager, x), program(x), strict=True):
            equal(reference, a, b)
