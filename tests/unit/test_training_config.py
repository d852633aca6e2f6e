"""Settings of a training run: read, checked, refused with a message that helps."""

import dataclasses
import pathlib

import pytest

from iam.errors import ArgumentError
from iam.training import (
    CoderSettings,
    DataSettings,
    OptimiserSettings,
    ScheduleSettings,
    SparsitySettings,
    TrainConfig,
)

SMALL = {
    "coder": {"architecture": "topk", "d_sae": 64, "k": 4},
    "schedule": {"steps": 10},
    "checkpoint": {"folder": "somewhere"},
}


def changed(part, **values):
    return SMALL | {part: SMALL.get(part, {}) | values}


def sites(site, site_out=None, **coder):
    return changed("coder", **coder) | {"data": {"site": site, "site_out": site_out}}


@pytest.mark.parametrize(
    ("values", "kind", "each"),
    [
        (SMALL, "sae", ()),
        (sites("resid_post.1"), "sae", ("resid_post.1",)),
        (sites(["resid_post.1"]), "sae", ("resid_post.1",)),
        (sites("resid_post.1", "resid_post.1"), "sae", ("resid_post.1",)),
        (sites("mlp_in.1", "mlp_out.1"), "transcoder", ("mlp_in.1", "mlp_out.1")),
        (sites(["mlp_in.1"], ["mlp_out.1"]), "transcoder", ("mlp_in.1", "mlp_out.1")),
        (sites(["mlp_in.1", "blocks.2.mlp.hook_in"]), "crosscoder", ("mlp_in.1", "mlp_in.2")),
        (
            sites(["resid_post.0", "resid_post.1"], ["resid_post.1", "resid_post.2"]),
            "cross_layer",
            ("resid_post.0", "resid_post.1", "resid_post.2"),
        ),
        (changed("coder", kind="crosscoder"), "crosscoder", ()),
    ],
)
def test_kind_follows_from_the_sites(values, kind, each):
    config = TrainConfig.from_dict(values)
    assert (config.kind, config.data.sites) == (kind, each)
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_reads_and_writes_the_same():
    config = TrainConfig.from_dict(SMALL)
    assert config.coder.normalize_decoder is True
    assert TrainConfig.from_dict(config.to_dict()) == config


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig.from_dict(SMALL).seed = 3


@pytest.mark.parametrize(
    ("values", "message", "code"),
    [
        (changed("coder", archtecture="topk"), 'coder: unknown key "archtecture"; did you mean "architecture"', "config-key"),
        (SMALL | {"sede": 1}, 'unknown key "sede"; did you mean "seed"', "config-key"),
        (changed("coder", lr=1), 'coder: unknown key "lr"; it belongs into "optimiser"', "config-key"),
        ({"coder": SMALL["coder"]}, 'expected a key "schedule"', "config-key"),
        (SMALL | {"data": 3}, "data: expected keys and values, got 3", "config-value"),
        (changed("coder", k=65), r"k: expected an integer in 1\.\.64, got 65", "k-range"),
        (changed("coder", architecture="gated"), "expected none for architecture gated, got 4", "config-value"),
        (changed("coder", architecture="topkk"), 'did you mean "topk"', "config-value"),
        (changed("schedule", steps=0), "ScheduleSettings.steps: expected an integer >= 1, got 0", "config-value"),
        (changed("schedule", steps=True), "steps: expected an integer >= 1, got True", "config-value"),
        (changed("optimiser", lr="fast"), "lr: expected a number > 0, got 'fast'", "config-value"),
        (changed("optimiser", lr=float("nan")), "lr: expected a number > 0, got nan", "config-value"),
        (changed("data", refill=1.5), "refill: expected a number > 0 and <= 1, got 1.5", "config-value"),
        (changed("data", site="resid_pots.3"), "DataSettings.site: .*resid_post", "site"),
        (changed("data", drop_positions=256), "expected less than context=256, got 256", "config-value"),
        (changed("data", text="a", tokens="b"), "expected text or tokens, got both", "config-value"),
        (changed("schedule", k_start=2), "k_start: expected an integer from coder.k=4 to d_sae=64, got 2", "config-value"),
        (changed("coder", skip=True) | {"data": {"site": "mlp_in.1"}}, "coder.skip: expected false for an SAE", "config-value"),
        (
            changed("coder", apply_b_dec_to_input=True) | {"data": {"site": "mlp_in.1", "site_out": "mlp_out.1"}},
            "apply_b_dec_to_input: expected false for a transcoder",
            "config-value",
        ),
        (sites(["mlp_in.1", "mlp_in.2"], ["mlp_out.1"]), r"site_out: expected as many sites as in site \(2\), got 1", "config-value"),
        (sites("mlp_in.1", ["mlp_out.1", "mlp_out.2"]), r"site_out: expected as many sites as in site \(1\), got 2", "config-value"),
        (sites(["mlp_in.2", "mlp_in.1"], ["mlp_out.1", "mlp_out.2"]), r"site: .*in the order of the forward pass, got mlp_in\.2", "config-value"),
        (sites(["mlp_in.1", "mlp_in.2"], ["mlp_out.2", "mlp_out.1"]), r"site_out: .*in the order of the forward pass", "config-value"),
        (sites(["mlp_in.1", "mlp_in.2"], ["mlp_out.0", "mlp_out.2"]), r"comes after mlp_in\.1, which its layer reads, got mlp_out\.0", "config-value"),
        (sites(["mlp_in.1", "mlp_in.1"]), r"expected a site, or a list of different ones, got \['mlp_in\.1', 'mlp_in\.1'\]", "site"),
        (sites([]), r"expected a site, or a list of different ones, got \[\]", "site"),
        (sites(["mlp_in.1", "mpl_in.2"]), r"DataSettings\.site\[1\]: .*mlp_in", "site"),
        (sites(["mlp_in.1", "mlp_in.2"], kind="cross_layer"), "coder.kind: expected crosscoder, which follows from", "config-value"),
        (changed("coder", kind="clt"), "CoderSettings.kind: expected one of cross_layer, crosscoder, sae, transcoder", "config-value"),
        (sites(["mlp_in.1", "mlp_in.2"], skip=True), "coder.skip: expected false for a crosscoder", "config-value"),
        (
            sites(["mlp_in.1", "mlp_in.2"], ["mlp_out.1", "mlp_out.2"], apply_b_dec_to_input=True),
            "apply_b_dec_to_input: expected false for a transcoder",
            "config-value",
        ),
        (
            sites(["mlp_in.1", "mlp_in.2"], ["mlp_out.1", "mlp_out.2"], architecture="matryoshka", widths=[8]),
            "expected another one than matryoshka for a cross-layer transcoder",
            "config-value",
        ),
        (changed("coder", architecture="matryoshka", widths=[32, 16]), "widths: expected rising sizes", "config-value"),
        (changed("coder", widths=[32]), "widths: expected none for architecture topk", "config-value"),
        (
            SMALL | {"coder": {"architecture": "jumprelu", "d_sae": 8}, "sparsity": {"mode": "quadratic"}},
            r"target_l0: expected a number in 0\.\.d_sae=8 for mode quadratic, got None",
            "config-value",
        ),
    ],
)  # fmt: skip
def test_refused(values, message, code):
    with pytest.raises(ArgumentError, match=message) as error:
        TrainConfig.from_dict(values)
    assert error.value.code == code


def test_yaml_numbers_without_a_point_are_numbers(tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text(
        "coder: {architecture: topk, d_sae: 64, k: 4}\noptimiser: {lr: 1e-3}\nschedule: {steps: 10}\n"
        "checkpoint: {folder: out}\ndata: {text: a.txt}\n"
    )
    config = TrainConfig.from_yaml(path)
    assert config.learning_rate == 1e-3
    assert config.data.text == ("a.txt",)


def test_yaml_errors_name_the_file(tmp_path):
    path = tmp_path / "run.yaml"
    with pytest.raises(ArgumentError, match="expected a YAML file, but there is none"):
        TrainConfig.from_yaml(path)
    path.write_text("coder: [")
    with pytest.raises(ArgumentError, match="expected YAML"):
        TrainConfig.from_yaml(path)
    path.write_text("coder: {architecture: topk, d_sae: 4, k: 9}\nschedule: {steps: 1}\ncheckpoint: {folder: x}\n")
    with pytest.raises(ArgumentError, match=r"run\.yaml: CoderSettings\.k"):
        TrainConfig.from_yaml(path)
    with pytest.raises(ArgumentError, match=r"did you mean .*run\.yaml"):
        TrainConfig.from_yaml(tmp_path / "rum.yaml")


def test_learning_rate_by_rule():
    config = TrainConfig.from_dict(changed("coder", d_sae=2**16))
    assert config.learning_rate == pytest.approx(1e-4)
    assert TrainConfig.from_dict(SMALL | {"optimiser": {"name": "signum"}}).learning_rate == pytest.approx(5e-3 * 16)


def test_committed_configurations_are_read(repo_root: pathlib.Path):
    files = sorted((repo_root / "configs").glob("*.yaml"))
    assert len(files) >= 4
    for file in files:
        config = TrainConfig.from_yaml(file)
        assert config.data.buffer_rows >= config.schedule.batch, file


def test_configurations_of_smollm2_share_a_cache(repo_root: pathlib.Path):
    """What a cache is made from is the same in all of them, and it holds the sites of each."""
    configs = [TrainConfig.from_yaml(path) for path in sorted((repo_root / "configs").glob("smollm2_*.yaml"))]
    assert {config.kind for config in configs} == {"cross_layer", "sae", "transcoder"}
    for config in configs:
        assert config.data == dataclasses.replace(configs[0].data, site=config.data.site, site_out=config.data.site_out)
        assert config.seed == configs[0].seed
        assert set(config.data.sites) <= set(config.data.cache_sites)


def test_every_setting_is_documented(repo_root: pathlib.Path):
    for cls in (CoderSettings, DataSettings, OptimiserSettings, ScheduleSettings, SparsitySettings):
        for one in dataclasses.fields(cls):
            assert f"{one.name}:" in cls.__doc__ or f"{one.name}," in cls.__doc__, f"{cls.__name__}.{one.name}"


def test_reading_settings_loads_no_torch():
    import subprocess
    import sys

    code = "import sys, iam.training; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "False"
