"""Coders beyond plain SAEs: configs, conventions that travel with the features, folding, refusals, lazy decoders."""

import copy
import pickle
import threading

import numpy as np
import pytest

import iam
from iam import ops
from iam.core.errors import ArgumentError, DtypeError, FormatError, NonFiniteError, ShapeError, TraceError
from iam.reference import clt
from iam.vector.clt import ARCHITECTURES, NORMALIZATIONS

D, F, K = 6, 24, 4
WITH_K = ("topk", "abstopk", "groupmax")
PER_ROW = ("constant_norm_rescale", "layer_norm")


def config(architecture="topk", **changes):
    given = {
        "architecture": architecture,
        "d_in": D,
        "d_sae": F,
        "k": K if architecture in WITH_K else None,
        "norm_scale": 0.5 if changes.get("normalize_activations") == "expected_average_only_in" else None,
    }
    return iam.CoderConfig(**{**given, **changes})


def weights(cfg, *, skip=False, seed=0):
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    w = {"W_dec": draw(cfg.d_sae, cfg.d_out), "b_dec": draw(cfg.d_out)}
    if cfg.architecture == "matching_pursuit":
        w["W_dec"] /= np.linalg.norm(w["W_dec"], axis=1, keepdims=True)
    else:
        w["W_enc"] = draw(cfg.d_in, cfg.d_sae)
    if cfg.architecture == "gated":
        w |= {name: draw(cfg.d_sae) for name in ("b_gate", "b_mag", "r_mag")}
    elif cfg.architecture != "matching_pursuit":
        w["b_enc"] = draw(cfg.d_sae)
    if cfg.architecture == "jumprelu":
        w["threshold"] = np.abs(draw(cfg.d_sae))
    if skip:
        w["W_skip"] = draw(cfg.d_out, cfg.d_in)
    if cfg.normalize_activations == "covariance_whitening":
        w |= whitening()
    return w


def whitening():
    rng = np.random.default_rng(5)
    matrix = rng.normal(size=(D, D)) + 4 * np.eye(D)
    found = {"mean": rng.normal(size=D), "matrix": matrix, "inverse": np.linalg.inv(matrix)}
    return {f"whitening_{name}": array.astype(np.float32) for name, array in found.items()}


def make(architecture="topk", cls=iam.SAE, *, skip=False, **changes):
    cfg = config(architecture, **changes)
    return cls(cfg, **weights(cfg, skip=skip))


@pytest.fixture
def x(rng):
    return rng.normal(size=(9, D)).astype(np.float32)


# Configs.


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"architecture": "batchtopk"}, "architecture"),
        ({"d_out": 0}, "config-value"),
        ({"d_out": 5, "apply_b_dec_to_input": True}, "config-value"),
        ({"architecture": "groupmax", "k": 5}, "k-range"),
        ({"architecture": "gated"}, "config-value"),  # k is given
        ({"architecture": "jumprelu", "k": None, "rescale_acts_by_decoder_norm": True}, "config-value"),
        ({"rescale_acts_by_decoder_norm": "yes"}, "config-value"),
        ({"normalize_activations": "layernorm"}, "normalization"),
        ({"normalize_activations": None}, "normalization"),
        ({"normalize_activations": "layer_norm", "d_in": 1}, "normalization"),
        ({"normalize_activations": "expected_average_only_in"}, "normalization"),
        ({"normalize_activations": "expected_average_only_in", "norm_scale": -1.0}, "normalization"),
        ({"normalize_activations": "expected_average_only_in", "norm_scale": float("nan")}, "normalization"),
        ({"normalize_activations": "expected_average_only_in", "norm_scale": "2"}, "normalization"),
        ({"norm_scale": 2.0}, "normalization"),
        ({"residual_threshold": -1.0}, "config-value"),
        ({"residual_threshold": None}, "config-value"),
        ({"max_iterations": 0}, "config-value"),
        ({"stop_on_duplicate_support": 1}, "config-value"),
    ],
)
def test_config_is_checked(change, code):
    with pytest.raises(ArgumentError, match=r"CoderConfig\.") as caught:
        iam.CoderConfig(**{"architecture": "topk", "d_in": D, "d_sae": F, "k": K, **change})
    assert caught.value.code == code


def test_configs_compare_copy_and_pickle():
    cfg = config("topk", normalize_activations="expected_average_only_in", metadata={"hook_name": "resid_post.3"})
    for other in (copy.deepcopy(cfg), pickle.loads(pickle.dumps(cfg))):
        assert other == cfg and other.metadata["hook_name"] == "resid_post.3"
    assert cfg.d_out == D and not cfg.apply_b_dec_to_input
    sae = iam.SAEConfig(architecture="gated", d_in=D, d_sae=F)
    assert isinstance(sae, iam.CoderConfig) and sae.apply_b_dec_to_input and sae.d_out == D
    with pytest.raises(ArgumentError, match=r"SAEConfig\.d_out"):
        iam.SAEConfig(architecture="gated", d_in=D, d_sae=F, d_out=3)


# Weights.


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_parameters_are_the_weights_that_there_are(architecture):
    cfg = config(architecture)
    given = weights(cfg)
    sae = iam.SAE(cfg, **given)
    assert sae.parameters().keys() == given.keys()
    for name, array in given.items():
        assert sae.parameters()[name] is array and getattr(sae, name) is array  # float32 is not copied
    assert sae.W_enc.shape == (D, F) and sae.W_enc is sae.W_enc
    if architecture == "matching_pursuit":
        assert np.array_equal(sae.W_enc, sae.W_dec.T)


@pytest.mark.parametrize(
    ("architecture", "name", "says"),
    [
        ("gated", "b_enc", "has no b_enc"),
        ("topk", "r_mag", "has no r_mag"),
        ("matching_pursuit", "W_enc", "has no W_enc"),
        ("matching_pursuit", "b_enc", "has no b_enc"),
        ("topk", "W_skip", "has no W_skip"),
        ("topk", "whitening_mean", "normalize_activations none has no whitening_mean"),
    ],
)
def test_superfluous_weights_are_refused(architecture, name, says):
    cfg = config(architecture)
    with pytest.raises(ArgumentError, match=says):
        iam.SAE(cfg, **weights(cfg), **{name: np.ones(F, np.float32)})


@pytest.mark.parametrize(("architecture", "name"), [("gated", "b_mag"), ("topk", "W_enc"), ("standard", "b_enc")])
def test_missing_weights_are_named(architecture, name):
    cfg = config(architecture)
    with pytest.raises(ArgumentError, match=f"SAE: architecture {architecture} needs {name}"):
        iam.SAE(cfg, **{n: w for n, w in weights(cfg).items() if n != name})


def test_what_an_sae_and_a_transcoder_are_not():
    cfg = config("standard", d_out=3)
    with pytest.raises(ArgumentError, match=r"d_out = d_in = 6, got 3.*Transcoder"):
        iam.SAE(cfg, **weights(cfg))
    with pytest.raises(ArgumentError, match="apply_b_dec_to_input false"):
        make("standard", iam.Transcoder, apply_b_dec_to_input=True)
    with pytest.raises(ArgumentError, match="reads through its decoder"):
        make("matching_pursuit", iam.Transcoder)
    with pytest.raises(ShapeError, match=r"Transcoder: expected W_skip of shape \(3, 6\), got \(6, 3\)"):
        iam.Transcoder(cfg, **weights(cfg), W_skip=np.ones((6, 3)))
    with pytest.raises(ArgumentError, match="expected cfg to be a CoderConfig, got dict"):
        iam.Transcoder({}, **weights(cfg))


def test_repr_and_sites():
    names = {"hook_name": "blocks.3.hook_resid_mid", "hook_name_out": "blocks.3.hook_mlp_out"}
    coder = make("jumprelu", iam.Transcoder, skip=True, d_out=4, metadata=names)
    assert coder.site == iam.Site.parse(names["hook_name"]) and coder.site_out == iam.Site.parse(names["hook_name_out"])
    assert repr(coder) == (
        f"Transcoder(jumprelu, d_in=6, d_out=4, d_sae=24, skip, site={coder.site}, site_out={coder.site_out})"
    )
    sae = make(normalize_activations="layer_norm", metadata={"hook_name": "resid_post.1"})
    assert sae.site_out == sae.site and "layer_norm" in repr(sae)


# The skip connection: only calling the coder has x. (SAELens's wrapper in a model calls encode and decode and loses it.)


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
def test_skip_is_part_of_forward_and_not_of_decode(container, x):
    coder = make("standard", iam.Transcoder, skip=True, d_out=4)
    given = x
    if container != "numpy":
        torch = pytest.importorskip("torch")
        given = torch.from_numpy(x).requires_grad_(container == "recorded")
    y, decoded = coder(given), coder.decode(coder.encode(given))
    if container != "numpy":
        y, decoded = y.detach().numpy(), decoded.detach().numpy()
    assert np.allclose(y - decoded, x @ coder.W_skip.T, atol=1e-4)
    assert not np.allclose(y, decoded, atol=1e-2)
    program = iam.jit(lambda x: coder(x))
    assert np.allclose(program(x), y, atol=1e-4)


def test_a_square_skip_is_not_transposed(x):
    coder = make("standard", iam.Transcoder, skip=True)
    unskipped = coder.decode(coder.encode(x))
    assert np.allclose(coder(x) - unskipped, x @ coder.W_skip.T, atol=1e-4)
    assert not np.allclose(coder(x) - unskipped, x @ coder.W_skip, atol=0.1)


# Statistics of rows travel with the features: nothing is kept in the coder.


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
@pytest.mark.parametrize("normalization", PER_ROW)
def test_encode_and_decode_keep_no_state(normalization, container, rng):
    sae = make("topk", normalize_activations=normalization, apply_b_dec_to_input=True)
    first, second = (rng.normal(size=(n, D), scale=s).astype(np.float32) for n, s in ((5, 1), (3, 40)))
    y_first, y_second = sae(first), sae(second)
    if container != "numpy":
        torch = pytest.importorskip("torch")
        first, second = (torch.from_numpy(a).requires_grad_(container == "recorded") for a in (first, second))
    f, g = sae.encode(first), sae.encode(second)  # interleaved: f is decoded after g was encoded

    def check(f, expected):
        y = sae.decode(f)
        assert np.allclose(y if container == "numpy" else y.detach().numpy(), expected, rtol=1e-4, atol=1e-4)

    for _ in range(2):  # twice
        check(f, y_first)
        check(g, y_second)
    check(f[1:3], y_first[1:3])  # rows take their statistics along
    check(f[np.array([4, 0])], y_first[[4, 0]])
    check(f.to_torch() if container == "numpy" else f, y_first) if container != "numpy" else None
    keep = f.scale([0, 1], 1.0)  # an edit that changes nothing
    check(keep, y_first)
    assert tuple(keep.row_scale.shape) == (5, 1)
    assert (f.row_shift is None) == (normalization == "constant_norm_rescale")


def test_statistics_survive_threads():
    sae = make("topk", normalize_activations="layer_norm")
    rng = np.random.default_rng(1)
    inputs = [rng.normal(size=(4, D), scale=s).astype(np.float32) for s in (1, 5, 25, 125)]
    expected = [sae(a) for a in inputs]
    wrong = []

    def run(i):
        for _ in range(50):
            if not np.array_equal(sae.decode(sae.encode(inputs[i])), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("normalization", PER_ROW)
def test_leading_dimensions_and_containers_of_statistics(normalization, rng):
    torch = pytest.importorskip("torch")
    sae = make("standard", normalize_activations=normalization)
    x = rng.normal(size=(2, 3, D)).astype(np.float32)
    f = sae.encode(x)
    assert f.row_scale.shape == (2, 3, 1) and f[1].row_scale.shape == (3, 1) and f[1, 2].row_scale.shape == (1,)
    assert np.allclose(sae(x)[1], sae(x[1]), atol=1e-5)
    t = f.to_torch()
    assert torch.is_tensor(t.row_scale) and np.allclose(sae.decode(t).numpy(), sae.decode(f), atol=1e-5)
    assert np.array_equal(t.to_numpy().row_scale, f.row_scale)
    half = sae.encode(torch.from_numpy(x).half())
    assert half.dtype == torch.float16 and half.row_scale.dtype == torch.float32
    assert sae.decode(half).dtype == torch.float16
    assert sae.encode(x.astype(np.float64)).dtype == sae(x.astype(np.float64)).dtype == np.float64


@pytest.mark.parametrize("normalization", PER_ROW)
def test_features_without_their_statistics_are_refused(normalization, x):
    sae, other = make("topk", normalize_activations=normalization), make("topk")
    f = sae.encode(x)
    for lost in (f.to_dense(), other.encode(x), f - f):
        with pytest.raises(ArgumentError, match="carry the statistics") as caught:
            sae.decode(lost)
        assert caught.value.code == "normalization"
    with pytest.raises(ArgumentError, match="no statistics") as caught:
        other.decode(f)
    assert caught.value.code == "normalization"


def test_rows_that_do_not_vary():
    """A row of zeros has no direction, a constant row no deviation: they decode to something finite all the same."""
    flat = np.stack([np.zeros(D), np.full(D, 3.0)]).astype(np.float32)
    constant = make("standard", normalize_activations="constant_norm_rescale")
    assert np.array_equal(constant(flat)[0], np.zeros(D)) and np.isfinite(constant(flat)).all()
    layered = make("standard", normalize_activations="layer_norm")
    assert np.allclose(layered(flat), flat, atol=1e-5)  # x̂ = ẑ·0 + μ


def test_statistics_must_fit_the_rows():
    with pytest.raises(ShapeError, match=r"row_scale for 2 rows, got \(3,\)"):
        iam.SparseFeatures(np.ones((2, 1)), np.zeros((2, 1), int), None, 4, row_scale=np.ones(3))


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("container", ["numpy", "recorded"])
def test_not_finite_inputs_are_located(architecture, normalization, container, x):
    sae = make(architecture, normalize_activations=normalization)
    x[3, 2] = np.nan
    given = x
    if container == "recorded":
        given = pytest.importorskip("torch").from_numpy(x).requires_grad_()
    with pytest.raises(NonFiniteError, match=r"row 3.*column 2"):
        sae.encode(given)


# Files.


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "groupmax"])
@pytest.mark.parametrize("normalization", PER_ROW)
def test_saes_round_trip(architecture, normalization, tmp_path, x):
    sae = make(architecture, normalize_activations=normalization, apply_b_dec_to_input=True)
    sae.save_model(tmp_path)
    again = iam.SAE.load_from_disk(tmp_path)
    assert again.cfg == sae.cfg
    assert np.array_equal(again(x), sae(x))


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("architecture", ["standard", "jumprelu"])
def test_transcoders_round_trip(architecture, skip, tmp_path, x):
    coder = make(architecture, iam.Transcoder, skip=skip, d_out=4)
    coder.save_model(tmp_path)
    again = iam.Transcoder.load_from_disk(tmp_path)
    assert np.array_equal(again(x), coder(x)) and (again.W_skip is not None) == skip
    for other in (iam.SAE, iam.CrossLayerTranscoder):
        with pytest.raises(FormatError, match=r"got a Transcoder; read it with iam\.Transcoder") as caught:
            other.load_from_disk(tmp_path)
        assert caught.value.code == "architecture"
    with pytest.raises(ArgumentError, match=r"Transcoder\.save_model: unknown dtype"):
        coder.save_model(tmp_path, dtype="int3")


# Attention heads.


@pytest.mark.parametrize("container", ["numpy", "torch", "recorded"])
def test_heads_come_joined_or_apart(container, rng):
    sae = make("topk", reshape_activations="hook_z")
    z = rng.normal(size=(5, 3, 2)).astype(np.float32)
    expected = sae(z.reshape(5, 6))
    given = z
    if container != "numpy":
        given = pytest.importorskip("torch").from_numpy(z).requires_grad_(container == "recorded")
    y = sae(given)
    assert tuple(y.shape) == z.shape and sae.encode(given).shape == (5, F)
    y = y if container == "numpy" else y.detach().numpy()
    assert np.array_equal(y, expected.reshape(z.shape)) or np.allclose(y, expected.reshape(z.shape), atol=1e-5)
    assert sae.decode(sae.encode(given)).shape == (5, 6)
    other = rng.normal(size=(5, 2, 3)).astype(np.float32)  # another number of heads: nothing is remembered
    assert sae(other).shape == other.shape
    with pytest.raises(ShapeError, match=r"\[\.\.\., 6\]"):
        sae.encode(rng.normal(size=(5, 2, 2)).astype(np.float32))
    with pytest.raises(ShapeError, match=r"\[\.\.\., 6\]"):
        make("topk").encode(z)


# Folding keeps what a coder computes.


def fold_cases():
    for architecture in ARCHITECTURES:
        for cls in (iam.SAE, iam.Transcoder):
            for subtract in (False, True) if cls is iam.SAE else (False,):
                if cls is iam.SAE or architecture != "matching_pursuit":
                    yield pytest.param(architecture, cls, subtract, id=f"{architecture}-{cls.__name__}-{subtract}")


@pytest.mark.parametrize(("architecture", "cls", "subtract"), list(fold_cases()))
def test_folding_a_factor_keeps_reconstructions(architecture, cls, subtract, x):
    coder = make(
        architecture,
        cls,
        skip=cls is iam.Transcoder,
        normalize_activations="expected_average_only_in",
        apply_b_dec_to_input=subtract,
    )
    f, y, on_tensors = coder.encode(x).to_dense(), coder(x), torch_forward(coder, x)
    coder.fold_activation_norm_scaling_factor()
    assert coder.cfg.normalize_activations == "none" and coder.cfg.norm_scale is None
    assert np.allclose(coder(x), y, rtol=1e-4, atol=1e-4)
    assert np.allclose(torch_forward(coder, x), on_tensors, rtol=1e-4, atol=1e-4)  # no copy of old weights is left
    factor = 2 if architecture == "matching_pursuit" else 1
    assert np.allclose(coder.encode(x).to_dense(), f * factor, rtol=1e-4, atol=1e-4)


def torch_forward(coder, x):
    torch = pytest.importorskip("torch")
    return coder(torch.from_numpy(x).requires_grad_()).detach().numpy()


@pytest.mark.parametrize(("architecture", "cls", "subtract"), list(fold_cases()))
def test_folding_whitening_keeps_features_and_reconstructions(architecture, cls, subtract, x):
    coder = make(architecture, cls, normalize_activations="covariance_whitening", apply_b_dec_to_input=subtract)
    if architecture == "matching_pursuit":
        with pytest.raises(ArgumentError, match="encodes with its decoder"):
            coder.fold_activation_whitening()
        return
    f, y = coder.encode(x).to_dense(), coder(x)
    coder.fold_activation_whitening()
    assert coder.cfg.normalize_activations == "none" and coder.whitening_matrix is None
    assert np.allclose(coder.encode(x).to_dense(), f, rtol=1e-4, atol=1e-3)
    assert np.allclose(coder(x), y, rtol=1e-4, atol=1e-3)


def test_folding_given_statistics(x):
    """A coder of whitened activations whose file does not hold the statistics: they are given."""
    found = whitening()
    inner = make("jumprelu", apply_b_dec_to_input=True)
    z = (x - found["whitening_mean"]) @ found["whitening_matrix"]
    expected = inner(z) @ found["whitening_inverse"] + found["whitening_mean"]
    inner.fold_activation_whitening(*found.values())
    assert np.allclose(inner(x), expected, rtol=1e-4, atol=1e-3)
    scaled = make("gated")
    expected = scaled(x * 3) / 3
    scaled.fold_activation_norm_scaling_factor(3.0)
    assert np.allclose(scaled(x), expected, atol=1e-4)


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("architecture", ["gated", "jumprelu", "standard"])
@pytest.mark.parametrize("cls", [iam.SAE, iam.Transcoder])
def test_folding_norms_multiplies_features(cls, architecture, subtract, x):
    coder = make(architecture, cls, apply_b_dec_to_input=subtract and cls is iam.SAE)
    norms, f, y = np.linalg.norm(coder.W_dec, axis=1), coder.encode(x).to_dense(), coder(x)
    coder.fold_W_dec_norm()
    assert np.allclose(np.linalg.norm(coder.W_dec, axis=1), 1, atol=1e-6)
    assert np.allclose(coder.encode(x).to_dense(), f * norms, rtol=1e-4, atol=1e-4)
    assert np.allclose(coder(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", ["topk", "abstopk"])
def test_folding_norms_of_rescaled_coders_keeps_the_features(architecture, x):
    coder = make(architecture, rescale_acts_by_decoder_norm=True, apply_b_dec_to_input=True)
    f, y = coder.encode(x).to_dense(), coder(x)
    coder.fold_W_dec_norm()
    assert not coder.cfg.rescale_acts_by_decoder_norm
    assert np.allclose(coder.encode(x).to_dense(), f, rtol=1e-4, atol=1e-4)
    assert np.allclose(coder(x), y, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fold", ["factor", "whitening"])
def test_other_folds_of_rescaled_coders_keep_the_features(fold, x):
    """They change the norms of the decoder, by which features compete: the norms are folded first."""
    kind = {"factor": "expected_average_only_in", "whitening": "covariance_whitening"}[fold]
    coder = make("topk", rescale_acts_by_decoder_norm=True, normalize_activations=kind)
    f, y = coder.encode(x).to_dense(), coder(x)
    coder.fold_activation_norm_scaling_factor() if fold == "factor" else coder.fold_activation_whitening()
    assert np.allclose(coder.encode(x).to_dense(), f, rtol=1e-4, atol=1e-3)
    assert np.allclose(coder(x), y, rtol=1e-4, atol=1e-3)


def test_folds_that_would_change_the_features_are_refused(x):
    for architecture in ("abstopk", "groupmax", "matching_pursuit"):
        coder = make(architecture)
        before = {name: array.copy() for name, array in coder.parameters().items()}
        if architecture == "matching_pursuit":
            with pytest.raises(ArgumentError, match="would change the features"):
                coder.fold_W_dec_norm()
        else:
            with pytest.raises(ArgumentError, match="which features are the k largest"):
                coder.fold_W_dec_norm()
        assert all(np.array_equal(before[name], array) for name, array in coder.parameters().items())
    even = make("groupmax")
    w = even.parameters()
    w["W_dec"] = (
        w["W_dec"] / np.linalg.norm(w["W_dec"], axis=1, keepdims=True) * np.repeat([1, 2, 3, 4], F // K)[:, None]
    )
    even = iam.SAE(even.cfg, **w)  # equal within each group is enough
    y = even(x)
    even.fold_W_dec_norm()
    assert np.allclose(even(x), y, atol=1e-4)


@pytest.mark.parametrize(
    ("changes", "fold", "says"),
    [
        ({}, lambda c: c.fold_activation_norm_scaling_factor(), "number > 0, got None"),
        ({}, lambda c: c.fold_activation_norm_scaling_factor(0.0), "number > 0, got 0"),
        ({"normalize_activations": "layer_norm"}, lambda c: c.fold_activation_norm_scaling_factor(2.0), "layer_norm"),
        (
            {"normalize_activations": "expected_average_only_in"},
            lambda c: c.fold_activation_norm_scaling_factor(2.0),
            "norm_scale=0.5, got 2",
        ),
        ({}, lambda c: c.fold_activation_whitening(), "got none for one of them"),
        ({"normalize_activations": "layer_norm"}, lambda c: c.fold_activation_whitening(), "layer_norm"),
    ],
)
def test_folds_that_do_not_fit_are_refused(changes, fold, says):
    with pytest.raises(ArgumentError, match=says):
        fold(make("standard", **changes))


def test_a_fold_beyond_float32_changes_nothing(x):
    coder = make("standard")
    y = coder(x)
    with pytest.raises(NonFiniteError, match="after folding"):
        coder.fold_activation_norm_scaling_factor(1e39)
    assert np.array_equal(coder(x), y)


# Gradients.


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_gradients_reach_the_input(architecture, normalization, x):
    """Along a random direction, against differences of the oracle in float64."""
    torch = pytest.importorskip("torch")
    sae = make(architecture, normalize_activations=normalization)
    given = torch.from_numpy(x[:1]).requires_grad_()
    sae(given).sum().backward()
    wide = {name: array.astype(np.float64) for name, array in sae.parameters().items()}
    direction, h = np.random.default_rng(3).normal(size=(1, D)), 1e-6
    up, down = (clt.coder(sae.cfg, wide, x[:1] + s * h * direction)[1].sum() for s in (1, -1))
    assert np.isclose((given.grad.numpy() * direction).sum(), (up - down) / (2 * h), rtol=1e-3, atol=1e-3)


# Activations on dense arrays.


def test_new_ops_equal_their_oracles(rng):
    torch = pytest.importorskip("torch")
    pre = rng.integers(-3, 4, (5, 12)).astype(np.float32)
    for convert in (lambda a: a, torch.from_numpy, lambda a: torch.from_numpy(a.copy()).requires_grad_()):
        for k in (1, 3, 12):
            for op, oracle in ((ops.abstopk, clt.abstopk), (ops.groupmax, clt.groupmax)):
                f = op(convert(pre), k)
                dense = f.to_dense()
                assert f.k == k
                assert np.array_equal(dense.detach().numpy() if f.is_torch else dense, oracle(pre, k=k))
    for op in (ops.abstopk, ops.groupmax):
        for k in (0, 13):
            with pytest.raises(ArgumentError, match=r"1\.\.12"):
                op(pre, k)
        with pytest.raises(NonFiniteError):
            op(np.where(pre == pre[2, 3], np.nan, pre), 2)
        assert op(pre[:0], 2).to_dense().shape == (0, 12)
    with pytest.raises(ArgumentError, match="divisor of 12"):
        ops.groupmax(pre, 5)


@pytest.mark.parametrize("subtract", [False, True])
def test_matching_pursuit_as_an_op_is_its_coder(subtract, x):
    torch = pytest.importorskip("torch")
    sae = make("matching_pursuit", apply_b_dec_to_input=subtract)
    shift = sae.b_dec if subtract else None
    f = ops.matching_pursuit(x, sae.W_dec, shift)
    for a, b in zip(f.components, sae.encode(x).components, strict=True):
        assert np.array_equal(a, b)
    expected = clt.matching_pursuit((x if shift is None else x - shift).astype(np.float64), sae.W_dec)
    recorded = ops.matching_pursuit(torch.from_numpy(x.copy()).requires_grad_(), sae.W_dec, shift)
    for g in (f.to_dense(), recorded.to_dense().detach().numpy()):
        assert np.allclose(g, expected, atol=1e-4)
    assert ops.matching_pursuit(x, sae.W_dec, max_iterations=1).offsets[-1] <= len(x)
    assert ops.matching_pursuit(x[:0], sae.W_dec).shape == (0, F)
    assert ops.matching_pursuit(x[0], sae.W_dec, shift).shape == (F,)


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"W_dec": np.ones(D, np.float32)}, ShapeError, "W_dec of two dimensions"),
        ({"W_dec": np.ones((F, D + 1), np.float32)}, ShapeError, rf"\[\.\.\., {D + 1}\]"),
        ({"b_dec": np.ones(D + 1, np.float32)}, ShapeError, "b_dec"),
        ({"residual_threshold": -1.0}, ArgumentError, "residual_threshold >= 0, got -1"),
        ({"residual_threshold": float("nan")}, NonFiniteError, "finite residual_threshold"),
        ({"max_iterations": 0}, ArgumentError, "max_iterations"),
        ({"W_dec": np.full((F, D), np.inf, np.float32)}, NonFiniteError, "finite W_dec, got inf at row 0, column 0"),
    ],
)
def test_matching_pursuit_names_what_it_cannot_take(changes, error, says, x):
    given = {"W_dec": make("matching_pursuit").W_dec} | changes
    with pytest.raises(error, match=says):
        ops.matching_pursuit(x, **given)


# Normalisation in compiled programs.


@pytest.mark.parametrize("subtract", [False, True])
@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled_programs_normalise(architecture, normalization, subtract, x):
    sae = make(architecture, normalize_activations=normalization, apply_b_dec_to_input=subtract)
    x[4] = 0  # a row without direction or deviation
    program = iam.jit(lambda x: (sae.encode(x), sae.decode(sae.encode(x).scale([0, 1], 1.0))))
    for given in (x, x[:1], x[:0], x.reshape(3, 3, D)):
        f, y = program(given)
        eager = sae.encode(given)
        assert np.allclose(f.to_dense(), eager.to_dense(), atol=1e-5)
        assert np.allclose(y, sae(given), atol=1e-4) and y.shape == given.shape
        for mine, other in ((f.row_scale, eager.row_scale), (f.row_shift, eager.row_shift)):
            assert (mine is None) == (other is None)
            assert mine is None or (mine.shape == other.shape and np.allclose(mine, other, rtol=1e-6, atol=1e-7))
        assert np.allclose(sae.decode(f), sae(given), atol=1e-4)  # outside of the program
    assert program.stats()["compilations"] <= 1


@pytest.mark.parametrize("normalization", PER_ROW)
def test_compiled_programs_normalise_tensors(normalization, x):
    torch = pytest.importorskip("torch")
    sae = make("topk", normalize_activations=normalization)
    program = iam.jit(lambda x: {"f": sae.encode(x), "y": (sae(x),)})
    found = program(torch.from_numpy(x).half())
    assert found["f"].dtype == found["y"][0].dtype == torch.float16
    assert found["f"].row_scale.dtype == torch.float32  # a norm may be out of the range of half
    assert np.allclose(found["y"][0].float().numpy(), sae(x), atol=0.05)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
def test_compiled_transcoders_undo_nothing(normalization, x):
    coder = make("jumprelu", iam.Transcoder, normalize_activations=normalization, skip=True)
    f, y = iam.jit(lambda x: (coder.encode(x), coder(x)))(x)
    assert f.row_scale is None
    assert np.allclose(y, coder(x), atol=1e-4)


def test_compiled_statistics_stay_with_their_features(x):
    sae = make("topk", normalize_activations="layer_norm")
    plain, constant = make("topk"), make("topk", normalize_activations="constant_norm_rescale")
    for function in (
        lambda x: plain.decode(sae.encode(x)),
        lambda x: sae.decode(plain.encode(x)),
        lambda x: sae.decode(constant.encode(x)),
        lambda x: sae.decode(sae.encode(x) - sae.encode(x)),
    ):
        with pytest.raises(ArgumentError, match=r"statistics of (their )?rows") as caught:
            iam.jit(function)(x)
        assert caught.value.code == "normalization"


def test_compiled_normalisation_names_the_row_that_is_not_finite(x):
    x[3, 2] = np.nan
    for normalization in NORMALIZATIONS:
        sae = make("topk", normalize_activations=normalization)
        with pytest.raises(NonFiniteError, match="row 3"):
            iam.jit(lambda x, sae=sae: sae(x))(x)


def test_features_with_statistics_are_no_arguments_of_programs(x):
    sae, plain = make("topk", normalize_activations="layer_norm"), make("topk")
    program = iam.jit(lambda f: plain.decode(f))
    program(plain.encode(x))
    with pytest.raises(TraceError, match="statistics of their rows"):
        program(sae.encode(x))


def test_coders_of_several_layers_are_not_recorded(x):
    coder, cross = cross_layer(), crosscoder()
    for function in (
        lambda x: coder.encode([x, x, x])[0],
        lambda x: cross.encode([x, x]),
        lambda x: coder.encode(x)[0],
    ):
        with pytest.raises(TraceError):
            iam.jit(function)(x)
    layer = coder.layers[1]
    assert np.allclose(iam.jit(lambda x: layer.encode(x).to_dense())(x), layer.encode(x).to_dense(), atol=1e-5)
    sae = cross.as_sae
    both = np.concatenate([x, x], -1)
    assert np.allclose(iam.jit(lambda x: sae(x))(both), sae(both), atol=1e-4)


# Cross-layer transcoders and crosscoders.


class Rows:
    """A lazy decoder that remembers what was read."""

    dtype = np.dtype(np.float32)

    def __init__(self, array):
        self._array, self.shape, self.read = array, array.shape, []

    @property
    def T(self):
        other = Rows(self._array.T)
        other.read = self.read
        return other

    def rows(self, index):
        self.read.extend(np.arange(self.shape[0])[index].tolist())
        return self._array[index]


def cross_layer(architecture="topk", layers=3, *, lazy=False, **changes):
    cfg = config(architecture, **changes)
    rng = np.random.default_rng(1)
    each = [weights(cfg, seed=i) for i in range(layers)]
    lists = {name: [w[name] for w in each] for name in each[0]}
    lists["W_dec"] = [rng.normal(size=(F, layers - i, cfg.d_out)).astype(np.float32) for i in range(layers)]
    if lazy:
        lists["W_dec"] = [Rows(w) for w in lists["W_dec"]]
    return iam.CrossLayerTranscoder(cfg, **lists)


def crosscoder(architecture="topk", **changes):
    cfg = config(architecture, **changes)
    rng = np.random.default_rng(1)
    shapes = {"W_enc": (2, D, F), "W_dec": (F, 2, D), "b_dec": (2, D)}
    given = weights(cfg) | {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return iam.Crosscoder(cfg, **given)


def test_every_layer_writes_to_itself_and_later_ones_and_to_no_earlier(rng):
    coder = cross_layer("standard")
    xs = [rng.normal(size=(4, D)).astype(np.float32) for _ in range(3)]
    fs = coder.encode(xs)
    base = coder.decode(fs)
    for source in range(3):
        without = list(fs)
        without[source] = fs[source].ablate(list(range(F)))
        change = [a - b for a, b in zip(base, coder.decode(without), strict=True)]
        for target in range(3):
            if target < source:
                assert np.array_equal(change[target], np.zeros_like(change[target]))
            else:
                expected = fs[source].to_dense() @ coder.W_dec[source][:, target - source]
                assert np.allclose(change[target], expected, atol=1e-3)


@pytest.mark.parametrize("container", ["numpy", "torch"])
def test_lazy_decoders_read_only_rows_of_active_features(container, rng, monkeypatch):
    from iam.vector.clt import _cross_layer

    coder, eager = cross_layer("topk", lazy=True), cross_layer("topk")
    assert all(not w.read for w in coder.W_dec) and "lazy" in repr(coder)
    xs = [rng.normal(size=(2, D)).astype(np.float32) for _ in range(3)]
    expected = eager(xs)
    if container == "torch":
        xs = [pytest.importorskip("torch").from_numpy(x) for x in xs]
    fs = coder.encode(xs)
    for block in (2**24, 3 * D):  # all at once; a row at a time
        monkeypatch.setattr(_cross_layer, "_BLOCK", block)
        for w in coder.W_dec:
            w.read.clear()
        for y, other in zip(coder.decode(fs), expected, strict=True):
            assert np.allclose(y, other, atol=1e-5)
        for f, w in zip(fs, coder.W_dec, strict=True):
            active = np.flatnonzero((np.asarray(f.to_dense()) != 0).any(0))
            assert w.read == active.tolist()  # once each
    assert coder.parameters()["W_dec.1"] is coder.W_dec[1]


@pytest.mark.parametrize("architecture", [a for a in ARCHITECTURES if a != "matching_pursuit"])
def test_lazy_encoders_are_read_in_blocks_and_give_the_same(architecture, rng, monkeypatch):
    from iam.vector.clt import _cross_layer

    eager = cross_layer(architecture)
    lists = {n: v for n in ("b_enc", "W_dec", "b_dec", "threshold") if (v := getattr(eager, n)) is not None}
    if architecture == "gated":
        lists |= {n: [getattr(layer, n) for layer in eager.layers] for n in ("b_gate", "b_mag", "r_mag")}
    xs = [rng.normal(size=(5, D)).astype(np.float32) for _ in range(3)]
    monkeypatch.setattr(_cross_layer, "_BLOCK", 7 * D)
    for columns in (True, False):
        lazy = [Rows(w) if columns else OnlyRows(w) for w in eager.W_enc]
        coder = iam.CrossLayerTranscoder(eager.cfg, W_enc=lazy, **lists)
        assert not lazy[0].read and coder.W_enc[0] is lazy[0] and "lazy" in repr(coder)
        for f, expected in zip(coder.encode(xs), eager.encode(xs), strict=True):
            np.testing.assert_array_equal(f.to_dense(), expected.to_dense())
            assert f.k == expected.k
        assert columns is (lazy[0].read == list(range(F)))  # each column once
    with pytest.raises(TraceError, match=r"cannot be compiled|architecture"):
        iam.jit(lambda x: coder.layers[0].encode(x).to_dense())(xs[0])
    with pytest.raises(ShapeError, match=r"W_enc of shape \(6, 24\), got \(24, 6\)"):
        iam.CrossLayerTranscoder(eager.cfg, W_enc=[w.T for w in map(Rows, eager.W_enc)], **lists)


class OnlyRows(Rows):
    """A lazy array that cannot be transposed."""

    def __getattribute__(self, name):
        if name == "T":
            raise AttributeError(name)
        return super().__getattribute__(name)


def test_cross_layer_gradients(rng):
    torch = pytest.importorskip("torch")
    for lazy in (False, True):
        coder = cross_layer("standard", lazy=lazy)
        xs = [torch.from_numpy(rng.normal(size=(2, D)).astype(np.float32)).requires_grad_() for _ in range(3)]
        coder(xs)[2].sum().backward()
        last = coder.W_dec[2]._array if lazy else coder.W_dec[2]
        active = coder.encode([x.detach() for x in xs])[2].to_dense().numpy() > 0
        expected = (active * last[:, 0].sum(1)) @ coder.W_enc[2].T
        assert np.allclose(xs[2].grad.numpy(), expected, atol=1e-3)
        assert all(x.grad is not None and x.grad.abs().sum() > 0 for x in xs)


def test_cross_layer_shapes_types_and_sites(rng):
    torch = pytest.importorskip("torch")
    names = {
        "hook_names": ["resid_mid.0", "resid_mid.1", "odd"],
        "hook_names_out": ["mlp_out.0", "mlp_out.1", "mlp_out.2"],
    }
    coder = cross_layer(d_out=4, metadata=names)
    xs = [rng.normal(size=(2, 5, D)) for _ in range(3)]
    ys = coder(xs)
    assert [y.shape for y in ys] == [(2, 5, 4)] * 3 and {y.dtype for y in ys} == {np.dtype(np.float64)}
    halves = coder([torch.from_numpy(x).half() for x in xs])
    assert all(y.dtype == torch.float16 for y in halves)
    assert coder.sites == [iam.Site.parse("resid_mid.0"), iam.Site.parse("resid_mid.1"), None]
    assert coder.sites_out[2] == iam.Site.parse("mlp_out.2") and coder.layers[1].site == coder.sites[1]
    assert repr(coder) == "CrossLayerTranscoder(topk, 3 layers, d_in=6, d_sae=24, d_out=4, k=4)"
    assert (coder.n_layers, coder.d_in, coder.d_out, coder.d_sae) == (3, 6, 4, 24)
    with pytest.raises(ArgumentError, match="3 names in metadata hook_names"):
        cross_layer(metadata={"hook_names": ["resid_mid.0"]})


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        (lambda x: [x, x], ShapeError, "expected 3 activations, one for each layer, got 2"),
        (lambda x: [x, x, x[:2]], ShapeError, "same leading dimensions"),
        (lambda x: [x, x, x[:, :3]], ShapeError, r"\[\.\.\., 6\]"),
        (lambda x: np.stack([x] * 3), DtypeError, "a list of 3 activations"),
        (lambda x: 3, DtypeError, "a list of 3 activations"),
        (lambda x: [x, x, pytest.importorskip("torch").from_numpy(x)], DtypeError, "a mixture"),
    ],
)
def test_cross_layer_refuses_bad_inputs(given, error, says, x):
    with pytest.raises(error, match=says):
        cross_layer().encode(given(x))


def test_cross_layer_refuses_bad_weights_and_features(x):
    good = cross_layer()
    lists = {n: getattr(good, n) for n in ("W_enc", "b_enc", "W_dec", "b_dec")}
    for change, error, says in (
        ({"b_enc": good.b_enc[:2]}, ShapeError, "expected 3 arrays in b_enc"),
        ({"W_dec": good.W_dec[::-1]}, ShapeError, r"W_dec\[0\] of shape \(24, 3, 6\), got \(24, 1, 6\)"),
        ({"W_dec": [Rows(good.W_dec[1]), *good.W_dec[1:]]}, ShapeError, r"W_dec\[0\] of shape"),
        ({"b_enc": None}, ArgumentError, "needs b_enc"),
        ({"threshold": [np.ones(F)] * 3}, ArgumentError, "has no threshold"),
        ({name: [] for name in lists}, ShapeError, "at least one layer"),
    ):
        with pytest.raises(error, match=says):
            iam.CrossLayerTranscoder(good.cfg, **{**lists, **change})
    for changes, says in (
        ({"apply_b_dec_to_input": True}, "apply_b_dec_to_input"),
        ({"rescale_acts_by_decoder_norm": True}, "rescale_acts_by_decoder_norm"),
        ({"normalize_activations": "covariance_whitening"}, "covariance_whitening"),
        ({"reshape_activations": "hook_z"}, "hook_z"),
    ):
        with pytest.raises(ArgumentError, match=f"has no .*{says}"):
            iam.CrossLayerTranscoder(config("topk", **changes), **lists)
    with pytest.raises(ShapeError, match="24"):
        good.decode([np.ones((2, 23), np.float32)] * 3)
    assert np.allclose(
        good.decode([f.to_dense() for f in good.encode([x] * 3)])[2], good.decode(good.encode([x] * 3))[2], atol=1e-4
    )


def test_crosscoder(x):
    coder = crosscoder("jumprelu", apply_b_dec_to_input=True)
    other = x[::-1].copy()
    f = coder.encode([x, other])
    assert f.shape == (9, F) and repr(coder) == "Crosscoder(jumprelu, 2 sites, d_in=6, d_sae=24)"
    pre = (x - coder.b_dec[0]) @ coder.W_enc[0] + (other - coder.b_dec[1]) @ coder.W_enc[1] + coder.b_enc
    assert np.allclose(f.to_dense(), clt.jumprelu(pre, coder.threshold), atol=1e-4)
    ys = coder([x, other])
    for site, y in enumerate(ys):
        assert np.allclose(y, f.to_dense() @ coder.W_dec[:, site] + coder.b_dec[site], atol=1e-4)
    assert {n: a.shape for n, a in coder.parameters().items()} == {
        "W_enc": (2, D, F),
        "b_enc": (F,),
        "W_dec": (F, 2, D),
        "b_dec": (2, D),
        "threshold": (F,),
    }
    for bad, error in (([x], ShapeError), ([x, x[:3]], ShapeError), (x, DtypeError), ([x, [1.0]], DtypeError)):
        with pytest.raises(error):
            coder.encode(bad)
    given = coder.parameters()
    for change, error, says in (
        ({"W_enc": given["W_enc"][0]}, ShapeError, "W_enc of shape"),
        ({"W_dec": given["W_dec"][:, :1]}, ShapeError, "W_dec of shape"),
        ({"b_dec": given["b_dec"][0]}, ShapeError, "b_dec of shape"),
        ({"threshold": None}, ArgumentError, "needs a threshold"),
    ):
        with pytest.raises(error, match=says):
            iam.Crosscoder(coder.cfg, **{**given, **change})
    scaled = crosscoder("standard", normalize_activations="expected_average_only_in")
    ys = scaled([x, other])
    scaled.as_sae.fold_activation_norm_scaling_factor()
    assert scaled.cfg.normalize_activations == "none" and scaled.cfg.d_in == D
    assert all(np.allclose(a, b, rtol=1e-4, atol=1e-4) for a, b in zip(scaled([x, other]), ys, strict=True))
    with pytest.raises(ArgumentError, match="has no architecture matching_pursuit"):
        iam.Crosscoder(config("matching_pursuit"), **given)
