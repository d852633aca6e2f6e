"""The coder as a torch module: values, gradients of inputs and weights, compiled graphs."""

import copy
import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import iam  # noqa: E402
from iam.errors import ArgumentError, NonFiniteError, ShapeError  # noqa: E402
from iam.vector.clt._module import CoderModule, gather, sampled, scatter, to_module  # noqa: E402

D_IN, D_SAE, D_OUT = 6, 11, 5
ARCHITECTURES = ("standard", "topk", "jumprelu", "gated", "abstopk", "groupmax")
FUSED = ("standard", "topk", "jumprelu")


pytestmark = pytest.mark.usefixtures("one_thread")


def coder(architecture, *, transcoder=False, seed=0, d_sae=12, bias=True):
    rng = np.random.default_rng(seed)
    d_out = D_OUT if transcoder else D_IN
    cfg = iam.CoderConfig(
        architecture=architecture,
        d_in=D_IN,
        d_out=d_out,
        d_sae=d_sae,
        k=3 if architecture in ("topk", "abstopk", "groupmax") else None,
        apply_b_dec_to_input=bias and not transcoder,
        metadata={"hook_name": "blocks.1.hook_resid_post"},
    )
    weights = {
        "W_enc": rng.standard_normal((D_IN, d_sae)) / 2,
        "b_enc": rng.standard_normal(d_sae) / 4,
        "W_dec": rng.standard_normal((d_sae, d_out)) / 2,
        "b_dec": rng.standard_normal(d_out) / 4,
    }
    if architecture == "jumprelu":
        weights["threshold"] = np.full(d_sae, 0.2)
    if architecture == "gated":
        del weights["b_enc"]
        weights |= {n: rng.standard_normal(d_sae) / 4 for n in ("b_gate", "b_mag", "r_mag")}
    if transcoder:
        weights["W_skip"] = rng.standard_normal((d_out, D_IN)) / 2
        return iam.Transcoder(cfg, **weights)
    return iam.SAE(cfg, **weights)


def inputs(shape=(7, D_IN), seed=1):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def dense_forward(module, x):
    """The formulas, dense, as autograd sees them."""
    cfg = module.cfg
    centred = x - module.b_dec if cfg.apply_b_dec_to_input else x
    pre = centred @ module.W_enc
    if cfg.architecture == "gated":
        f = torch.where(pre + module.b_gate > 0, (pre * module.r_mag.exp() + module.b_mag).relu(), 0)
    else:
        pre = pre + module.b_enc
        if cfg.architecture == "standard":
            f = pre.relu()
        elif cfg.architecture == "jumprelu":
            f = torch.where(pre > module.threshold, pre.relu(), 0)
        elif cfg.architecture == "groupmax":
            groups = pre.reshape(-1, cfg.k, cfg.d_sae // cfg.k)
            f = torch.where(groups == groups.amax(-1, keepdim=True), groups.relu(), 0).reshape(pre.shape)
        else:
            key = pre.abs() if cfg.architecture == "abstopk" else pre
            kept = key >= key.topk(cfg.k).values[..., -1:]
            f = torch.where(kept, pre if cfg.architecture == "abstopk" else pre.relu(), 0)
    y = f @ module.W_dec + module.b_dec
    return y if module.W_skip is None else y + x @ module.W_skip.T


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("transcoder", [False, True])
def test_values_and_gradients_equal_the_dense_formulas(architecture, transcoder):
    """float32: the kernels, for the three that have them. The reference runs in float64."""
    module = CoderModule(coder(architecture, transcoder=transcoder))
    exact = copy.deepcopy(module).double()
    x = inputs().requires_grad_()
    wide = x.detach().double().requires_grad_()
    weight = torch.from_numpy(np.random.default_rng(2).standard_normal((7, module.d_out)))
    y, expected = module(x), dense_forward(exact, wide)
    torch.testing.assert_close(y.double(), expected, rtol=1e-5, atol=1e-5)
    (y * weight.float()).sum().backward()
    (expected * weight).sum().backward()
    torch.testing.assert_close(x.grad.double(), wide.grad, rtol=1e-5, atol=1e-5)
    for (name, p), (_, q) in zip(module.named_parameters(), exact.named_parameters(), strict=True):
        if name in ("threshold", "b_gate"):  # they only choose: the exact gradient is 0 almost everywhere
            assert p.grad is None
            continue
        torch.testing.assert_close(p.grad.double(), q.grad, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
        assert p.grad.shape == p.shape and p.grad.any()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradcheck_in_float64(architecture):
    module = CoderModule(coder(architecture, transcoder=True), dtype=torch.float64)
    names = [n for n, _ in module.named_parameters() if n != "threshold"]
    values = [dict(module.named_parameters())[n].detach().clone().requires_grad_() for n in names]
    x = inputs((4, D_IN)).double().requires_grad_()

    def run(x, *weights):
        return torch.func.functional_call(module, dict(zip(names, weights, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *values))
    assert torch.autograd.gradgradcheck(run, (x, *values))


@pytest.mark.parametrize("architecture", FUSED)
def test_b_dec_that_is_subtracted_gets_both_gradients(architecture):
    module = CoderModule(coder(architecture), dtype=torch.float64)
    values = module.b_dec.detach().clone().requires_grad_()
    run = lambda b: torch.func.functional_call(module, {"b_dec": b}, (inputs((3, D_IN)).double(),))  # noqa: E731
    assert torch.autograd.gradcheck(run, (values,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_three_products_are_each_others_gradients(dtype):
    rng = np.random.default_rng(0)
    mask = rng.random((5, D_SAE)) < 0.4
    mask[2] = False
    rows, cols = mask.nonzero()
    offsets = torch.from_numpy(np.r_[0, np.cumsum(mask.sum(1))])
    indices = torch.from_numpy(cols.astype(np.int32))
    v, X, W = (
        torch.from_numpy(rng.standard_normal(s)).to(dtype).requires_grad_() for s in ((len(cols),), (5, 3), (D_SAE, 3))
    )
    dense = torch.zeros(5, D_SAE, dtype=dtype).index_put((torch.from_numpy(rows), torch.from_numpy(cols)), v)
    close = {"rtol": 1e-5, "atol": 1e-6}
    torch.testing.assert_close(gather(v, indices, offsets, W), dense @ W, **close)
    torch.testing.assert_close(scatter(v, indices, offsets, X, D_SAE), dense.T @ X, **close)
    torch.testing.assert_close(sampled(indices, offsets, X, W), (X @ W.T)[rows, cols], **close)
    if dtype == torch.float64:
        for fn, args in (
            (lambda v, W: gather(v, indices, offsets, W), (v, W)),
            (lambda v, X: scatter(v, indices, offsets, X, D_SAE), (v, X)),
            (lambda X, W: sampled(indices, offsets, X, W), (X, W)),
        ):
            assert torch.autograd.gradcheck(fn, args) and torch.autograd.gradgradcheck(fn, args)
    none = torch.zeros(0, dtype=dtype), torch.zeros(0, dtype=torch.int32), torch.zeros(4, dtype=torch.int64)
    assert gather(*none, W).shape == (3, 3) and not gather(*none, W).any()
    assert not scatter(*none, X[:3], D_SAE).any() and sampled(none[1], none[2], X[:3], W).shape == (0,)


@pytest.mark.parametrize("architecture", FUSED)
def test_ops_pass_torchs_own_checks(architecture):
    """Schema, fake tensors, autograd registration, AOT dispatch with dynamic shapes: torch's test of custom ops."""
    module = CoderModule(coder(architecture), dtype=torch.float32)
    x = inputs()
    args = (x, module.W_enc, module.b_enc, module._shift(), module.threshold, module.cfg.k, module.W_dec, module.b_dec)
    utils = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(torch.ops.iam.reconstruct.default, args, test_utils=utils)
    values, indices, offsets = module.encode(x).components
    if offsets is None:
        offsets = torch.arange(8) * 3
        torch.library.opcheck(torch.ops.iam.encode_topk.default, (*args[:4], 3), test_utils=utils)
    else:
        torch.library.opcheck(torch.ops.iam.encode_threshold.default, args[:5], test_utils=utils)
    flat = values.detach().reshape(-1).requires_grad_(), indices.reshape(-1), offsets
    torch.library.opcheck(torch.ops.iam.gather.default, (*flat, module.W_dec), test_utils=utils)
    torch.library.opcheck(torch.ops.iam.scatter.default, (*flat, x, 12), test_utils=utils)
    torch.library.opcheck(torch.ops.iam.sampled.default, (*flat[1:], x, module.W_dec), test_utils=utils)


@pytest.mark.parametrize("architecture", FUSED)
@pytest.mark.filterwarnings("ignore")  # of the compiler's own libraries
def test_compiled_as_one_graph(architecture):
    module = CoderModule(coder(architecture, transcoder=architecture == "standard"))
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    def loss(x):
        return ((module(2 * x) - 1) ** 2).sum()

    torch._dynamo.reset()
    compiled = torch.compile(loss, backend=backend, fullgraph=True)
    x = inputs().requires_grad_()
    eager = loss(x)
    eager.backward()
    expected = [x.grad.clone(), *(p.grad.clone() for n, p in module.named_parameters() if n != "threshold")]
    x.grad = None
    module.zero_grad()
    value = compiled(x)
    value.backward()
    torch.testing.assert_close(value, eager)
    found = [x.grad, *(p.grad for n, p in module.named_parameters() if n != "threshold")]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    names = [str(n.target) for n in graphs[0].graph.nodes]
    assert len(graphs) == 1 and sum("reconstruct" in n for n in names) == 1
    torch._dynamo.reset()
    traced = torch.compile(
        loss, backend="aot_eager", fullgraph=True, dynamic=True
    )  # forward and backward by fake tensors
    x.grad = None
    module.zero_grad()
    traced(x).backward()
    torch.testing.assert_close(x.grad, expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(traced(inputs((3, D_IN))), loss(inputs((3, D_IN))))


@pytest.mark.filterwarnings("ignore")
def test_encode_in_a_compiled_graph():
    module = CoderModule(coder("topk"))
    fn = torch.compile(lambda x: module.encode(x).values.sum(), backend="aot_eager", fullgraph=True)
    torch._dynamo.reset()
    torch.testing.assert_close(fn(inputs()), module.encode(inputs()).values.sum())


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_encode_decode_and_the_coder_agree(architecture):
    original = coder(architecture)
    module = to_module(original)
    x = inputs((2, 4, D_IN))
    f, g = module.encode(x), original.encode(x)
    assert f.shape == g.shape and f.k == g.k
    torch.testing.assert_close(f.to_dense(), g.to_dense(), rtol=1e-5, atol=1e-6)
    with torch.no_grad():
        torch.testing.assert_close(module(x), original(x), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(module.decode(f), module.decode(f.to_dense()), rtol=1e-5, atol=1e-5)
        assert module(x.double()).dtype == torch.float64 and module(x.bfloat16()).dtype == torch.bfloat16
    back = module.to_coder()
    assert type(back) is type(original) and back.cfg == original.cfg
    for name, value in original.parameters().items():
        np.testing.assert_array_equal(back.parameters()[name], value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_feature_of_value_zero_has_a_gradient(dtype):
    """decode is linear: what a feature that is off would do is its decoder row."""
    module = to_module(coder("topk"), dtype=dtype)
    values = torch.tensor([[0.0, 1.0], [2.0, 0.0]], dtype=dtype, requires_grad=True)
    f = iam.SparseFeatures(values, torch.tensor([[3, 1], [1, 5]]), None, 12)
    module.decode(f).sum().backward()
    expected = module.W_dec.detach().sum(1)[torch.tensor([[3, 1], [1, 5]])]
    torch.testing.assert_close(values.grad, expected)


def test_module_manners():
    original = coder("jumprelu")
    module = to_module(original)
    assert set(module.state_dict()) == {"W_enc", "b_enc", "W_dec", "b_dec", "threshold"}
    assert module.W_enc.shape == (D_IN, 12) and module.W_dec.shape == (12, D_IN)
    other = to_module(coder("jumprelu", seed=5))
    other.load_state_dict(module.state_dict())
    assert torch.equal(other(inputs()), module(inputs()))
    with torch.no_grad():
        module.W_dec.mul_(2)
    assert not torch.equal(module.W_dec.detach(), torch.from_numpy(original.W_dec))  # a copy, not the coder's memory
    assert module.double().dtype == torch.float64 and module.to(torch.bfloat16).W_enc.dtype == torch.bfloat16
    assert "jumprelu, d_in=6, d_sae=12" in repr(module)
    assert module.site == iam.Site(1, "resid_post") == module.site_out


def test_it_learns():
    """Adam on its own parameters brings the error down: gradients point the right way."""
    torch.manual_seed(0)
    module = to_module(coder("topk"))
    x = inputs((200, D_IN))
    optimiser = torch.optim.Adam(module.parameters(), lr=0.02)
    losses = []
    for _ in range(60):
        optimiser.zero_grad()
        loss = (module(x) - x).square().mean()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.5 * losses[0]


def test_errors():
    module = to_module(coder("topk"))
    with pytest.raises(ShapeError, match=r"encode: expected \[\.\.\., 6\], got \(2, 5\)"):
        module(torch.zeros(2, 5))
    with pytest.raises(ShapeError, match="decode: expected features of shape"):
        module.decode(iam.SparseFeatures.from_dense(torch.zeros(2, 5)))
    with pytest.raises(NonFiniteError, match="row 1"):
        module(torch.tensor([[0.0] * 6, [float("nan")] * 6]))
    with pytest.raises(ArgumentError, match="got str"):
        CoderModule("sae")
    cfg = iam.CoderConfig(architecture="matching_pursuit", d_in=2, d_sae=2)
    eye = np.eye(2)
    with pytest.raises(ArgumentError, match="matching_pursuit has no module") as info:
        CoderModule(iam.SAE(cfg, W_dec=eye, b_dec=np.zeros(2)))
    assert info.value.code == "architecture"


NORMALISED = [
    ("topk", {"normalize_activations": "layer_norm"}),
    ("gated", {"normalize_activations": "layer_norm"}),
    ("jumprelu", {"normalize_activations": "constant_norm_rescale"}),
    ("standard", {"normalize_activations": "expected_average_only_in", "norm_scale": 2.5}),
    ("groupmax", {"normalize_activations": "covariance_whitening"}),
    ("topk", {"rescale_acts_by_decoder_norm": True}),
    ("abstopk", {"rescale_acts_by_decoder_norm": True, "normalize_activations": "layer_norm"}),
]


def with_conventions(architecture, conventions, *, transcoder):
    plain = coder(architecture, transcoder=transcoder)
    rng = np.random.default_rng(5)
    weights = dict(plain.parameters())
    if conventions.get("normalize_activations") == "covariance_whitening":
        matrix = np.eye(D_IN) + rng.standard_normal((D_IN, D_IN)) / 4
        weights |= {"whitening_mean": rng.standard_normal(D_IN), "whitening_matrix": matrix,
                    "whitening_inverse": np.linalg.inv(matrix)}  # fmt: skip
    return type(plain)(dataclasses.replace(plain.cfg, **conventions), **weights)


@pytest.mark.parametrize("transcoder", [False, True])
@pytest.mark.parametrize(("architecture", "conventions"), NORMALISED)
def test_conventions_of_a_module_are_those_of_its_coder(architecture, conventions, transcoder):
    """Features, reconstructions and their own statistics; and back."""
    source = with_conventions(architecture, conventions, transcoder=transcoder)
    module = source.to_module()
    x = inputs((2, 7, D_IN)) * 3 + 0.5
    x[0, 0] = 0
    ours, theirs = module.encode(x), source.encode(x)
    torch.testing.assert_close(ours.to_dense(), theirs.to_dense(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module(x), source(x), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(module.decode(ours), source.decode(theirs), rtol=1e-5, atol=1e-5)
    again = module.to_coder()
    assert again.cfg == source.cfg and type(again) is type(source)
    torch.testing.assert_close(again(x), source(x), rtol=0, atol=0)
    state = copy.deepcopy(module.state_dict())
    assert set(state) == set(source.parameters())
    by_row = not transcoder and conventions.get("normalize_activations") in ("layer_norm", "constant_norm_rescale")
    if by_row:
        with pytest.raises(ArgumentError, match="statistics of their rows") as info:
            module.decode(theirs.to_dense())
        assert info.value.code == "normalization"


@pytest.mark.parametrize(("architecture", "conventions"), NORMALISED)
def test_gradcheck_with_conventions(architecture, conventions):
    """Of the input, through the statistics of its row, and of the weights, through the norms of the decoder."""
    module = CoderModule(with_conventions(architecture, conventions, transcoder=False), dtype=torch.float64)
    x = (inputs((3, D_IN), seed=4).double() * 2).requires_grad_()
    names = [name for name, _ in module.named_parameters() if name not in ("threshold", "b_gate")]

    def run(x, *parameters):
        return torch.func.functional_call(module, dict(zip(names, parameters, strict=True)), (x,))

    assert torch.autograd.gradcheck(run, (x, *(dict(module.named_parameters())[name] for name in names)), atol=1e-4)


def test_a_row_without_length_has_finite_gradients():
    for kind in ("layer_norm", "constant_norm_rescale"):
        module = with_conventions("topk", {"normalize_activations": kind}, transcoder=False).to_module()
        x = torch.zeros(2, D_IN, requires_grad=True)
        module(x).sum().backward()
        assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize(("architecture", "conventions"), [c for c in NORMALISED if c[0] in FUSED])
def test_conventions_in_a_compiled_graph(architecture, conventions):
    module = with_conventions(architecture, conventions, transcoder=False).to_module()
    x = inputs()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), module(x), rtol=1e-5, atol=1e-5)
