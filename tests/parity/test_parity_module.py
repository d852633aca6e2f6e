"""The coder as torch module: SAELens's parameters, values and gradients."""

import pytest

pytest.importorskip("sae_lens", reason="runs in the environment of SAELens")

import torch
from hooked import WIDTH, coders

from iam.vector.clt._module import to_module

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.mark.parametrize("architecture", ["topk", "jumprelu", "standard"])
def test_state_values_and_gradients(tmp_path, architecture):
    theirs, ours = coders(tmp_path, architecture)
    module = to_module(ours)
    state = module.state_dict()
    assert {n: tuple(v.shape) for n, v in theirs.state_dict().items()} == {n: tuple(v.shape) for n, v in state.items()}
    theirs.load_state_dict(state)
    module.load_state_dict(theirs.state_dict())
    x = torch.randn(3, 5, WIDTH, generator=torch.Generator().manual_seed(0))
    results = []
    for sae in (theirs, module):
        given = x.clone().requires_grad_()
        out = sae(given)
        ((out - x) ** 2).sum().backward()
        results.append((out, given.grad, *(sae.get_parameter(n).grad for n in ("W_enc", "b_enc", "W_dec", "b_dec"))))
    for expected, found in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    f = module.encode(x).to_dense()
    torch.testing.assert_close(f, theirs.encode(x), rtol=1e-5, atol=1e-5)
