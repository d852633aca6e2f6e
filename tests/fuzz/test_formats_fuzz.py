"""Damaged weight files of every format: each loads as a consistent coder or raises FormatError.

The cases run in a child process, so that a crash is a finding and not the end of the test run. There, each case has a time
limit; what it allocates is measured by tracemalloc (NumPy's arrays are counted) and the address space is limited, so that
an allocation that a file asks for and does not justify fails. A failing case prints its format and number, and

    python tests/fuzz/test_formats_fuzz.py FORMAT NUMBER

runs it alone. ``IAM_FUZZ_CASES`` makes it more cases per format than the 260 of every run.
"""

import contextlib
import json
import os
import pathlib
import random
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import traceback
import tracemalloc

import numpy as np
import pytest

CASES = int(os.environ.get("IAM_FUZZ_CASES", "260"))
SECONDS = 5
FACTOR = 4
OVERHEAD = 256 << 10  # bytes: parsed headers, messages, names; of files of some 70 KB
D, F, LAYERS = 32, 128, 3

NUMBERS = [
    0,
    1,
    -1,
    2,
    7,
    D,
    F,
    D + 1,
    F - 1,
    255,
    65_536,
    2**31 - 1,
    2**31,
    2**32,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    2**200,
]
VALUES = [*NUMBERS, None, True, False, 0.5, -1.5, 1e308, "", "topk", "F32", "BF16", [], [1], {}, {"a": 1}, "x" * 300]
DTYPES = ["F32", "F16", "BF16", "F64", "I32", "I64", "I8", "U8", "BOOL", "C64", "F8_E4M3", "F33"]


# The files that are damaged.


def records():
    """Format -> records that it holds."""
    from iam.formats._raw import RawCoder, expected_shapes

    def make(kind, architecture, *, skip=False, **more):
        values = {
            "source": "fuzz",
            "kind": kind,
            "architecture": architecture,
            "d_in": D,
            "d_out": D,
            "d_sae": F,
            **more,
        }
        values.setdefault("n_layers", LAYERS if kind in ("cross_layer", "crosscoder") else 1)
        if architecture == "topk":
            values["k"] = 4
        sizes = type("Sizes", (), {"normalize_activations": "none", **values})
        rng = np.random.default_rng(0)
        tensors = {
            name: rng.random(shape).astype(np.float32)
            for name, shape in expected_shapes(sizes)[0].items()
            if skip or not name.startswith("W_skip")
        }
        return RawCoder(**values, tensors=tensors)

    return {
        "saelens": [
            make("sae", "jumprelu"),
            make("sae", "topk", dtype="bfloat16"),
            make("transcoder", "standard", skip=True),
        ],
        "gemma_scope": [make("sae", "jumprelu"), make("transcoder", "jumprelu")],
        "gemma_scope_2": [make("transcoder", "jumprelu", skip=True, dtype="bfloat16"), make("cross_layer", "jumprelu")],
        "circuit_tracer": [make("transcoder", "topk"), make("transcoder", "jumprelu", dtype="float16")],
        "circuit_tracer_clt": [make("cross_layer", "jumprelu", dtype="bfloat16")],
        "sparsify": [make("sae", "topk", apply_b_dec_to_input=True), make("transcoder", "topk", skip=True)],
        "dictionary_learning": [make("sae", "gated", apply_b_dec_to_input=True), make("sae", "jumprelu")],
        "iam": [
            make("sae", "topk", dtype="int8"),
            make("cross_layer", "gated", skip=True, dtype="int8"),
            make("transcoder", "jumprelu", skip=True, dtype="bfloat16"),
            make("crosscoder", "standard", dtype="float16", apply_b_dec_to_input=True),
        ],
        "llama_scope_r1": [make("sae", "jumprelu")],
        "state_dict": [make("sae", "topk")],
        "llama_scope": [make("sae", "jumprelu", normalize_activations="expected_average_only_in", norm_scale=0.5)],
    }


def write_released(folder, name, raw):
    """Files of formats that IAM reads and does not write, as their tools leave them."""
    from iam.formats import write_safetensors
    from iam.formats._checkpoint import write_checkpoint

    w = {key: np.asarray(tensor) for key, tensor in raw.tensors.items()}
    folder.mkdir(parents=True)
    if name == "state_dict":
        state = {"W_enc": w["W_enc"].T, "W_dec": w["W_dec"].T, "b_enc": w["b_enc"], "b_dec": w["b_dec"]}
        write_checkpoint(folder / "SAE-Res-X-W1K-L0_4-layer3.sae.pt", state)
        return
    hook = "blocks.3.hook_resid_post"
    stored = {"encoder.weight": w["W_enc"].T, "encoder.bias": w["b_enc"], "decoder.weight": w["W_dec"].T, "decoder.bias": w["b_dec"],
              "log_jumprelu_threshold": w["threshold"], f"dataset_average_activation_norm.{hook}": np.float32(8).reshape(())}  # fmt: skip
    write_safetensors(folder / "sae_weights.safetensors", stored)
    config = {
        "d_model": D,
        "hook_point_in": hook,
        "norm_activation": "dataset-wise",
        "sparsity_include_decoder_norm": True,
    }
    (folder / "config.json").write_text(json.dumps(config))


def same_thresholds(raw):
    raw.tensors["threshold"][:] = 0.25


# Ways to damage a file.


def truncate(data, rnd):
    return data[: rnd.randrange(len(data) + 1)]


def cut_out(data, rnd):
    start = rnd.randrange(len(data))
    return data[:start] + data[start + rnd.choice([1, 4, 8, 100]) :]


def extend(data, rnd):
    return data + rnd.randbytes(rnd.choice([1, 4, 8, 1000]))


def flip(data, rnd):
    changed = bytearray(data)
    for _ in range(rnd.choice([1, 1, 2, 8, 64])):
        # headers are at the beginning, of archives also at the end
        at = rnd.choice(
            [
                rnd.randrange(len(data)),
                rnd.randrange(min(600, len(data))),
                len(data) - 1 - rnd.randrange(min(600, len(data))),
            ]
        )
        changed[at] ^= 1 << rnd.randrange(8)
    return bytes(changed)


def number(data, rnd):
    """Put an extreme number where some bytes are."""
    width = rnd.choice([1, 2, 4, 8])
    raw = (rnd.choice(NUMBERS) % (1 << (8 * width))).to_bytes(width, "little")
    at = rnd.choice(
        [0, rnd.randrange(len(data)), rnd.randrange(min(600, len(data))), max(0, len(data) - rnd.randrange(1, 400))]
    )
    return data[:at] + raw + data[at + width :]


def digits(data, rnd):
    """Change a number that is written out, as in the headers of safetensors, npy and JSON."""
    places = [i for i in range(min(len(data), 3000)) if 48 <= data[i] <= 57]
    if not places:
        return flip(data, rnd)
    at = rnd.choice(places)
    digit = rnd.choice([b"0", b"1", b"9", b"99999999", b"9" * 30, b"-1", b"", b"1e9", b"2.5"])
    return data[:at] + digit + data[at + 1 :]


def word(data, rnd):
    """Change a word, keeping or not keeping the length."""
    pairs = [(b"<f4", b"<f8"), (b"<f4", b"<c8"), (b"<f4", b"|O8"), (b"False", b"True "), (b"F32", b"F64"), (b"BF16", b"I16 "),
             (b"shape", b"shapf"), (b"W_", b"V_"), (b"float", b"Float"), (b"b_dec", b"b_enc"), (b"topk", b"relu"),
             (b"jump", b"jmup"), (b"{", b"["), (b",", b";"), (b"}", b"")]  # fmt: skip
    rnd.shuffle(pairs)
    for old, new in pairs:
        if old in data[:4000] or old in data[-4000:]:
            return data.replace(old, new, rnd.choice([1, 1, 100]))
    return flip(data, rnd)


def header(data, rnd):
    """Rewrite the header of a safetensors file, or a JSON config."""
    if data[:1] == b"{":
        return json.dumps(change(json.loads(data), rnd)).encode()
    length = int.from_bytes(data[:8], "little")
    if length > len(data) or data[8:9] != b"{":
        return number(data, rnd)
    entries = json.loads(data[8 : 8 + length])
    names = [name for name in entries if name != "__metadata__"]
    name = rnd.choice(names)
    entry = entries[name]
    kind = rnd.randrange(9)
    if kind == 0:
        entry["dtype"] = rnd.choice(DTYPES)
    elif kind == 1:
        entry["shape"] = [rnd.choice(NUMBERS) for _ in range(rnd.randrange(5))]
    elif kind == 2:
        entry["shape"] = entry["shape"][::-1]
    elif kind == 3:
        entry["data_offsets"] = [rnd.choice(NUMBERS), rnd.choice(NUMBERS)]
    elif kind == 4:
        other = rnd.choice(names)
        entries[name], entries[other] = entries[other], entries[name]
    elif kind == 5:
        entries[rnd.choice(["W_skip", "x", "threshold", "W_dec", ""])] = entries.pop(name)
    elif kind == 6:
        del entries[name]
    elif kind == 7:  # more elements than bytes, by a type of the same size
        entry["dtype"], entry["shape"] = "BF16", [*entry["shape"], 2]
    else:
        entries[name] = rnd.choice(VALUES)
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + length :]


def change(document, rnd):
    """One value of a JSON document changed, removed or added."""
    places = [(document, key) for key in document]
    places += [(inner, key) for inner in document.values() if isinstance(inner, dict) for key in inner]
    if not places or rnd.random() < 0.1:
        return rnd.choice(VALUES)
    place, key = rnd.choice(places)
    kind = rnd.randrange(4)
    if kind == 0:
        del place[key]
    elif kind == 1:
        place[rnd.choice(["k", "d_in", "new", "W_enc"])] = place[key]
    else:
        place[key] = rnd.choice(VALUES)
    return document


WAYS = [truncate, cut_out, extend, flip, flip, number, digits, word, header, header]


def damage(folder, rnd):
    """Damage one file of a folder; says which and how."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    path = rnd.choice(files)
    if rnd.random() < 0.05:
        kind = rnd.choice(["remove", "empty", "swap", "folder"])
        other = rnd.choice(files)
        if kind == "swap":
            a, b = path.read_bytes(), other.read_bytes()
            path.write_bytes(b)
            other.write_bytes(a)
        elif kind == "empty":
            path.write_bytes(b"")
        else:
            path.unlink()
            if kind == "folder":
                path.mkdir()
        return path, kind
    way = rnd.choice(WAYS)
    path.write_bytes(way(path.read_bytes(), rnd))
    return path, way.__name__


# One case.


def check(folder, name, explicit):
    """Load what is there. Returns whether it loaded; anything but FormatError is a finding."""
    from iam.core.errors import FormatError
    from iam.formats import _detect
    from iam.formats._build import build
    from iam.formats._lazy import LazyTensor

    if name == "state_dict":  # is opened only when the file itself is named
        folder = next(iter(folder.iterdir()), folder)
    try:
        raw = _detect.load_raw(folder, name if explicit else None)
        for tensor in raw.tensors.values():
            if isinstance(tensor, LazyTensor):
                tensor.rows([0, tensor.shape[0] - 1])
            else:
                assert np.isfinite(tensor).all() and tensor.dtype == np.float32
        build(raw)
    except FormatError as error:
        if not 0 < len(str(error)) < 100_000:
            raise RuntimeError(f"a message of {len(str(error))} characters") from error
        return False
    assert raw.d_sae >= 1 and raw.tensors  # shapes and names are checked by the record
    return True


def expired(*_):
    raise TimeoutError(f"longer than {SECONDS} s")


def run(name, numbers, good):
    """Run cases; yields their results."""
    for case in numbers:
        rnd = random.Random(f"{name} {case}")
        with tempfile.TemporaryDirectory() as place:
            folder = pathlib.Path(place) / "x"
            shutil.copytree(rnd.choice(good), folder)
            path, way = damage(folder, rnd)
            size = sum(item.stat().st_size for item in folder.rglob("*") if item.is_file())
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            result = {"format": name, "case": case, "way": way, "file": path.name}
            try:
                result["loaded"] = check(folder, name, explicit=rnd.random() < 0.5)
            except BaseException:  # noqa: BLE001 - whatever it is, it is the finding
                result["error"] = traceback.format_exc()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            result["peak"] = tracemalloc.get_traced_memory()[1] - before
            result["allowed"] = FACTOR * size + OVERHEAD
            if result["peak"] > result["allowed"] and "error" not in result:
                result["error"] = f"allocated {result['peak']} bytes for {size} bytes of files"
        yield result


def main(names, numbers):
    import warnings

    import iam.formats

    warnings.simplefilter("error")
    signal.signal(signal.SIGALRM, expired)
    results = []
    with tempfile.TemporaryDirectory() as place:
        for name, raws in records().items():
            if name not in names:
                continue
            good = []
            for i, raw in enumerate(raws):
                if name == "llama_scope":
                    same_thresholds(raw)
                good.append(pathlib.Path(place) / name / str(i))
                if iam.formats.FORMATS[name].written:
                    iam.formats._detect.save_raw(raw, good[-1], format=name)
                else:
                    write_released(good[-1], name, raw)
                assert check(good[-1], name, explicit=False), name  # it loads undamaged; and modules are imported
            soft = resource.getrlimit(resource.RLIMIT_AS)
            used = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096 if sys.platform == "linux" else 0
            if used:
                resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), soft[1]))
            tracemalloc.start()
            for result in run(name, numbers, good):
                results.append(result)
                if "error" in result:
                    print(json.dumps(result), flush=True)
            tracemalloc.stop()
            with contextlib.suppress(ValueError):
                resource.setrlimit(resource.RLIMIT_AS, soft)
    summary = {
        "cases": len(results),
        "findings": sum("error" in result for result in results),
        "loaded": sum(result.get("loaded", False) for result in results),
        "formats": sorted({result["format"] for result in results}),
        "ways": sorted({result["way"] for result in results}),
    }
    print(json.dumps(summary), flush=True)


def test_damaged_files_of_every_format():
    pytest.importorskip("torch")
    pytest.importorskip("yaml")
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", __file__], capture_output=True, text=True, timeout=600, check=False
    )
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    assert done.returncode == 0, f"the child died: {done.returncode}\n{done.stderr[-3000:]}\n{lines[-1:]}"
    summary = lines[-1]
    assert summary["findings"] == 0, "\n".join(
        f"{line['format']} {line['case']} ({line['way']} of {line['file']}): {line['error']}" for line in lines[:-1][:5]
    )
    assert summary["cases"] >= 2000 and len(summary["formats"]) == 11
    # damage that is noticed, and damage that hits only a value of a weight: the cases reach both ends
    assert 0.05 < summary["loaded"] / summary["cases"] < 0.8, summary


if __name__ == "__main__":
    main(sys.argv[1:2] or list(records()), [int(each) for each in sys.argv[2:]] or range(CASES))
