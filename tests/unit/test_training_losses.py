"""Losses of training: value and gradients against autograd in float64, written densely from the formulas."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from straight_through import JumpReLU, Step  # noqa: E402

from iam.training import _steps  # noqa: E402
from iam.training._losses import Terms, loss_of  # noqa: E402

ROWS, D_IN, D_OUT, D_SAE = 14, 6, 5, 24


pytestmark = pytest.mark.usefixtures("one_thread")


def weights_for(names, *, d_out, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = {"encoder": draw(D_SAE, D_IN) / 2, "decoder": draw(D_SAE, d_out) / 2, "b_dec": draw(d_out) / 3}
    for name in names:
        weights[name] = draw(d_out, D_IN) / 3 if name == "W_skip" else draw(D_SAE) / 3
    if "threshold" in weights:
        weights["threshold"] = weights["threshold"].abs()
    return weights


def squared(error):
    return error.square().sum(-1).mean()


def kept(score, count):
    """1 at the `count` largest of the last axis."""
    return torch.zeros_like(score).scatter_(-1, score.topk(count, dim=-1).indices, 1.0)


def oracle(name, w, x, y, t):
    """The whole loss, densely; autograd differentiates it."""
    centred = x - w["b_dec"] if t.apply_b_dec_to_input else x
    rest = w["b_dec"] + (x @ w["W_skip"].T if "W_skip" in w else 0)
    norms = w["decoder"].norm(dim=1)
    if name == "gated":
        dot = centred @ w["encoder"].T
        gate = dot + w["b_gate"]
        f = (gate > 0) * (dot * w["r_mag"].exp() + w["b_mag"]).relu()
        sparsity = t.coefficient * (gate.relu() * norms).sum(-1).mean()
        return squared(f @ w["decoder"] + rest - y) + sparsity + squared(gate.relu() @ w["decoder"] + rest - y)
    h = centred @ w["encoder"].T + w["b_enc"]
    if name == "standard":
        f = h.relu()
        return squared(f @ w["decoder"] + rest - y) + t.coefficient * (f * norms).sum(-1).mean()
    if name == "jumprelu":
        f = JumpReLU.apply(h, w["threshold"], t.bandwidth)
        total = squared(f @ w["decoder"] + rest - y)
        l0 = Step.apply(h, w["threshold"], t.bandwidth).sum(-1)
        if t.mode == "step":
            total = total + t.coefficient * l0.mean()
        elif t.mode == "quadratic":
            total = total + t.coefficient * (2 / t.target_l0 * (l0 - t.target_l0) ** 2).mean()
        else:
            total = total + t.coefficient * torch.tanh(t.tanh_scale * f * norms).sum(-1).mean()
        if t.pre_act_coefficient and t.dead is not None:
            total = total + t.pre_act_coefficient * ((w["threshold"] - h).relu() * norms * t.dead).sum(-1).mean()
        return total
    score = h * norms if t.rescale else h
    if name == "topk":
        mask = kept(score.detach(), t.k)
    else:
        mask = kept(score.detach().relu().flatten(), t.k * len(x)).view_as(score)
    f = score.relu() * mask
    u = f / norms if t.rescale else f
    error = u @ w["decoder"] + rest - y
    total = squared(error)
    for width in t.widths[:-1]:
        total = total + squared(u[:, :width] @ w["decoder"][:width] + rest - y)
    if t.dead is not None and t.aux_coefficient:
        dead, half = int(t.dead.sum()), D_OUT_OF(y) // 2
        masked = torch.where(t.dead, score, -torch.inf)
        aux_mask = kept(masked.detach(), min(half, dead))
        aux = torch.where(aux_mask > 0, score, 0.0)
        aux = aux / norms if t.rescale else aux
        residual = -error.detach()
        total = total + t.aux_coefficient * min(dead / half, 1.0) * squared(aux @ w["decoder"] - residual)
    return total


def D_OUT_OF(y):
    return y.shape[1]


DEAD = torch.zeros(D_SAE, dtype=torch.bool)
DEAD[[1, 4, 5, 17, 20, 21]] = True

CASES = {
    "topk": ("topk", {"k": 4}),
    "topk-aux": ("topk", {"k": 4, "aux_coefficient": 0.7, "dead": DEAD}),
    "topk-rescaled": ("topk", {"k": 4, "rescale": True, "aux_coefficient": 0.7, "dead": DEAD}),
    "batchtopk": ("batchtopk", {"k": 3}),
    "batchtopk-aux": ("batchtopk", {"k": 3, "aux_coefficient": 0.7, "dead": DEAD}),
    "matryoshka": ("matryoshka", {"k": 5, "widths": (3, 9, D_SAE), "aux_coefficient": 0.7, "dead": DEAD}),
    "jumprelu-step": ("jumprelu", {"coefficient": 0.8, "mode": "step", "bandwidth": 0.4}),
    "jumprelu-tanh": ("jumprelu", {"coefficient": 0.8, "mode": "tanh", "bandwidth": 0.4}),
    "jumprelu-quadratic": ("jumprelu", {"coefficient": 0.8, "mode": "quadratic", "target_l0": 4.0, "bandwidth": 0.4}),
    "jumprelu-pre-act": ("jumprelu", {"coefficient": 0.8, "bandwidth": 0.4, "pre_act_coefficient": 0.3, "dead": DEAD}),
    "gated": ("gated", {"coefficient": 0.8}),
    "standard": ("standard", {"coefficient": 0.8}),
}
NAMES = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}


@pytest.fixture(autouse=True, params=["sparse", "dense"])
def products(request, monkeypatch):
    """Both implementations of the products: entries are 4 of 24 here, so the choice is forced."""
    monkeypatch.setattr(_steps.Codes, "is_dense", request.param == "dense")


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@pytest.mark.parametrize("case", CASES)
def test_loss_and_gradients_are_those_of_autograd(case, kind):
    name, terms = CASES[case]
    transcoder = kind == "transcoder"
    terms = Terms(apply_b_dec_to_input=not transcoder, **terms)
    names = NAMES.get(name, ("b_enc",)) + (("W_skip",) if transcoder else ())
    weights = weights_for(names, d_out=D_OUT if transcoder else D_IN)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, D_IN, generator=generator, dtype=torch.float64)
    y = torch.randn(ROWS, D_OUT, generator=generator, dtype=torch.float64) if transcoder else x
    found = loss_of(name, weights, [x], [y], terms)
    leaves = {key: value.clone().requires_grad_() for key, value in weights.items()}
    expected = oracle(name, leaves, x, y, terms)
    expected.backward()
    # float64 has epsilon 2e-16; sums here have fewer than 1,000 terms of size below 100
    total = float(sum(found.parts.values()))
    assert total == pytest.approx(float(expected.detach()), rel=1e-12)
    assert set(found.gradients) == set(weights)
    for key, leaf in leaves.items():
        torch.testing.assert_close(found.gradients[key], leaf.grad, rtol=1e-9, atol=1e-10, msg=key)
        assert bool(leaf.grad.any()), f"{key} has no gradient in this case: the comparison says nothing"


@pytest.mark.parametrize("kind", ["sae", "transcoder"])
@pytest.mark.parametrize("case", CASES)
def test_kernels_give_the_gradients_of_float64(case, kind):
    """float32 runs in the compiled kernels; the formulas in float64, which the test above checks, are their oracle."""
    name, terms = CASES[case]
    transcoder = kind == "transcoder"
    terms = Terms(apply_b_dec_to_input=not transcoder, **terms)
    names = NAMES.get(name, ("b_enc",)) + (("W_skip",) if transcoder else ())
    weights = weights_for(names, d_out=D_OUT if transcoder else D_IN)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(ROWS, D_IN, generator=generator)
    y = torch.randn(ROWS, D_OUT, generator=generator) if transcoder else x
    weights = {key: value.float() for key, value in weights.items()}
    found = loss_of(name, weights, [x], [y], terms)
    wide = {key: value.double() for key, value in weights.items()}
    expected = loss_of(name, wide, [x.double()], [y.double()], terms)
    assert torch.equal(found.fired, expected.fired) and found.active == expected.active
    for part, value in expected.parts.items():
        assert float(found.parts[part]) == pytest.approx(float(value), rel=1e-5), part
    assert set(found.factored) == set(weights)
    for key, value in expected.gradients.items():  # sums of fewer than 1,000 terms
        bound = 1e-5 * float(value.abs().max())
        torch.testing.assert_close(found.gradients[key].double(), value, rtol=1e-4, atol=bound, msg=key)


def test_gradients_of_encoder_and_decoder_are_factors():
    """Where codes are sparse no gradient [features, width] is made, with AuxK and nested widths neither."""
    weights = {key: value.float() for key, value in weights_for(("b_enc",), d_out=D_IN).items()}
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(3))
    for case in ("topk", "topk-aux", "batchtopk", "matryoshka"):
        name, terms = CASES[case]
        found = loss_of(name, weights, [x], [x], Terms(apply_b_dec_to_input=True, **terms)).factored
        dense = _steps.Codes.is_dense  # set by the fixture
        assert all(isinstance(found[key], _steps.Product) != dense for key in ("encoder", "decoder")), case
        if not dense:
            assert found["encoder"].codes is found["decoder"].codes  # sorted by feature once


def test_sum_of_products_and_arrays():
    generator = torch.Generator().manual_seed(4)
    codes = _steps.topk(torch.randn(ROWS, D_SAE, generator=generator), 3)
    values, basis = torch.randn(3 * ROWS, generator=generator), torch.randn(ROWS, 5, generator=generator)
    dense = codes.dense(values).T @ basis
    one, two, array = _steps.Product(codes, values, basis), _steps.Product(codes, values, basis), torch.ones(D_SAE, 5)
    torch.testing.assert_close(_steps.add(one, two).dense(), 2 * dense)
    torch.testing.assert_close(_steps.add(one, array.clone()), dense + 1)
    torch.testing.assert_close(_steps.add(array.clone(), one), dense + 1)
    torch.testing.assert_close(_steps.add(array.clone(), array), array + array)


def test_fired_active_and_smallest():
    weights = weights_for(("b_enc",), d_out=D_IN)
    x = torch.randn(ROWS, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = loss_of("batchtopk", weights, [x], [x], Terms(apply_b_dec_to_input=True, k=2))
    h = ((x - weights["b_dec"]) @ weights["encoder"].T + weights["b_enc"]).relu()
    cut = h.flatten().topk(2 * ROWS).values[-1]
    assert found.active == 2 * ROWS
    assert float(found.smallest[0]) == float(cut)
    assert torch.equal(found.fired, (h >= cut).any(0))


@pytest.mark.parametrize("skew", [0.0, 8.0])
def test_batch_topk_is_exact_where_one_row_holds_most(skew):
    """With a large skew, more codes of row 0 survive than the first guess of candidates allows."""
    score = torch.randn(8, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    score[0] += skew
    codes = _steps.batch_topk(score, 8 * 3)
    kept_now = codes.dense(torch.ones(len(codes.indices)))
    cut = score.flatten().topk(24).values[-1]
    assert torch.equal(kept_now > 0, score >= cut)


@pytest.mark.parametrize("scaled", [False, True])
def test_batch_topk_kernel_takes_more_candidates_where_one_row_holds_most(scaled):
    """Row 0 is a hundred times longer: all its positive pre-activations, 30 or so, belong to the 24 largest of 8 rows."""
    generator = torch.Generator().manual_seed(2)
    x, encoder = torch.randn(8, D_IN, generator=generator), torch.randn(64, D_IN, generator=generator)
    bias = torch.randn(64, generator=generator) / 10
    norms = torch.rand(64, generator=generator) + 0.5 if scaled else None
    x[0] *= 100
    codes, values = _steps.encode_batch_topk(x, encoder, bias, 24, norms)
    pre = x.double() @ encoder.double().T + bias.double()
    score = pre if norms is None else pre * norms.double()
    expected = torch.where(score >= score.flatten().topk(24).values[-1], pre, 0.0)
    assert int((codes.dense(values)[0] > 0).sum()) > 12, "the first guess, 6 candidates of a row, was enough"
    torch.testing.assert_close(codes.dense(values).double(), expected, rtol=1e-4, atol=1e-5)


def test_sums_in_float32_are_those_of_float64():
    generator = torch.Generator().manual_seed(7)
    dense = torch.randn(37, 11, generator=generator) + 3
    wide = dense.double()
    # float32 rounds each result once
    assert float(_steps.squares(dense)) == pytest.approx(float(_steps.squares(wide)), rel=1e-7)
    torch.testing.assert_close(_steps.row_sum(dense).double(), _steps.row_sum(wide), rtol=1e-7, atol=0)
    expected = float((wide - wide.mean(0)).square().sum())
    assert _steps.variance(dense) == pytest.approx(expected, rel=1e-5)  # 1e-7 of ten times as much is subtracted
    codes, values = _steps.Codes(torch.tensor([1, 4, 1]), torch.tensor([0, 2, 3]), 6), torch.tensor([2.0, 0.0, -1.0])
    fired, active = _steps.fired(codes, values)
    assert fired.tolist() == [False, True, False, False, False, False] and active == 1


def test_batch_topk_never_keeps_what_is_not_positive():
    codes = _steps.batch_topk(torch.tensor([[1.0, -2.0], [-1.0, 0.0]]), 4)
    assert codes.indices.tolist() == [0] and codes.offsets.tolist() == [0, 1, 1]


@pytest.mark.parametrize("rule", ["adam", "signum"])
@pytest.mark.parametrize("clip", [None, 0.5])
@pytest.mark.parametrize("form", ["factors", "rows", "arrays"])
def test_step_is_projection_norm_clip_rule_and_constraints(rule, clip, form, monkeypatch):
    """Against the same in float64 NumPy, from the definitions, with gradients in each of the forms."""
    from iam.training import OptimiserSettings

    if form == "rows":
        monkeypatch.setattr(_steps, "_ENTRIES_TO_MAKE_ROWS", 0)
    settings = OptimiserSettings(name=rule, clip=clip)
    generator = torch.Generator().manual_seed(6)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    decoder = draw(D_SAE, D_OUT)
    weights = {
        "layers.0.encoder": draw(D_SAE, D_IN),
        "layers.0.decoder": decoder / decoder.norm(dim=1, keepdim=True),
        "layers.0.threshold": draw(D_SAE).abs() / 100,
        "b_dec": draw(2, D_OUT),
    }
    expected = {name: value.double().numpy() for name, value in weights.items()}
    optimiser = _steps.Optimiser(weights, settings, normalize=("layers.0.decoder",))
    assert weights["layers.0.encoder"].T.is_contiguous() and weights["layers.0.encoder"].shape == (D_SAE, D_IN)
    moments = {name: [np.zeros(value.shape), np.zeros(value.shape)] for name, value in expected.items()}
    lr = 0.01
    for step in range(1, 4):
        codes = _steps.topk(draw(ROWS, D_SAE), 2)
        gradients = {
            "layers.0.encoder": _steps.Product(codes, draw(2 * ROWS), draw(ROWS, D_IN)),
            "layers.0.decoder": _steps.Product(codes, draw(2 * ROWS), draw(ROWS, D_OUT)),
            "layers.0.threshold": draw(D_SAE),
            "b_dec": draw(2, D_OUT),
        }
        dense = {n: one.dense() if isinstance(one, _steps.Product) else one for n, one in gradients.items()}
        g = {name: one.double().numpy() for name, one in dense.items()}
        rows = expected["layers.0.decoder"]
        along = (g["layers.0.decoder"] * rows).sum(1, keepdims=True) / (rows**2).sum(1, keepdims=True)
        g["layers.0.decoder"] = g["layers.0.decoder"] - along * rows
        norm = sum((one**2).sum() for one in g.values()) ** 0.5
        assert clip is None or norm > clip, "nothing is clipped: the case says nothing"
        scale = 1.0 if clip is None else clip / norm
        found = optimiser.step({n: one.clone() for n, one in dense.items()} if form == "arrays" else gradients, lr)
        assert found == pytest.approx(norm, rel=1e-5)
        for name, p in expected.items():
            m, v = moments[name]
            if rule == "adam":
                m[:], v[:] = 0.9 * m + 0.1 * scale * g[name], 0.999 * v + 0.001 * (scale * g[name]) ** 2
                p -= lr * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            else:
                m[:] = 0.95 * m + 0.05 * scale * g[name]
                p -= lr * np.sign(m)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        np.maximum(expected["layers.0.threshold"], 0, out=expected["layers.0.threshold"])
        for name, p in expected.items():
            np.testing.assert_allclose(weights[name].numpy(), p, rtol=1e-4, atol=2e-5, err_msg=f"{name}, step {step}")
    assert (weights["layers.0.threshold"] == 0).any()


def test_optimiser_restored_goes_on_bit_for_bit():
    from iam.training import OptimiserSettings

    def run(weights, steps, saved=None):
        optimiser = _steps.Optimiser(weights, OptimiserSettings(), normalize=("decoder",))
        if saved is not None:
            optimiser.restore(saved)
        for step in steps:
            generator = torch.Generator().manual_seed(step)
            codes = _steps.topk(torch.randn(ROWS, D_SAE, generator=generator), 2)
            one = _steps.Product(
                codes, torch.randn(2 * ROWS, generator=generator), torch.randn(ROWS, D_IN, generator=generator)
            )
            optimiser.step({"encoder": one, "decoder": one}, 0.01)
        return {name: value.contiguous().clone() for name, value in (weights | optimiser.state()).items()}

    start = {name: value.float() for name, value in weights_for((), d_out=D_IN).items() if name != "b_dec"}
    straight = run({name: value.clone() for name, value in start.items()}, range(6))
    cut = run({name: value.clone() for name, value in start.items()}, range(3))
    again = run({name: cut[name].clone() for name in start}, range(3, 6), cut)
    assert straight.keys() == again.keys()
    for name, value in straight.items():
        assert torch.equal(value, again[name]), name


def test_signum_and_adam_follow_their_definitions():
    from iam.training import OptimiserSettings

    for name in ("adam", "signum"):
        settings = OptimiserSettings(name=name)
        start = np.array([1.0, -2.0, 3.0])
        weights = {"w": torch.tensor(start, dtype=torch.float32)}
        optimiser = _steps.Optimiser(weights, settings)
        m = v = np.zeros(3)
        expected = start.copy()
        for step in range(1, 4):
            g = np.array([0.5, -0.1 * step, 0.0])
            optimiser.step({"w": torch.tensor(g, dtype=torch.float32)}, 0.01)
            if name == "adam":
                m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
                expected -= 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
            else:
                m = 0.95 * m + 0.05 * g
                expected -= 0.01 * np.sign(m)
        np.testing.assert_allclose(weights["w"].numpy(), expected, rtol=1e-6)
