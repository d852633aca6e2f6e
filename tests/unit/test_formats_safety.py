"""Files that lie, files that could run code, files that are too large to be read whole; and which format a file is in."""

import json
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest

from iam.cli import _inspect
from iam.core.errors import FormatError, MissingDependencyError
from iam.formats import SafetensorsFile, _detect, detect, write_safetensors
from iam.formats import _yaml as yaml_files
from iam.formats._checkpoint import CheckpointFile, write_checkpoint
from iam.formats._lazy import LazyTensor
from iam.formats._npz import NpzFile, write_npz
from iam.formats.gemma_scope_2 import layer_files


def refused(make, code, says=""):
    with pytest.raises(FormatError) as caught:
        make()
    assert caught.value.code == code, str(caught.value)
    assert says in str(caught.value)


# Lazy tensors.


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_rows_of_a_lazy_tensor(tmp_path, rng, dtype):
    values = rng.normal(size=(7, 3, 2)).astype(np.float32)
    write_safetensors(tmp_path / "x.safetensors", {"pad": np.ones(1, np.float32), "x": values}, dtype=dtype)
    file = SafetensorsFile(tmp_path / "x.safetensors")
    whole, lazy = file.read("x"), file.lazy("x")
    assert (lazy.shape, lazy.ndim, len(lazy), lazy.dtype, lazy.nbytes) == ((7, 3, 2), 3, 7, np.float32, 168)
    assert lazy.stored_dtype == {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[dtype]
    for index in ([5, 0, 5], [], np.array([True, *[False] * 6]), slice(1, 4), np.array([6], np.int32)):
        expected = whole[np.asarray(index, dtype=int) if isinstance(index, list) else index]
        assert np.array_equal(lazy.rows(index), expected)
        assert lazy.rows(index).dtype == np.float32
    assert np.array_equal(lazy.read(), whole) and np.array_equal(np.asarray(lazy), whole)
    assert np.array_equal(lazy.T.rows([1]), whole.T[[1]]) and np.array_equal(file.read("x", transpose=True), whole.T)
    assert np.array_equal(lazy.from_layer(1).rows([2]), whole[[2], 1:])
    with pytest.raises(IndexError):
        lazy.rows([7])
    lazy.rows(slice(None))[0, 0, 0] = 99.0  # a copy, not the file
    assert np.array_equal(lazy.read(), whole)


def test_lazy_rows_are_checked_when_they_are_read(tmp_path):
    values = np.ones((4, 2), np.float32)
    values[2, 1] = np.inf
    write_safetensors(tmp_path / "x.safetensors", {"x": values})
    lazy = SafetensorsFile(tmp_path / "x.safetensors").lazy("x")
    assert lazy.rows([0, 1, 3]).shape == (3, 2)
    refused(lambda: lazy.rows([0, 2]), "non-finite", "got inf at (1, 1)")
    refused(lazy.read, "non-finite", "got inf at (2, 1)")
    assert "x.safetensors" in repr(lazy)


def test_large_tensors_are_written_in_pieces(tmp_path):
    class Counting(LazyTensor):
        largest = 0

        def rows(self, index):
            values = super().rows(index)
            Counting.largest = max(Counting.largest, values.size)
            return values

    stored = np.zeros((9000, 1000), np.float32)
    write_safetensors(tmp_path / "x.safetensors", {"x": Counting(stored, "F32", "here")}, dtype="bfloat16")
    assert SafetensorsFile(tmp_path / "x.safetensors").tensors["x"].shape == (9000, 1000)
    assert 0 < Counting.largest <= 1 << 22


def sparse_safetensors(path, tensors, dtype="BF16"):
    """A file of zeros that takes no space: only its header is written."""
    header, begin = {}, 0
    for name, shape in tensors.items():
        end = begin + 2 * int(np.prod(shape, dtype=np.int64))
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begin)


def test_a_cross_layer_transcoder_of_160_gb_opens_at_once(tmp_path):
    """26 layers of 98,304 features, as published; the files are sparse. Decoder rows are read alone."""
    layers, f, d = 26, 98_304, 2_304
    for i in range(layers):
        sparse_safetensors(
            tmp_path / f"W_enc_{i}.safetensors",
            {f"W_enc_{i}": (f, d), f"b_enc_{i}": (f,), f"b_dec_{i}": (d,), f"threshold_{i}": (f,)},
        )
        sparse_safetensors(tmp_path / f"W_dec_{i}.safetensors", {f"W_dec_{i}": (f, layers - i, d)})
    total = sum(item.stat().st_size for item in tmp_path.iterdir())
    assert total > 160e9
    start = time.process_time()  # the machine is shared; tests/benchmarks/bench_scale.py reports seconds by the clock
    found = detect(tmp_path)
    raw = _detect.load_raw(tmp_path)
    seconds = time.process_time() - start
    assert found.format == "circuit_tracer_clt" and (raw.n_layers, raw.d_sae, raw.d_in) == (layers, f, d)
    assert raw.tensors["W_dec.3"].rows([5, 98_303]).shape == (2, 23, d)
    assert raw.tensors["W_enc.3"].T.rows([5]).shape == (1, d)
    assert seconds < 0.5
    seen = _inspect.inspect_path(tmp_path)
    assert seen.facts["layers"] == layers and seen.total_bytes > 160e9 and len(seen.tensors) == 5 * layers
    assert any("norms are not listed" in note for note in seen.notes)


# Archives.


def test_npz_reads_what_numpy_writes(tmp_path, rng):
    arrays = {
        "a": rng.normal(size=(5, 3)).astype(np.float32), "b": np.asfortranarray(rng.normal(size=(4, 2))),
        "c": rng.normal(size=3).astype(np.float16), "d": np.zeros((0, 2), np.float32), "e": np.float32(2.5) * np.ones(()),
    }  # fmt: skip
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)
        file = NpzFile(tmp_path / "x.npz")
        for name, array in arrays.items():
            assert np.array_equal(file.read(name), array.astype(np.float32)), name
            assert np.array_equal(file.read(name, transpose=True), array.T.astype(np.float32)), name
            assert np.array_equal(file.lazy(name).read(), array.astype(np.float32)), name
    refused(lambda: file.read("z"), "tensor-missing", "the file has: a, b, c, d, e")


def test_npz_is_read_by_numpy(tmp_path, rng):
    a = rng.normal(size=(5, 3)).astype(np.float32)
    write_npz(tmp_path / "x.npz", {"a": a, "b": a.T})
    with np.load(tmp_path / "x.npz", allow_pickle=False) as loaded:
        assert np.array_equal(loaded["a"], a) and np.array_equal(loaded["b"], a.T)
    first = (tmp_path / "x.npz").read_bytes()
    write_npz(tmp_path / "x.npz", {"a": a, "b": a.T})
    assert (tmp_path / "x.npz").read_bytes() == first


def member(path, data, name="a.npy", **kwargs):
    with zipfile.ZipFile(path, "w", **kwargs) as archive:
        archive.writestr(name, data)


def npy(header, data=b""):
    text = header.encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def test_npz_that_lies(tmp_path):
    at = tmp_path / "x.npz"
    np.savez(at, a=np.array([print], dtype=object))
    refused(lambda: NpzFile(at), "tensor-dtype", "would have to be unpickled")
    np.savez(at, a=np.array(["text"]))
    refused(lambda: NpzFile(at), "tensor-dtype")
    member(at, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000, 1000000)}"))
    refused(lambda: NpzFile(at), "file-header", "the archive declares 128")
    member(at, npy("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"))
    refused(lambda: NpzFile(at), "file-header", "impossible shape")
    member(at, npy("__import__('os').system('true')"))
    refused(lambda: NpzFile(at), "file-header", "no .npy header")
    member(at, b"")
    refused(lambda: NpzFile(at), "file-header", "no .npy header")
    member(at, b"x", name="readme.txt")
    refused(lambda: NpzFile(at), "file-header", "expected only .npy")
    member(at, npy("{}"), compression=zipfile.ZIP_BZIP2)
    refused(lambda: NpzFile(at), "format", "stored or deflated")
    at.write_bytes(b"no archive")
    refused(lambda: NpzFile(at), "file-header", "zip archive")
    refused(lambda: NpzFile(tmp_path / "none.npz"), "file-missing")
    refused(lambda: NpzFile(tmp_path), "file-missing", "directory")


def test_npz_bomb(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", a=np.zeros((3000, 1000), np.float32))
    assert (tmp_path / "x.npz").stat().st_size < 100_000
    refused(lambda: NpzFile(tmp_path / "x.npz"), "format", "more than 4 times")


def test_npz_notices_a_changed_byte(tmp_path):
    write_npz(tmp_path / "x.npz", {"a": np.arange(100, dtype=np.float32)})
    raw = bytearray((tmp_path / "x.npz").read_bytes())
    raw[300] ^= 1
    (tmp_path / "x.npz").write_bytes(bytes(raw))
    refused(lambda: NpzFile(tmp_path / "x.npz").read("a"), "file-header", "check sum")


# Checkpoints.


class Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('this file ran code')",))


def test_a_pickle_is_never_run(tmp_path):
    torch = pytest.importorskip("torch")
    at = tmp_path / "ae.pt"
    at.write_bytes(pickle.dumps(Runs()))
    refused(lambda: CheckpointFile(at), "file-header", "torch >= 1.6")
    torch.save({"a": Runs()}, at)
    refused(lambda: CheckpointFile(at), "format", "IAM opens no pickle in any other way")
    torch.save({"a": torch.ones(2)}, at, _use_new_zipfile_serialization=False)
    refused(lambda: CheckpointFile(at), "file-header")
    torch.save([torch.ones(2)], at)
    refused(lambda: CheckpointFile(at), "format", "got list")
    torch.save({"a": {"b": {"c": torch.ones(2)}}}, at)
    refused(lambda: CheckpointFile(at), "format", "no plain state dict")
    torch.save({"a": torch.ones(2).to_sparse()}, at)
    refused(lambda: CheckpointFile(at), "format")
    torch.save({"a": torch.ones(2, dtype=torch.complex64)}, at)
    refused(lambda: CheckpointFile(at).read("a"), "tensor-dtype")


def test_a_shape_cannot_claim_more_than_its_storage(tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.ones(1).expand(100_000, 100_000)}, tmp_path / "x.pt")
    refused(lambda: CheckpointFile(tmp_path / "x.pt"), "file-header", "have less")


def test_checkpoint_round_trip(tmp_path, rng):
    torch = pytest.importorskip("torch")
    a = rng.normal(size=(5, 3)).astype(np.float32)
    write_checkpoint(tmp_path / "x.pt", {"a": a, "t": a.T, "k": 7})
    loaded = torch.load(tmp_path / "x.pt", weights_only=True)
    assert torch.equal(loaded["a"], torch.from_numpy(a)) and int(loaded["k"]) == 7
    file = CheckpointFile(tmp_path / "x.pt")
    assert np.array_equal(file.read("a"), a) and np.array_equal(file.read("t", transpose=True), a)
    assert file.scalars == {"k": 7}
    torch.save({"a": torch.from_numpy(a).bfloat16().T}, tmp_path / "y.pt")
    expected = torch.from_numpy(a).bfloat16().float().numpy().T
    assert np.array_equal(CheckpointFile(tmp_path / "y.pt").read("a"), expected)
    assert np.array_equal(CheckpointFile(tmp_path / "y.pt").lazy("a").rows([1]), expected[[1]])
    values = CheckpointFile(tmp_path / "x.pt").read("a")
    values[:] = 0  # a copy, not the mapped file
    assert np.array_equal(CheckpointFile(tmp_path / "x.pt").read("a"), a)


# YAML.


def test_yaml(tmp_path, monkeypatch):
    pytest.importorskip("yaml")
    at = tmp_path / "config.yaml"
    at.write_text("model_name: m\nk: 3\n")
    assert yaml_files.read_yaml(at) == {"model_name": "m", "k": 3}
    for text in (
        "a: &x [1]\nb: [*x, *x]",
        "!!python/object/apply:os.system ['true']",
        "[1, 2]",
        "a: [",
        "1: 2",
        "\x00",
        "? [a]\n: b",
    ):
        at.write_text(text)
        refused(lambda: yaml_files.read_yaml(at), "format")
    at.write_text("")
    assert yaml_files.read_yaml(at) == {}
    at.write_text("a: " + "b" * 70_000)
    refused(lambda: yaml_files.read_yaml(at), "format", "at most")
    monkeypatch.setitem(__import__("sys").modules, "yaml", None)
    with pytest.raises(MissingDependencyError, match="PyYAML"):
        yaml_files.read_yaml(tmp_path / "config.yaml")


# Detection.


def sae_folder(path):
    path.mkdir(parents=True, exist_ok=True)
    w = {"W_enc": (2, 3), "W_dec": (3, 2), "b_enc": (3,), "b_dec": (2,)}
    write_safetensors(path / "sae_weights.safetensors", {n: np.ones(s, np.float32) for n, s in w.items()})
    (path / "cfg.json").write_text(json.dumps({"architecture": "standard", "d_in": 2, "d_sae": 3, "metadata": {}}))
    return path


def test_detection_says_what_it_saw(tmp_path):
    folder = sae_folder(tmp_path / "a")
    found = detect(folder)
    assert (found.format, found.path) == ("saelens", folder)
    assert "cfg.json with d_in, d_sae" in found.why and "W_enc" in found.why
    assert detect(folder / "sae_weights.safetensors") == found
    refused(lambda: detect(tmp_path / "none"), "file-missing")
    (tmp_path / "b").mkdir()
    refused(lambda: detect(tmp_path / "b"), "format", "seen: no files; known: circuit_tracer")
    (tmp_path / "b" / "weights.pt").write_bytes(b"x")
    refused(lambda: detect(tmp_path / "b"), "format", "weights.pt is a pickle")
    (folder / "cfg.json").unlink()
    refused(
        lambda: detect(folder), "format", "looks like saelens, but sae_weights.safetensors is there, but no cfg.json"
    )


def test_contradictions_and_ambiguity_are_errors(tmp_path):
    folder = sae_folder(tmp_path / "a")
    (folder / "cfg.json").write_text(json.dumps({"d_in": 2, "k": 1, "num_latents": 3}))
    refused(lambda: detect(folder), "format", "cfg.json has no 'd_sae', but d_in, k, num_latents")
    other = sae_folder(tmp_path / "b")
    write_safetensors(other / "sae_weights.safetensors", {"encoder.weight": np.ones((3, 2), np.float32)})
    refused(lambda: detect(other), "format", "has no W_dec, but encoder.weight (3, 2)")
    both = sae_folder(tmp_path / "c")
    w = {"W_enc": (3, 2), "W_dec": (3, 2), "b_enc": (3,), "b_dec": (2,)}
    write_safetensors(both / "layer_0.safetensors", {n: np.ones(s, np.float32) for n, s in w.items()})
    refused(lambda: detect(both), "format", "more than one format; fits circuit_tracer:")
    assert detect(both / "layer_0.safetensors").format == "circuit_tracer"
    assert detect(both / "sae_weights.safetensors").format == "saelens"
    # config.yaml and files that say different things
    pytest.importorskip("yaml")
    single = tmp_path / "d"
    single.mkdir()
    write_safetensors(single / "layer_0.safetensors", {n: np.ones(s, np.float32) for n, s in w.items()})
    (single / "config.yaml").write_text("model_kind: cross_layer_transcoder")
    refused(lambda: _detect.load_raw(single), "format", "model_kind")
    (single / "config.yaml").write_text("activation: jump_relu")
    refused(lambda: _detect.load_raw(single), "format", "but there is no activation_function.threshold")
    (single / "config.yaml").write_text("activation: topk")
    refused(lambda: _detect.load_raw(single), "k-range")
    (single / "iam.json").write_text(json.dumps({"schema": "iam.coder/1", "format": "sparsify", "metadata": {}}))
    (single / "config.yaml").unlink()
    refused(lambda: _detect.load_raw(single), "format", "one of them is wrong")


def test_transposed_weights_are_named(tmp_path):
    folder = sae_folder(tmp_path)
    w = {"W_enc": (3, 2), "W_dec": (3, 2), "b_enc": (3,), "b_dec": (2,)}
    write_safetensors(folder / "sae_weights.safetensors", {n: np.ones(s, np.float32) for n, s in w.items()})
    refused(lambda: _detect.load_raw(folder), "tensor-shape", "the transpose of what this format stores")


def test_layers_that_are_there_twice(tmp_path):
    import re

    for name in ("params_layer_1.safetensors", "params_layer_01.safetensors", "params_layer_0.safetensors"):
        (tmp_path / name).touch()
    refused(lambda: layer_files(tmp_path, re.compile(r"params_layer_(\d+)\.safetensors$")), "format", "two files")
