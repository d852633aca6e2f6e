"""Losses of coders of several layers and sites: value and gradients against autograd in float64, written densely from the formulas."""

import pytest

torch = pytest.importorskip("torch")

from straight_through import JumpReLU, Step  # noqa: E402

from iam.training import _steps  # noqa: E402
from iam.training._losses import Terms, layer_weights, loss_of  # noqa: E402

ROWS, D_IN, D_OUT, D_SAE, LAYERS = 14, 6, 5, 24, 3

pytestmark = pytest.mark.usefixtures("one_thread")


def squared(error):
    return error.square().sum(-1).mean()


def kept(score, count):
    """1 at the `count` largest of the last axis."""
    return torch.zeros_like(score).scatter_(-1, score.topk(count, dim=-1).indices, 1.0)


def active(name, w, x, t):
    """Codes of a layer, densely, and its pre-activations; for gated, what its second reconstruction decodes."""
    if name == "gated":
        q = x @ w["encoder"].T
        gate = q + w["b_gate"]
        return (gate > 0) * (q * w["r_mag"].exp() + w["b_mag"]).relu(), gate.relu()
    h = x @ w["encoder"].T + w["b_enc"]
    if name == "topk":
        return h.relu() * kept(h.detach(), t.k), h
    if name == "batchtopk":
        return h.relu() * kept(h.detach().relu().flatten(), t.k * len(h)).view_as(h), h
    if name == "jumprelu":
        return JumpReLU.apply(h, w["threshold"], t.bandwidth), h
    return h.relu(), h


def penalty(name, w, f, h, n, t, dead):
    """The sparsity loss of a layer whose features have the decoder norms n."""
    if name == "standard":
        return t.coefficient * (f * n).sum(-1).mean()
    if name == "gated":
        return t.coefficient * (h * n).sum(-1).mean()
    if name != "jumprelu":
        return 0.0
    l0 = Step.apply(h, w["threshold"], t.bandwidth).sum(-1)
    total = {
        "step": lambda: t.coefficient * l0.mean(),
        "quadratic": lambda: t.coefficient * (2 / t.target_l0 * (l0 - t.target_l0) ** 2).mean(),
        "tanh": lambda: t.coefficient * torch.tanh(t.tanh_scale * f * n).sum(-1).mean(),
    }[t.mode]()
    if t.pre_act_coefficient:
        total = total + t.pre_act_coefficient * ((w["threshold"] - h).relu() * n * dead).sum(-1).mean()
    return total


def aux(w, h, residual, t, dead):
    """AuxK of a layer on what is left of its own outputs."""
    half = residual.shape[1] // 2
    mask = kept(torch.where(dead, h, -torch.inf).detach(), min(half, int(dead.sum())))
    found = torch.where(mask > 0, h, 0.0) @ w["decoder"]
    return t.aux_coefficient * min(int(dead.sum()) / half, 1.0) * squared(found - residual)


def cross_layer_oracle(name, weights, xs, ys, t):
    """The whole loss of a cross-layer transcoder; slice j of the decoder of layer i writes to output i + j."""
    layers = [layer_weights(weights, i) for i in range(LAYERS)]
    dead = (torch.zeros(LAYERS * D_SAE, dtype=torch.bool) if t.dead is None else t.dead).split(D_SAE)
    found = [active(name, w, x, t) for w, x in zip(layers, xs, strict=True)]

    def outputs(which):
        written = []
        for at in range(LAYERS):
            total = layers[at]["b_dec"]
            if "W_skip" in layers[at]:
                total = total + xs[at] @ layers[at]["W_skip"].T
            for i in range(at + 1):
                total = total + found[i][which] @ layers[i]["decoder"][:, (at - i) * D_OUT : (at - i + 1) * D_OUT]
            written.append(total)
        return written

    hats = outputs(0)
    total = sum(squared(hat - y) for hat, y in zip(hats, ys, strict=True))
    if name == "gated":
        total = total + sum(squared(hat - y) for hat, y in zip(outputs(1), ys, strict=True))
    for i, (w, (f, h)) in enumerate(zip(layers, found, strict=True)):
        total = total + penalty(name, w, f, h, w["decoder"].norm(dim=1), t, dead[i])
        if name in ("topk", "batchtopk") and bool(dead[i].any()):
            residual = torch.cat([(y - hat).detach() for hat, y in zip(hats[i:], ys[i:], strict=True)], 1)
            total = total + aux(w, h, residual, t, dead[i])
    return total


NAMES = {"gated": ("b_gate", "b_mag", "r_mag"), "jumprelu": ("b_enc", "threshold")}


def draw(generator, *shape):
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def weights_of_layer(name, generator, *, d_in, width, d_out, skip):
    weights = {
        "encoder": draw(generator, D_SAE, d_in) / 2,
        "decoder": draw(generator, D_SAE, width) / 2,
        "b_dec": draw(generator, d_out) / 3,
    }
    for one in NAMES.get(name, ("b_enc",)):
        weights[one] = draw(generator, D_SAE) / 3
    if "threshold" in weights:
        weights["threshold"] = weights["threshold"].abs()
    if skip:
        weights["W_skip"] = draw(generator, d_out, d_in) / 3
    return weights


DEAD = torch.zeros(LAYERS * D_SAE, dtype=torch.bool)
DEAD[[1, 4, 5, 17, 20, 21, 26, 30, 60, 61, 62, 63, 64]] = True

CASES = {
    "topk": ("topk", {"k": 4}),
    "topk-aux": ("topk", {"k": 4, "aux_coefficient": 0.7, "dead": DEAD}),
    "topk-aux-of-one-layer": ("topk", {"k": 4, "aux_coefficient": 0.7, "dead": DEAD & (torch.arange(LAYERS * D_SAE) < D_SAE)}),
    "batchtopk-aux": ("batchtopk", {"k": 3, "aux_coefficient": 0.7, "dead": DEAD}),
    "jumprelu-step": ("jumprelu", {"coefficient": 0.8, "mode": "step", "bandwidth": 0.4}),
    "jumprelu-tanh": ("jumprelu", {"coefficient": 0.8, "mode": "tanh", "bandwidth": 0.4}),
    "jumprelu-quadratic": ("jumprelu", {"coefficient": 0.8, "mode": "quadratic", "target_l0": 4.0, "bandwidth": 0.4}),
    "jumprelu-pre-act": (
        "jumprelu",
        {"coefficient": 0.8, "mode": "tanh", "bandwidth": 0.4, "pre_act_coefficient": 0.3, "dead": DEAD},
    ),
    "gated": ("gated", {"coefficient": 0.8}),
    "standard": ("standard", {"coefficient": 0.8}),
}  # fmt: skip


@pytest.fixture(autouse=True, params=["sparse", "dense"])
def products(request, monkeypatch):
    """Both implementations of the products: entries are 4 of 24 here, so the choice is forced."""
    monkeypatch.setattr(_steps.Codes, "is_dense", request.param == "dense")


def compare(found, leaves, expected):
    """Value and gradients; float64 has epsilon 2e-16, and sums here have fewer than 10,000 terms of size below 100."""
    expected.backward()
    assert float(sum(found.parts.values())) == pytest.approx(float(expected.detach()), rel=1e-12)
    assert set(found.gradients) == set(leaves)
    for key, leaf in leaves.items():
        torch.testing.assert_close(found.gradients[key], leaf.grad, rtol=1e-9, atol=1e-10, msg=key)
        assert bool(leaf.grad.any()), f"{key} has no gradient in this case: the comparison says nothing"


def tracked(weights):
    return {key: value.clone().requires_grad_() for key, value in weights.items()}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_cross_layer_gradients_are_those_of_autograd(case, skip):
    name, terms = CASES[case]
    terms = Terms(apply_b_dec_to_input=False, **terms)
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for i in range(LAYERS):
        one = weights_of_layer(name, generator, d_in=D_IN, width=(LAYERS - i) * D_OUT, d_out=D_OUT, skip=skip)
        weights |= {f"layers.{i}.{key}": value for key, value in one.items()}
    xs = [draw(generator, ROWS, D_IN) for _ in range(LAYERS)]
    ys = [draw(generator, ROWS, D_OUT) for _ in range(LAYERS)]
    found = loss_of(name, weights, xs, ys, terms)
    leaves = tracked(weights)
    compare(found, leaves, cross_layer_oracle(name, leaves, xs, ys, terms))


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_crosscoder_gradients_are_those_of_autograd(case, subtract):
    """An SAE of its sites side by side, but for the norm in the penalty: the sum of the norms at the sites."""
    name, terms = CASES[case]
    if "dead" in terms:
        terms = terms | {"dead": DEAD[:D_SAE]}
    sites = 3
    terms = Terms(apply_b_dec_to_input=subtract, sites=sites, **terms)
    generator = torch.Generator().manual_seed(0)
    wide = sites * D_IN
    weights = weights_of_layer(name, generator, d_in=wide, width=wide, d_out=wide, skip=False)
    x = torch.cat([draw(generator, ROWS, D_IN) for _ in range(sites)], 1)
    found = loss_of(name, weights, [x], [x], terms)
    leaves = tracked(weights)
    f, h = active(name, leaves, x - leaves["b_dec"] if subtract else x, terms)
    hat = f @ leaves["decoder"] + leaves["b_dec"]
    expected = squared(hat - x)
    if name == "gated":
        expected = expected + squared(h @ leaves["decoder"] + leaves["b_dec"] - x)
    norms = sum(leaves["decoder"][:, s * D_IN : (s + 1) * D_IN].norm(dim=1) for s in range(sites))
    expected = expected + penalty(name, leaves, f, h, norms, terms, terms.dead)
    if name in ("topk", "batchtopk") and terms.dead is not None:
        expected = expected + aux(leaves, h, (x - hat).detach(), terms, terms.dead)
    compare(found, leaves, expected)


def test_a_row_of_zeros_at_one_site_has_no_gradient_of_its_norm():
    generator = torch.Generator().manual_seed(0)
    weights = weights_of_layer("standard", generator, d_in=8, width=8, d_out=8, skip=False)
    weights["decoder"][:, :4] = 0
    x = draw(generator, ROWS, 8)
    found = loss_of("standard", weights, [x], [x], Terms(apply_b_dec_to_input=False, sites=2, coefficient=1.0))
    free = loss_of("standard", weights, [x], [x], Terms(apply_b_dec_to_input=False, sites=2, coefficient=0.0))
    difference = found.gradients["decoder"] - free.gradients["decoder"]
    assert not difference[:, :4].any() and bool(difference[:, 4:].any())


def test_layers_that_write_nowhere_else_are_transcoders():
    """With decoders that are zero beyond their own output, the loss is the sum of those of L transcoders, and so are gradients."""
    generator = torch.Generator().manual_seed(0)
    terms = Terms(apply_b_dec_to_input=False, k=4)
    weights, alone = {}, []
    xs = [draw(generator, ROWS, D_IN) for _ in range(LAYERS)]
    ys = [draw(generator, ROWS, D_OUT) for _ in range(LAYERS)]
    for i in range(LAYERS):
        one = weights_of_layer("topk", generator, d_in=D_IN, width=(LAYERS - i) * D_OUT, d_out=D_OUT, skip=False)
        one["decoder"][:, D_OUT:] = 0
        weights |= {f"layers.{i}.{key}": value for key, value in one.items()}
        alone.append(loss_of("topk", one | {"decoder": one["decoder"][:, :D_OUT]}, [xs[i]], [ys[i]], terms))
    found = loss_of("topk", weights, xs, ys, terms)
    assert float(found.parts["mse"]) == pytest.approx(sum(float(one.parts["mse"]) for one in alone), rel=1e-12)
    assert found.active == sum(one.active for one in alone)
    assert torch.equal(found.fired, torch.cat([one.fired for one in alone]))
    for i, one in enumerate(alone):
        for key, value in one.gradients.items():
            mine = found.gradients[f"layers.{i}.{key}"]
            torch.testing.assert_close(mine[:, :D_OUT] if key == "decoder" else mine, value, rtol=1e-9, atol=1e-12)


def test_smallest_is_of_each_layer():
    generator = torch.Generator().manual_seed(0)
    weights = {}
    for i in range(2):
        one = weights_of_layer("batchtopk", generator, d_in=D_IN, width=(2 - i) * D_OUT, d_out=D_OUT, skip=False)
        weights |= {f"layers.{i}.{key}": value for key, value in one.items()}
    weights["layers.1.encoder"].zero_()
    weights["layers.1.b_enc"].fill_(-1)  # nothing is active there
    xs, ys = ([draw(generator, ROWS, d) for _ in range(2)] for d in (D_IN, D_OUT))
    found = loss_of("batchtopk", weights, xs, ys, Terms(apply_b_dec_to_input=False, k=2))
    h = (xs[0] @ weights["layers.0.encoder"].T + weights["layers.0.b_enc"]).flatten()
    assert float(found.smallest[0]) == float(h.topk(2 * ROWS).values[-1])
    assert found.smallest[1] is None and found.active == 2 * ROWS
    assert not found.fired[D_SAE:].any()
