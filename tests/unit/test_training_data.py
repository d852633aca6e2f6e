"""Rows to train on: contexts, streams, the cache on disk, the buffer."""

import json

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

import iam  # noqa: E402
from iam.errors import ArgumentError, FormatError, NonFiniteError, ShapeError  # noqa: E402
from iam.training import DataSettings  # noqa: E402
from iam.training._data import (  # noqa: E402
    ArrayStream,
    IteratorStream,
    ModelStream,
    RingBuffer,
    ShardStream,
    contexts_of,
    harvest,
)

WIDTH, CONTEXT, VOCABULARY = 16, 12, 41


pytestmark = pytest.mark.usefixtures("one_thread")


class Words:
    """A tokenizer of the smallest kind: one id per letter."""

    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def __call__(self, text, add_special_tokens=True):
        return {"input_ids": [3 + ord(letter) % 32 for letter in text]}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=WIDTH, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=2,
        intermediate_size=24, max_position_embeddings=32, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    return iam.LanguageModel(transformers.LlamaForCausalLM(config).eval(), Words())


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens.npy"
    np.save(path, np.random.default_rng(0).integers(3, VOCABULARY, (20, CONTEXT)).astype(np.int32))
    return path


def settings(**values):
    values = {"context": CONTEXT, "model_batch": 4, "site": "resid_post.0", "sink_factor": None} | values
    return DataSettings(**values)


def rows_until(stream, count):
    blocks = []
    while sum(len(block[0]) for block in blocks) < count:
        blocks.append(stream.read())
    return [torch.cat(parts) for parts in zip(*blocks, strict=True)]


# ---------------------------------------------------------------------------------------------------------- contexts


def test_contexts_join_documents_and_start_with_bos(tmp_path, model):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "abc"}) + "\n\n" + json.dumps({"text": "defg"}) + "\n")
    (tmp_path / "b.txt").write_text("hij")
    files = [tmp_path / "a.jsonl", tmp_path / "b.txt"]
    found = contexts_of(DataSettings(text=files, context=5), model)
    letters = "abc\0defg\0hij\0"
    flat = [2 if one == "\0" else 3 + ord(one) % 32 for one in letters]
    assert found.tolist() == [[1, *flat[0:4]], [1, *flat[4:8]], [1, *flat[8:12]]]
    bare = contexts_of(DataSettings(text=files, context=5, prepend_bos=False), model)
    assert bare.tolist() == [flat[0:5], flat[5:10]]


@pytest.mark.parametrize(
    ("content", "message"),
    [('{"txt": 1}', r'a\.jsonl:1: expected JSON with a key "text"'), ('{"text": 1}', "to be text, got int"), ("x", "1: expected JSON")],
)  # fmt: skip
def test_bad_lines_are_named(tmp_path, model, content, message):
    (tmp_path / "a.jsonl").write_text(content)
    with pytest.raises(ArgumentError, match=message):
        contexts_of(DataSettings(text=str(tmp_path / "a.jsonl")), model)


def test_token_files(tmp_path, model):
    path = tmp_path / "t.npy"
    np.save(path, np.arange(25))
    assert contexts_of(settings(tokens=path), model).shape == (2, CONTEXT)
    np.save(path, np.zeros((3, 7), dtype=np.uint16))
    assert contexts_of(settings(tokens=path), model).shape == (3, 7)
    np.save(path, np.zeros(30))
    with pytest.raises(ArgumentError, match=r"expected integers .* got float64 \(30,\)"):
        contexts_of(settings(tokens=path), model)
    np.save(path, np.arange(5))
    with pytest.raises(ArgumentError, match="at least one context of 12"):
        contexts_of(settings(tokens=path), model)
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ArgumentError, match=r"expected a \.npy file of integers"):  # never unpickled
        contexts_of(settings(tokens=path), model)
    with pytest.raises(ArgumentError, match="there is no"):
        contexts_of(settings(tokens=tmp_path / "none.npy"), model)


# ------------------------------------------------------------------------------------------------------------- model


def test_rows_are_the_activations_of_both_sites_without_the_first_positions(model, tokens):
    contexts = np.load(tokens)
    stream = ModelStream(model, contexts, ["mlp_in.1", "mlp_out.1"], settings(drop_positions=2, model_batch=20), seed=3)
    x, y = stream.read()
    found = model.capture(torch.from_numpy(contexts).long(), ["mlp_in.1", "mlp_out.1"])
    for rows, captured in zip((x, y), found.values(), strict=True):
        torch.testing.assert_close(rows, captured[:, 2:].flatten(0, 1))
    assert stream.rows_per_pass == 20 * (CONTEXT - 2)


def test_sinks_are_dropped_at_all_sites(model, tokens, monkeypatch):
    capture = model.capture

    def with_a_sink(ids, sites):
        found = {site: value.clone() for site, value in capture(ids, sites).items()}
        next(iter(found.values()))[0, 3] *= 1000
        return found

    monkeypatch.setattr(model, "capture", with_a_sink)
    stream = ModelStream(model, np.load(tokens), ["resid_post.0", "mlp_out.1"], settings(sink_factor=10))
    x, y = stream.read()
    assert len(x) == len(y) == 4 * (CONTEXT - 1) - 1
    assert stream.sinks == 1


def test_model_stream_goes_on_where_it_was(model, tokens):
    def fresh():
        return ModelStream(model, np.load(tokens), ["resid_post.0"], settings(), seed=5)

    stream = fresh()
    for _ in range(7):  # five forward passes make one pass over the contexts
        stream.read()
    other = fresh()
    other.restore(json.loads(json.dumps(stream.state())))
    assert torch.equal(stream.read()[0], other.read()[0])


# ------------------------------------------------------------------------------------------------------------- cache


def make_cache(model, tokens, folder, **values):
    used = settings(tokens=tokens, cache=folder, shard_rows=60, **values)
    return harvest(used, lambda: model, "tiny", seed=1), used


def test_cache_holds_what_the_model_stream_gives(model, tokens, tmp_path):
    stream, used = make_cache(model, tokens, tmp_path / "cache", cache_sites=["mlp_out.1"])
    index = json.loads((tmp_path / "cache" / "index.json").read_text())
    assert index["complete"] and sum(one["rows"] for one in index["shards"]) == 20 * (CONTEXT - 1)
    assert stream.rows_per_pass == 20 * (CONTEXT - 1)
    direct = ModelStream(model, np.load(tokens), ["resid_post.0"], settings(), seed=1)
    stored = rows_until(stream, 220)[0]
    made = rows_until(direct, 220)[0].to(torch.bfloat16)
    key = lambda rows: sorted(map(tuple, rows.float().tolist()))  # noqa: E731
    assert key(stored) == key(made)
    other = ShardStream(tmp_path / "cache", ["mlp_out.1"], seed=1)  # another coder, from the same forward passes
    assert other.read()[0].shape[1] == WIDTH

    def refuse():
        raise AssertionError("the model is not needed: the cache is complete")

    assert harvest(used, refuse, "tiny", seed=1).rows_per_pass == 220


def test_interrupted_harvest_goes_on_and_ends_with_the_same_rows(model, tokens, tmp_path):
    whole, _ = make_cache(model, tokens, tmp_path / "whole")
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 4:
            raise KeyboardInterrupt

    used = settings(tokens=tokens, cache=tmp_path / "cut", shard_rows=60)
    with pytest.raises(KeyboardInterrupt):
        harvest(used, lambda: model, "tiny", seed=1, check=check)
    assert len(list((tmp_path / "cut").glob("shard-*"))) == 1
    assert not list((tmp_path / "cut").glob(".*"))
    resumed = harvest(used, lambda: model, "tiny", seed=1)
    assert torch.equal(rows_until(whole, 220)[0], rows_until(resumed, 220)[0])


@pytest.mark.parametrize(("asked", "least", "most"), [(100, 100, 143), (100_000, 220, 220)])
def test_cache_holds_what_was_asked_for_and_no_row_twice(model, tokens, tmp_path, asked, least, most):
    stream, _ = make_cache(model, tokens, tmp_path / "cache", cache_rows=asked)
    assert least <= stream.rows_per_pass <= most  # a forward pass has 44 rows


def test_cache_of_other_rows_is_refused(model, tokens, tmp_path):
    make_cache(model, tokens, tmp_path / "cache")
    with pytest.raises(ArgumentError, match="drop_positions was 1, is 2"):
        make_cache(model, tokens, tmp_path / "cache", drop_positions=2)
    with pytest.raises(ArgumentError, match=r"holds resid_post\.0, not mlp_out\.1"):
        make_cache(model, tokens, tmp_path / "cache", site="mlp_out.1")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("")
    with pytest.raises(ArgumentError, match=r"a cache or an empty folder, found thesis\.tex"):
        make_cache(model, tokens, tmp_path / "other")


def test_damaged_cache(model, tokens, tmp_path):
    stream, used = make_cache(model, tokens, tmp_path / "cache")
    shard = tmp_path / "cache" / "shard-00000.safetensors"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(FormatError, match="shard-00000"):
        rows_until(stream, 10_000)
    (tmp_path / "cache" / "index.json").write_text('{"version": 1}')
    with pytest.raises(FormatError, match="expected the index of a cache"):
        harvest(used, lambda: model, "tiny", seed=1)


def test_shard_stream_goes_on_where_it_was(model, tokens, tmp_path):
    stream, _ = make_cache(model, tokens, tmp_path / "cache")
    for _ in range(6):
        stream.read()
    other = ShardStream(tmp_path / "cache", ["resid_post.0"], seed=1)
    other.restore(json.loads(json.dumps(stream.state())))
    assert torch.equal(stream.read()[0], other.read()[0])


# ------------------------------------------------------------------------------------------------------------ buffer


def numbered(count, block=7):
    """Rows (i, i) of whole numbers that bfloat16 holds exactly, up to 256."""
    rows = torch.arange(count, dtype=torch.float32)[:, None].expand(count, 2)
    return IteratorStream(rows.split(block))


def test_buffer_gives_every_row_once_and_mixes():
    buffer = RingBuffer(numbered(200), rows=64, batch=8, refill=0.5, seed=0)
    batches = []
    while (batch := buffer.next()) is not None:
        batches.append(batch[0][:, 0])
    seen = torch.cat(batches)
    assert sorted(seen.tolist()) == list(range(200))
    # a batch after the first refill has rows of the first filling and of later ones
    later = batches[5]
    assert bool((later < 64).any()) and bool((later >= 64).any())
    assert seen[:32].max() > 48 and seen[:32].min() < 16


def test_buffer_is_bounded_and_its_storage_never_moves():
    buffer = RingBuffer(ArrayStream(np.ones((100, 2), dtype=np.float32)), rows=32, batch=8, seed=0)
    buffer.next()
    [store] = buffer._store
    place = store.data_ptr()
    for _ in range(50):
        buffer.next()
    assert buffer._store[0].data_ptr() == place and store.shape == (32, 2) and store.dtype == torch.bfloat16


def test_buffer_keeps_rows_and_targets_together():
    rows = torch.arange(100, dtype=torch.float32)[:, None]
    buffer = RingBuffer(ArrayStream(rows, -rows.expand(100, 3)), rows=32, batch=8, seed=0)
    for _ in range(20):
        x, y = buffer.next()
        assert torch.equal(x.expand(8, 3), -y)


@pytest.mark.parametrize("after", [0, 3, 4, 9])
def test_buffer_goes_on_where_it_was(after):
    def fresh():
        return RingBuffer(numbered(250), rows=32, batch=8, refill=0.5, seed=2)

    buffer, other = fresh(), fresh()
    for _ in range(after):
        buffer.next()
    numbers, tensors = buffer.state()
    other.restore(json.loads(json.dumps(numbers)), {name: value.clone() for name, value in tensors.items()})
    while (batch := buffer.next()) is not None:
        assert torch.equal(batch[0], other.next()[0])
    assert other.next() is None


def test_state_of_some_sites_is_that_of_a_buffer_of_these():
    rows = torch.arange(300, dtype=torch.float32)[:, None]

    def filled(*arrays):
        buffer = RingBuffer(ArrayStream(*arrays), rows=64, batch=8, seed=3)
        for _ in range(7):
            buffer.next()
        return buffer

    numbers, tensors = filled(rows, -rows, 2 * rows).state([2, 0])
    expected_numbers, expected = filled(2 * rows, rows).state()
    assert numbers == expected_numbers and tensors.keys() == expected.keys()
    assert {"pending.0", "pending.1", "rows.0", "rows.1"} <= tensors.keys()
    for name, value in expected.items():
        assert torch.equal(tensors[name], value), name


def test_buffer_stopped_while_filling_has_the_state_before():
    stop = []

    def check():
        if stop:
            raise KeyboardInterrupt

    def fresh(check=None):
        return RingBuffer(numbered(250), rows=32, batch=8, refill=0.5, seed=2, check=check)

    buffer, straight, other = fresh(check), fresh(), fresh()
    for _ in range(2):
        buffer.next()
        straight.next()
    stop.append(1)
    with pytest.raises(KeyboardInterrupt):
        buffer.next()
    numbers, tensors = buffer.state()
    other.restore(numbers, {name: value.clone() for name, value in tensors.items()})
    for _ in range(10):
        assert torch.equal(straight.next()[0], other.next()[0])


def test_rows_that_cannot_be_held_are_refused():
    with pytest.raises(NonFiniteError, match=r"expected finite rows, got nan at \(1, 0\)"):
        RingBuffer(ArrayStream(np.array([[1.0], [np.nan]])), rows=2, batch=1, seed=1, dtype="float16").next()
    with pytest.raises(ArgumentError, match=r"70000 does not fit float16; set data.dtype to bfloat16"):
        RingBuffer(ArrayStream(np.array([[7e4]])), rows=1, batch=1, dtype="float16").next()
    with pytest.raises(ShapeError, match=r"expected floats \[rows, width\], got float64 \(3,\)"):
        ArrayStream(np.ones(3))
    with pytest.raises(ShapeError, match="as many targets as rows"):
        ArrayStream(np.ones((3, 1)), np.ones((2, 1)))
    with pytest.raises(ShapeError, match="as many at each site"):
        ArrayStream(([np.ones((3, 1)), np.ones((3, 1))], [np.ones((3, 1)), np.ones((2, 1))]))
    blocks = IteratorStream([np.ones((2, 3)), np.ones((2, 4))])
    with pytest.raises(ShapeError, match=r"width \[3\] as the first, got \[4\]"):
        RingBuffer(blocks, rows=4, batch=1).next()


def test_array_on_disk_is_read_block_by_block(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).standard_normal((5000, 3)).astype(">f4"))
    mapped = np.load(tmp_path / "rows.npy", mmap_mode="r")  # read-only, and of the other byte order
    stream = ArrayStream(mapped, seed=1)
    first, second = stream.read()[0], stream.read()[0]
    assert first.shape == (4096, 3) and second.shape == (904, 3)
    seen = torch.cat([first, second]).numpy()
    assert np.array_equal(np.sort(seen[:, 0]), np.sort(mapped[:, 0]))


def test_iterator_that_is_too_short_to_resume():
    with pytest.raises(ArgumentError, match="at least the 3 blocks that were used before, got 2"):
        numbered(14).restore({"used": 3})
