"""Sites: parsing, names, order."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import iam
from iam.core.errors import SiteError
from iam.core.sites import SITE_KINDS, Site

sites = st.builds(Site, st.integers(0, 200), st.sampled_from(SITE_KINDS))


@given(sites)
def test_parse_reads_what_str_and_hook_name_write(site):
    assert Site.parse(str(site)) == site
    assert Site.parse(site.hook_name) == site
    assert Site.parse(site) is site
    assert pickle.loads(pickle.dumps(site)) == site


@given(sites, sites)
def test_order_is_that_of_the_forward_pass(a, b):
    assert (a < b) == ((a.layer, SITE_KINDS.index(a.kind)) < (b.layer, SITE_KINDS.index(b.kind)))
    assert (a <= b) and (b <= a) if a == b else (a < b) != (b < a)
    assert hash(a) == hash(Site(a.layer, a.kind))


def test_saelens_names():
    assert iam.Site.parse("blocks.15.hook_resid_post") == Site(15, "resid_post")
    assert Site(3, "hook_z").hook_name == "blocks.3.attn.hook_z"
    assert str(Site(15, "resid_post")) == "resid_post.15"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("resid_pots.3", 'did you mean "resid_post"'),
        ("blocks.3.hook_resid_pots", 'did you mean "hook_resid_post"'),
        ("blocks.3.hook_mlp_in", "before the norm"),
        ("blocks.3.ln2.hook_normalized", "gain"),
        ("resid_post", "KIND.LAYER"),
        ("resid_post.-1", "KIND.LAYER"),
        ("", "KIND.LAYER"),
        (7, "got 7"),
    ],
)
def test_refused_with_a_reason(text, says):
    with pytest.raises(SiteError, match=says.replace(".", r"\.")) as caught:
        Site.parse(text)
    assert caught.value.code == "site"


@pytest.mark.parametrize("layer", [-1, 1.5, True, "3", None])
def test_layer_is_checked(layer):
    with pytest.raises(SiteError, match="layer"):
        Site(layer, "resid_post")


def test_frozen():
    with pytest.raises(AttributeError):
        Site(1, "resid_post").layer = 2
