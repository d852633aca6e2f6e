"""Parts of a model in compiled programs: what crosses, what is shared, and what goes wrong."""

import gc
import threading
import weakref

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tiny_models import build  # noqa: E402

import iam  # noqa: E402
from iam.errors import ShapeError, SiteError, TraceError  # noqa: E402

IDS = [[5, 9, 3, 60, 2, 8], [7, 1, 33, 4, 21, 6]]


@pytest.fixture(scope="module")
def model(one_thread):
    return build("llama")


@iam.jit
def through(prompt, strength):
    h = prompt.run(to="resid_post.0")
    return prompt.run(h * strength, from_="resid_post.0", to="resid_post.2")


def test_a_program_runs_what_the_prompt_runs(model):
    prompt = model.on(IDS)
    h = prompt.run(to="resid_post.0")
    found = through(prompt, 2.0)
    assert found.shape == (2, 6, 32)
    torch.testing.assert_close(found, prompt.run(2 * h, from_="resid_post.0", to="resid_post.2"))


def test_one_recording_serves_other_prompts(model):
    through(model.on(IDS), 1.0)
    before = through.stats()["recordings"]
    other = model.on([[4, 8, 15]])
    torch.testing.assert_close(through(other, 1.0), other.run(to="resid_post.2"), rtol=0, atol=1e-6)
    assert through.stats()["recordings"] == before


def test_activations_of_a_call_join_those_of_the_model(model):
    prompt = model.on(IDS)
    add = iam.jit(lambda prompt, x: prompt.run(to="resid_post.1") + x)
    x = torch.ones(2, 6, 32)
    torch.testing.assert_close(add(prompt, x), prompt.run(to="resid_post.1") + 1)
    with pytest.raises(ShapeError, match=r"of the same leading dimensions, got \(2, 6\) and \(2, 5\)"):
        add(prompt, torch.ones(2, 5, 32))


def test_chosen_positions_have_rows_of_their_own(model):
    prompt = model.on(IDS)
    last = iam.jit(lambda prompt: prompt.run(to="logits", tokens=[3, 4], positions=[-1]))
    torch.testing.assert_close(last(prompt), prompt.run(to="logits", tokens=[3, 4], positions=[-1])[:, 0])
    mixed = iam.jit(lambda prompt: prompt.run(to="resid_post.1", positions=[0]) + prompt.run(to="resid_post.1"))
    with pytest.raises(ShapeError, match="chosen positions of a prompt only"):
        mixed(prompt)


def test_what_the_model_raises_reaches_the_caller(model):
    prompt = model.on(IDS)
    through(prompt, 1.0)

    class Broken(Exception):
        pass

    def fail(*_):
        raise Broken("on purpose")

    handle = model._blocks[1].register_forward_hook(fail)
    try:
        with pytest.raises(Broken, match="on purpose"):
            through(prompt, 1.0)
    finally:
        handle.remove()
    assert torch.isfinite(through(prompt, 1.0)).all()  # nothing of the failure is left


def test_a_failure_in_a_gradient_leaves_nothing_behind(model):
    prompt = model.on(IDS)

    @iam.jit
    def gradient(prompt):
        h = prompt.run(to="resid_post.0")
        points, weights = iam.ops.path(h, 0 * h, steps=3)

        def metric(h):
            return prompt.run(h, from_="resid_post.0", to="logits", tokens=[3], positions=[-1])[:, 0]

        return iam.ops.grad(metric, h, 0 * h, points, weights) + h

    expected = gradient(prompt)

    def interrupt(*_):
        raise KeyboardInterrupt

    handle = model._blocks[2].register_forward_hook(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            gradient(prompt)
    finally:
        handle.remove()
    torch.testing.assert_close(gradient(prompt), expected)


def test_results_own_their_memory(model):
    """What the model made is taken over without a copy, and is still good when the model has gone on."""
    prompt = model.on(IDS)
    read = iam.jit(lambda prompt: prompt.run(to="resid_post.1"))
    first = read(prompt)
    kept = first.clone()
    for _ in range(5):
        read(prompt)
        through(prompt, 3.0)
    gc.collect()
    torch.testing.assert_close(first, kept, rtol=0, atol=0)


def test_a_segment_that_computes_nothing_is_a_copy(model):
    """From a block's end to the next one's start: a program that writes over it leaves the argument alone."""
    prompt = model.on(IDS)
    v, w = torch.randn(32), torch.randn(32)

    @iam.jit
    def edited(prompt, x):
        y = prompt.run(x, from_="resid_post.0", to="resid_pre.1")
        return iam.steer(iam.steer(y, v, 1.0, "ablate"), w, 1.0, "clamp")

    x = torch.randn(2, 6, 32)
    before = x.clone()
    torch.testing.assert_close(edited(prompt, x), iam.steer(iam.steer(before, v, 1.0, "ablate"), w, 1.0, "clamp"))
    torch.testing.assert_close(x, before, rtol=0, atol=0)
    prompt.run(x, from_="resid_post.0", to="resid_pre.1").zero_()
    torch.testing.assert_close(x, before, rtol=0, atol=0)


def test_prompts_are_not_kept_alive(model):
    prompt = model.on(IDS)
    through(prompt, 1.0)
    gone = weakref.ref(prompt)
    del prompt
    gc.collect()
    assert gone() is None


def test_a_gradient_leaves_the_model_as_it_was(model):
    """Weights are not part of a linearised segment, and record gradients again after it, also after a failure."""
    before = [p.requires_grad for p in model.model.parameters()]
    assert any(before)
    prompt = model.on(IDS)
    h = prompt.run(to="resid_post.0").reshape(-1, 32)
    y, tape = prompt.segment(h, "resid_post.0", "resid_post.2", None, None, tape=True)
    assert tape.pullback(np.ones(y.shape, np.float32)).shape == h.shape
    assert [p.requires_grad for p in model.model.parameters()] == before
    handle = model._blocks[2].register_forward_hook(lambda *_: 1 / 0)
    try:
        with pytest.raises(ZeroDivisionError):
            prompt.segment(h, "resid_post.0", "resid_post.2", None, None, tape=True)
    finally:
        handle.remove()
    assert [p.requires_grad for p in model.model.parameters()] == before


def test_threads_take_turns(model):
    prompts = [model.on([[i + 1, i + 2, i + 3]]) for i in range(4)]
    expected = [through(prompt, 1.5) for prompt in prompts]
    found = [None] * 4

    def work(i):
        for _ in range(5):
            found[i] = through(prompts[i], 1.5)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_sites_are_checked_while_recording(model):
    wrong = iam.jit(lambda prompt: prompt.run(prompt.run(to="mlp_in.1"), from_="mlp_out.1", to="resid_post.2"))
    with pytest.raises(SiteError, match=r"h is an activation of mlp_in\.1 and is put in at mlp_out\.1"):
        wrong(model.on(IDS))


def test_prompts_are_arguments(model):
    prompt = model.on(IDS)
    closed = iam.jit(lambda x: prompt.run(x, from_="resid_post.0", to="resid_post.1"))
    with pytest.raises(TraceError, match="make it a parameter"):
        closed(np.zeros((12, 32), np.float32))


def test_explain_shows_the_parts(model):
    text = str(through.explain(model.on(IDS), 1.0))
    assert "iam.model.run" in text


MASKS = {"whole": [[1] * 6] * 2, "left": [[0, 0, 1, 1, 1, 1], [1] * 6], "right": [[1] * 6, [1, 1, 1, 0, 0, 0]]}


class TestVariants:
    """Runs of one segment on several inputs are one run of the model."""

    @staticmethod
    def study(prompt, v, **keywords):
        h = prompt.run(to="resid_post.0")
        changed = [h, h + v, iam.steer(h, v, 0.5, "ablate"), 2 * h]
        return [prompt.run(x, from_="resid_post.0", **keywords) for x in changed]

    @pytest.mark.parametrize("mask", MASKS)
    @pytest.mark.parametrize(
        "keywords",
        [{"to": "resid_post.2"}, {"to": "logits", "tokens": [3, 4], "positions": [-1]}, {"to": "logits"}],
        ids=["site", "positions", "logits"],
    )
    def test_each_gets_its_own(self, model, mask, keywords):
        v = np.linspace(-1, 1, 32, dtype=np.float32)
        prompt = model.on(IDS, attention_mask=torch.tensor(MASKS[mask]))
        program = iam.jit(lambda prompt: self.study(prompt, v, **keywords))
        h = prompt.run(to="resid_post.0")
        rows = h.reshape(-1, 32)
        changed = [rows, rows + torch.from_numpy(v), iam.steer(rows, v, 0.5, "ablate"), 2 * rows]
        for found, x in zip(program(prompt), changed, strict=True):
            expected = prompt.run(x.reshape(h.shape), from_="resid_post.0", **keywords)
            torch.testing.assert_close(found.reshape(expected.shape), expected, rtol=0, atol=1e-5)
        assert program.mlir("llvm").count("call @iam_rt_model_run") == 2

    def test_the_model_runs_once_for_all(self, model):
        calls = []
        block = model.model.model.layers[2]
        handle = block.register_forward_hook(lambda _block, args, _output: calls.append(tuple(args[0].shape)))
        try:
            iam.jit(lambda prompt: self.study(prompt, np.ones(32, np.float32), to="resid_post.2"))(model.on(IDS))
        finally:
            handle.remove()
        assert calls == [(8, 6, 32)]

    def test_a_failure_in_one_reaches_the_caller(self, model):
        def fails(_block, _args, _output):
            raise KeyError("of the hook")

        program = iam.jit(lambda prompt: self.study(prompt, np.ones(32, np.float32), to="resid_post.2"))
        handle = model.model.model.layers[2].register_forward_hook(fails)
        try:
            with pytest.raises(KeyError, match="of the hook"):
                program(model.on(IDS))
        finally:
            handle.remove()
        assert len(program(model.on(IDS))) == 4
