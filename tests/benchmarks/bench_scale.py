"""Coders larger than is comfortable: a wide one over rows streamed from disk, and a cross-layer one of 160 GB.

    python tests/benchmarks/bench_scale.py [--rows 100000] [--d-in 2304] [--d-sae 65536] [--only stream|cross_layer]
                                           [--folder DIR] [--threads N] [--json FILE]

stream       A JumpReLU coder of the shape of Gemma Scope's, some 64 features active in a row, as ``params.npz``. Rows are random
             float32, made on the fly, and read from disk in batches. Reported: seconds to load and to encode, rows a second, and
             the high-water mark of the resident set (VmHWM) of the process that loads and encodes, against its limit of 1.5 GB.
cross_layer  26 layers of 98,304 features in circuit-tracer's format, bfloat16, in sparse files. The object is made and features
             are decoded; how much of the files that touched is counted in pages that are in memory afterwards (mincore).

Each runs in a process of its own. Results are checked: some rows against float64, the decoded rows against what was put there.
"""

import argparse
import ctypes
import json
import math
import mmap
import os
import pathlib
import struct
import subprocess
import sys
import tempfile
import time

import numpy as np

LIMIT = 1.5e9  # bytes that the streaming process may hold
BATCH = 2048
ACTIVE = 64
LAYERS, CLT_FEATURES, CLT_WIDTH = 26, 98_304, 2_304
PAGE = mmap.PAGESIZE


def status(name: str) -> int:
    """A line of /proc/self/status, in bytes: VmHWM, VmRSS."""
    for line in pathlib.Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


# ------------------------------------------------------------------------------------------------------------ streaming


def make_stream(folder: pathlib.Path, d_in: int, d_sae: int, rows: int) -> None:
    """The coder and the rows. Columns of the encoder have norm 1, so pre-activations of normal rows are normal."""
    from iam.formats._npz import write_npz

    rng = np.random.default_rng(0)
    threshold = -_quantile(ACTIVE / d_sae)
    W_enc = rng.standard_normal((d_in, d_sae), dtype=np.float32)
    W_enc /= np.float32(math.sqrt(d_in))
    W_dec = rng.standard_normal((d_sae, d_in), dtype=np.float32)
    W_dec /= np.float32(math.sqrt(d_in))
    bias = {"b_enc": np.zeros(d_sae, np.float32), "b_dec": rng.standard_normal(d_in, dtype=np.float32)}
    write_npz(
        folder / "params.npz",
        {"W_enc": W_enc, "W_dec": W_dec, "threshold": np.full(d_sae, threshold, np.float32), **bias},
    )
    with (folder / "rows.f32").open("wb") as file:
        for start in range(0, rows, BATCH):
            rng.standard_normal((min(BATCH, rows - start), d_in), dtype=np.float32).tofile(file)


def _quantile(p: float) -> float:
    """Where the normal distribution reaches ``p``, by bisection."""
    low, high = -12.0, 12.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if 0.5 * math.erfc(-middle / math.sqrt(2)) < p else (low, middle)
    return low


def run_stream(folder: pathlib.Path, d_in: int, rows: int) -> dict[str, float]:
    import iam

    before = status("VmRSS")
    start = time.perf_counter()
    sae = iam.formats.load(folder / "params.npz", kind="sae")
    loaded = time.perf_counter() - start
    after_load = status("VmHWM")
    active, worst, read = 0, 0.0, 0
    seconds = 0.0
    with (folder / "rows.f32").open("rb") as file:
        while read < rows:
            x = np.fromfile(file, np.float32, min(BATCH, rows - read) * d_in).reshape(-1, d_in)
            start = time.perf_counter()
            f = sae.encode(x)
            seconds += time.perf_counter() - start
            active += f.nnz
            worst = max(worst, _check(sae, x[-1], f[len(x) - 1].to_dense()))
            read += len(x)
            _show(f"{read:,} of {rows:,} rows, {read / seconds:,.0f} rows/s, {status('VmHWM') / 1e9:.2f} GB")
    weights = sum(array.nbytes for array in sae.parameters().values())
    return {
        "rows": rows, "d_in": d_in, "d_sae": sae.d_sae, "load_seconds": loaded, "encode_seconds": seconds,
        "rows_per_second": rows / seconds, "l0": active / rows, "largest_error": worst, "weight_bytes": weights,
        "rss_before": before, "hwm_after_load": after_load, "hwm": status("VmHWM"), "rows_bytes": rows * d_in * 4,
    }  # fmt: skip


def _check(sae, x: np.ndarray, found: np.ndarray) -> float:
    """The largest difference between one row's features and their definition, some columns at a time, in float64."""
    worst = 0.0
    for start in range(0, sae.d_sae, 512):
        part = slice(start, start + 512)
        pre = x.astype(np.float64) @ sae.W_enc[:, part].astype(np.float64) + sae.b_enc[part]
        near = np.abs(pre - sae.threshold[part]) < 1e-4  # either side of the threshold is right within rounding
        expected = np.where(pre > sae.threshold[part], np.maximum(pre, 0), 0)
        worst = max(worst, float(np.abs(np.where(near, 0, expected - found[part])).max()))
    if worst > 1e-4:
        raise SystemExit(f"wrong: features differ by {worst} from their definition")
    return worst


def _show(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------- cross-layer


def make_cross_layer(folder: pathlib.Path) -> None:
    """Files of holes with a few decoder rows that say which they are: row f of layer i writes i + 1 to every place."""
    for i in range(LAYERS):
        tensors = {f"W_enc_{i}": (CLT_FEATURES, CLT_WIDTH), f"b_enc_{i}": (CLT_FEATURES,), f"b_dec_{i}": (CLT_WIDTH,),
                   f"threshold_{i}": (CLT_FEATURES,)}  # fmt: skip
        _holes(folder / f"W_enc_{i}.safetensors", tensors)
        width = (LAYERS - i) * CLT_WIDTH
        path = folder / f"W_dec_{i}.safetensors"
        data = _holes(path, {f"W_dec_{i}": (CLT_FEATURES, LAYERS - i, CLT_WIDTH)})
        bits = np.float32(i + 1).view(np.uint32) >> 16  # small integers are exact in bfloat16
        with path.open("r+b") as file:
            for feature in used_features(i):
                file.seek(data + int(feature) * width * 2)
                np.full(width, bits, np.uint16).tofile(file)
        _forget(path)


def used_features(layer: int, count: int = 16) -> np.ndarray:
    return np.sort(np.random.default_rng(layer).choice(CLT_FEATURES, count, replace=False)).astype(np.int32)


def _holes(path: pathlib.Path, tensors: dict[str, tuple[int, ...]]) -> int:
    header, begin = {}, 0
    for name, shape in tensors.items():
        end = begin + 2 * math.prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + begin)
    return 8 + len(text)


def _forget(path: pathlib.Path) -> None:
    """Put the file's pages on disk and out of memory."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def resident(path: pathlib.Path) -> int:
    """How many bytes of a file are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    size = path.stat().st_size
    with path.open("rb") as file, mmap.mmap(file.fileno(), size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE) as view:  # fmt: skip
        pages = (ctypes.c_ubyte * (-(-size // PAGE)))()
        at = ctypes.c_char.from_buffer(view)
        failed = libc.mincore(ctypes.c_void_p(ctypes.addressof(at)), ctypes.c_size_t(size), pages)
        del at
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
    return int((np.frombuffer(pages, np.uint8) & 1).sum()) * PAGE


def run_cross_layer(folder: pathlib.Path) -> dict[str, float]:
    import iam
    from iam import SparseFeatures

    iam.CrossLayerTranscoder, iam.formats.load  # noqa: B018 - imports are no part of opening
    decoders = [folder / f"W_dec_{i}.safetensors" for i in range(LAYERS)]
    start, cpu = time.perf_counter(), time.process_time()
    clt = iam.formats.load(folder)
    opened, cpu = time.perf_counter() - start, time.process_time() - cpu
    cold = sum(resident(path) for path in decoders)
    rows, k = 4, 16
    features = [
        SparseFeatures(
            np.ones((rows, k), np.float32), np.tile(used_features(i, k), (rows, 1)), None, CLT_FEATURES, (rows,)
        )
        for i in range(LAYERS)
    ]
    start = time.perf_counter()
    out = clt.decode(features)
    decoded = time.perf_counter() - start
    for layer, y in enumerate(out):
        expected = k * sum(range(1, layer + 2))
        if not np.all(y == expected):
            raise SystemExit(f"wrong: layer {layer} gives {y.ravel()[:3]}, expected {expected}")
    used = sum(k * (LAYERS - i) * CLT_WIDTH * 2 for i in range(LAYERS))
    return {
        "bytes": sum(item.stat().st_size for item in folder.iterdir()), "layers": LAYERS, "open_seconds": opened, "open_cpu_seconds": cpu,
        "decode_seconds": decoded, "bytes_of_used_rows": used, "bytes_in_memory_before": cold,
        "bytes_in_memory": sum(resident(path) for path in decoders), "hwm": status("VmHWM"),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------------------- in turns


def child(args: argparse.Namespace, *step: str) -> dict[str, float]:
    """One step in a fresh process."""
    command = [sys.executable, __file__, "--step", *step, "--folder", str(args.folder), "--rows", str(args.rows),
               "--d-in", str(args.d_in), "--d-sae", str(args.d_sae)]  # fmt: skip
    environment = os.environ | ({"IAM_NUM_THREADS": str(args.threads)} if args.threads else {})
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment)
    return json.loads(done.stdout) if done.stdout.strip() else {}


def step(args: argparse.Namespace) -> None:
    result: dict[str, float] | None = None
    if args.step == "make_stream":
        make_stream(args.folder, args.d_in, args.d_sae, args.rows)
    elif args.step == "stream":
        result = run_stream(args.folder, args.d_in, args.rows)
    elif args.step == "make_cross_layer":
        make_cross_layer(args.folder)
    else:
        result = run_cross_layer(args.folder)
    if result is not None:
        print(json.dumps(result))


def report(results: dict[str, dict[str, float]]) -> None:
    if r := results.get("stream"):
        print(
            f"stream: {r['d_in']:.0f} x {r['d_sae']:,.0f}, {r['rows']:,.0f} rows of {r['rows_bytes'] / 1e9:.2f} GB from disk: loaded in "
            f"{r['load_seconds']:.1f} s, encoded in {r['encode_seconds']:.1f} s, {r['rows_per_second']:,.0f} rows/s, L0 {r['l0']:.1f}, "
            f"largest error {r['largest_error']:.1e}"
        )
        print(
            f"        VmHWM {r['hwm'] / 1e9:.3f} GB (weights {r['weight_bytes'] / 1e9:.3f} GB, after loading "
            f"{r['hwm_after_load'] / 1e9:.3f} GB, before {r['rss_before'] / 1e9:.3f} GB); limit {LIMIT / 1e9} GB: "
            f"{'kept' if r['hwm'] < LIMIT else 'MISSED'}"
        )
    if r := results.get("cross_layer"):
        print(
            f"cross_layer: {r['bytes'] / 1e9:.0f} GB in {r['layers']:.0f} layers: opened in {r['open_seconds'] * 1e3:.0f} ms ({r['open_cpu_seconds'] * 1e3:.0f} ms of one CPU), decoded in "
            f"{r['decode_seconds'] * 1e3:.0f} ms; rows used {r['bytes_of_used_rows'] / 1e6:.1f} MB, of the decoders in memory "
            f"{r['bytes_in_memory_before'] / 1e6:.1f} MB before and {r['bytes_in_memory'] / 1e6:.1f} MB after; VmHWM {r['hwm'] / 1e6:.0f} MB"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--d-in", type=int, default=2304)
    parser.add_argument("--d-sae", type=int, default=65_536)
    parser.add_argument("--only", choices=["stream", "cross_layer"])
    parser.add_argument("--folder", type=pathlib.Path, help="where the files go; by default a temporary folder")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--step", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        step(args)
        return
    results = {}
    with tempfile.TemporaryDirectory(dir=args.folder) as place:
        for name in ("stream", "cross_layer"):
            if args.only in (None, name):
                args.folder = pathlib.Path(place) / name
                args.folder.mkdir()
                child(args, f"make_{name}")
                results[name] = child(args, name)
    report(results)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
