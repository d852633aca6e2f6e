"""Losses of training: value and gradients against autograd in float64, written densely from the formulas."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from iam.training import _steps  # noqa: E402
from iam.training._losses import LOSSES, Terms  # noqa: E402

ROWS, D_IN, D_OUT, D_SAE = 14, 6, 5, 24


pytestmark = pytest.mark.usefixtures("one_thread")


class JumpReLU(torch.autograd.Function):
    """h [h > theta] with the pseudo-derivative -(theta / eps) rect((h - theta) / eps) for theta."""

    @staticmethod
    def forward(ctx, h, theta, eps):
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return h * (h > theta)

    @staticmethod
    def backward(ctx, upstream):
        h, theta = ctx.saved_tensors
        window = ((h - theta).abs() < ctx.eps / 2).double()
        return upstream * (h > theta), (-theta / ctx.eps * window * upstream).sum(0), None


class Step(torch.autograd.Function):
    """[h > theta] with the pseudo-derivative -(1 / eps) rect((h - theta) / eps) for theta."""

    @staticmethod
    def forward(ctx, h, theta, eps):
        ctx.save_for_backward(h, theta)
        ctx.eps = eps
        return (h > theta).double()

    @staticmethod
    def backward(ctx, upstream):
        h, theta = ctx.saved_tensors
        window = ((h - theta).abs() < ctx.eps / 2).double()
        return None, (-1 / ctx.eps * window * upstream).sum(0), None


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
    found = LOSSES[name](weights, x, y, terms)
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


def test_fused_kernel_gives_the_gradients_of_the_products(monkeypatch):
    """In float32 TopK runs on the kernel that never holds [rows, features]; without it the same comes out."""
    weights = {key: value.float() for key, value in weights_for(("b_enc",), d_out=D_IN).items()}
    x = torch.randn(ROWS, D_IN, generator=torch.Generator().manual_seed(3))
    terms = Terms(apply_b_dec_to_input=True, k=4, aux_coefficient=0.7, dead=DEAD)
    calls = []
    kernel = _steps.encode_topk
    monkeypatch.setattr(_steps, "encode_topk", lambda *given: calls.append(1) or kernel(*given))
    fused = LOSSES["topk"](weights, x, x, terms)
    monkeypatch.setattr(_steps, "encode_topk", lambda *given: None)
    plain = LOSSES["topk"](weights, x, x, terms)
    assert calls and torch.equal(fused.fired, plain.fired) and fused.active == plain.active
    for key, value in plain.gradients.items():  # float32 sums of fewer than 100 terms below 10, in another order
        torch.testing.assert_close(fused.gradients[key], value, rtol=1e-4, atol=1e-5, msg=key)


def test_fired_active_and_smallest():
    weights = weights_for(("b_enc",), d_out=D_IN)
    x = torch.randn(ROWS, D_IN, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    found = LOSSES["batchtopk"](weights, x, x, Terms(apply_b_dec_to_input=True, k=2))
    h = ((x - weights["b_dec"]) @ weights["encoder"].T + weights["b_enc"]).relu()
    cut = h.flatten().topk(2 * ROWS).values[-1]
    assert found.active == 2 * ROWS
    assert float(found.smallest) == float(cut)
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


def test_batch_topk_never_keeps_what_is_not_positive():
    codes = _steps.batch_topk(torch.tensor([[1.0, -2.0], [-1.0, 0.0]]), 4)
    assert codes.indices.tolist() == [0] and codes.offsets.tolist() == [0, 1, 1]


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
