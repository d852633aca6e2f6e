"""The on-disk cache of compiled programs: hits, keys, damage, concurrent writers, eviction; and the loader of object code."""

import json
import os
import pathlib
import struct
import subprocess
import sys
import textwrap
import threading

import numpy as np
import pytest

import iam
from iam.compiler import _disk, _engine, _object, compile_module

pytestmark = pytest.mark.skipif(_object.supported() is not None, reason="object code is only kept on Linux for x86-64")

X = np.arange(12, dtype=np.float32).reshape(2, 6)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty cache, and no memory of what this process has compiled."""
    monkeypatch.setenv("IAM_CACHE_DIR", str(tmp_path))
    monkeypatch.delenv("IAM_CACHE", raising=False)
    monkeypatch.setattr(_engine, "_PROGRAMS", type(_engine._PROGRAMS)())
    return tmp_path / "programs"


def forget(monkeypatch):
    """As a new process would begin."""
    monkeypatch.setattr(_engine, "_PROGRAMS", type(_engine._PROGRAMS)())


def program(number=2.0):
    return iam.jit(lambda x: x * number + 1.0, name="affine")


def run(number=2.0):
    """A first call in a function of its own: whether it was right, and whether the code came from the disk."""
    function = program(number)
    assert np.array_equal(function(X), X * np.float32(number) + 1)
    assert function.stats()["compilations"] == 1
    return bool(function.stats()["cache_hits"])


def files(folder):
    return sorted(folder.glob("*.iamobj"))


def test_the_second_process_compiles_nothing(folder):
    code = """
    import json, sys
    import numpy as np
    import iam
    rng = np.random.default_rng(0)
    cfg = iam.SAEConfig(architecture="topk", d_in=6, d_sae=21, k=4)
    draw = lambda *s: rng.normal(size=s).astype(np.float32)
    sae = iam.SAE(cfg, W_enc=draw(6, 21), b_enc=draw(21), W_dec=draw(21, 6), b_dec=draw(6))
    x = draw(5, 6)

    @iam.jit
    def steered(x, s):
        f = sae.encode(x)
        return f, x + sae.decode(f.set([7], s)) - sae.decode(f)

    f, y = steered(x, 3.0)
    print(json.dumps({"stats": steered.stats(), "y": y.tolist(), "f": f.to_dense().tolist(),
                      "compiler": "iam.mlir.ir" in sys.modules}))
    """
    found = []
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True, timeout=300
        )
        found.append(json.loads(done.stdout))
    cold, warm = found
    assert not cold["stats"]["cache_hits"]
    assert warm["stats"]["cache_hits"] == warm["stats"]["compilations"] == 1
    assert not warm["compiler"]  # MLIR is not even loaded
    assert warm["y"] == cold["y"]
    assert warm["f"] == cold["f"]
    assert len(files(folder)) == 1


def test_hits_and_what_the_key_depends_on(folder, monkeypatch):
    assert not run()
    forget(monkeypatch)
    assert run()
    assert not run(3.0)  # another constant is another program
    forget(monkeypatch)
    assert not program(2.0).lower(X[:, :4])._specialization.native.from_disk  # another width
    for change in (
        lambda: monkeypatch.setattr(_disk, "_cpu", lambda: "another CPU"),
        lambda: monkeypatch.setattr(_disk, "_build", lambda: ["another version"]),
    ):
        change()
        forget(monkeypatch)
        assert not run()
        forget(monkeypatch)
        assert run()


def test_donating_is_another_program(folder, monkeypatch):
    assert not run()
    forget(monkeypatch)
    donates = iam.jit(lambda x: x * 2.0 + 1.0, donate="x")
    given = X.copy()
    assert donates(given) is given
    assert not donates.stats()["cache_hits"]
    forget(monkeypatch)
    donates, given = iam.jit(lambda x: x * 2.0 + 1.0, donate="x"), X.copy()
    assert donates(given) is given
    assert donates.stats()["cache_hits"]
    assert np.array_equal(given, X * 2 + 1)


def test_levels_of_the_kernels_are_keys(folder):
    from iam import _runtime

    before = _runtime.cpu_level()
    keys = set()
    try:
        for level in _runtime.available_cpu_levels():
            _runtime.set_cpu_level(level)
            keys.add(_disk.key_of("program", "options"))
        assert len(keys) == len(_runtime.available_cpu_levels())
    finally:
        _runtime.set_cpu_level(before)
    assert _disk.key_of("program", "options") != _disk.key_of("program", "other options")


def test_names_and_lines_are_no_keys(folder, monkeypatch):
    assert not run()
    forget(monkeypatch)
    other = iam.jit(lambda activations: activations * 2.0 + 1.0)
    other(X)
    assert other.stats()["cache_hits"] == 1


def test_stages_are_there_although_nothing_was_compiled(folder, monkeypatch):
    run()
    forget(monkeypatch)
    function = program()
    function(X)
    assert function.stats()["cache_hits"]
    assert "arith.mulf" in function.mlir()
    assert "llvm.func" in function.mlir("llvm")


def test_programs_given_as_text(folder, monkeypatch):
    text = """
    func.func @double(%x: tensor<?x6xf32>) -> tensor<?x6xf32> {
      %y = arith.addf %x, %x : tensor<?x6xf32>
      return %y : tensor<?x6xf32>
    }"""
    for from_disk in (False, True):
        forget(monkeypatch)
        double = compile_module(text)
        assert np.array_equal(double(X), X * 2)
        assert double._native.from_disk is from_disk


# Damage.


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: data[: len(data) // 2],
        lambda data: data + b"\0",
        lambda data: data[:200] + bytes([data[200] ^ 1]) + data[201:],
        lambda data: data[:-5] + bytes([data[-5] ^ 0x80]) + data[-4:],
        lambda data: data[:8] + bytes(32) + data[40:],
        lambda data: b"IAMPROG0" + data[8:],
        lambda data: b"\x80\x04\x95" + data,  # a pickle
    ],
    ids=["empty", "short", "half", "long", "header", "code", "digest", "version", "other"],
)
def test_damaged_files_are_removed_and_compiled_anew(folder, monkeypatch, damage):
    run()
    (path,) = files(folder)
    path.write_bytes(damage(path.read_bytes()))
    before = _disk.cache_info()["damaged"]
    forget(monkeypatch)
    assert not run()
    assert _disk.cache_info()["damaged"] == before + 1
    forget(monkeypatch)
    assert run()  # it was written again


def test_another_programs_file_under_this_name_is_refused(folder, monkeypatch):
    run(2.0)
    (first,) = files(folder)
    run(3.0)
    second = next(path for path in files(folder) if path != first)
    first.write_bytes(second.read_bytes())  # complete, and its digest is right
    forget(monkeypatch)
    assert not run(2.0)


def test_every_flipped_byte_is_noticed():
    packed = _disk._pack("key", bytes(range(64)))
    assert _disk._unpack("key", packed) == bytes(range(64))
    for i in range(len(packed)):
        assert _disk._unpack("key", packed[:i] + bytes([packed[i] ^ 0x10]) + packed[i + 1 :]) is None
        assert _disk._unpack("key", packed[:i]) is None


# Places that are not ours, or not there.


def test_a_folder_that_others_may_write_to_is_not_used(folder, monkeypatch):
    run()
    folder.chmod(0o777)
    forget(monkeypatch)
    assert not run()
    info = _disk.cache_info()
    assert not info["enabled"]
    assert "others may write" in info["reason"]
    folder.chmod(0o700)
    assert _disk.cache_info()["enabled"]


def test_files_that_others_may_write_to_and_links_are_not_read(folder, monkeypatch, tmp_path):
    run()
    (path,) = files(folder)
    path.chmod(0o666)
    forget(monkeypatch)
    assert not run()
    (path,) = files(folder)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    forget(monkeypatch)
    assert not run()


def test_it_can_be_turned_off(folder, monkeypatch):
    monkeypatch.setenv("IAM_CACHE", "0")
    assert not run()
    assert not folder.exists()
    assert _disk.cache_info()["reason"] == "IAM_CACHE turns it off"


def test_a_disk_that_is_full(folder, monkeypatch):
    def full(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_disk.os, "replace", full)
    assert not run()
    assert not list(folder.iterdir())


def test_a_folder_that_is_a_file(folder, monkeypatch, tmp_path):
    (tmp_path / "programs").write_text("in the way")
    assert not run()
    assert (tmp_path / "programs").read_text() == "in the way"
    assert "no folder" in _disk.cache_info()["reason"]


def test_the_default_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("IAM_CACHE_DIR", raising=False)
    monkeypatch.delenv("IAM_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert _disk.cache_info()["dir"] == str(tmp_path / "iam" / "programs")


# Writers at once; size.


def test_many_processes_write_read_and_evict_at_once(folder):
    code = """
    import sys
    import numpy as np
    import iam
    from iam.compiler import _engine
    x = np.arange(12, dtype=np.float32).reshape(2, 6)
    for turn in range(3):
        for number in range(6):
            _engine._PROGRAMS.clear()
            y = iam.jit(lambda x: x * float(number) + 1.0)(x)
            assert np.array_equal(y, x * np.float32(number) + 1), number
    print("fine")
    """
    environment = {**os.environ, "IAM_CACHE_MB": "0.012", "OMP_NUM_THREADS": "1", "IAM_NUM_THREADS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment,
        )
        for _ in range(4)
    ]  # fmt: skip
    for process in started:
        out, err = process.communicate(timeout=400)
        assert out == "fine\n", err
    assert sum(path.stat().st_size for path in files(folder)) <= 0.012e6 * 2
    assert not list(folder.glob("*.part"))


def test_threads_store_and_load_at_once(folder):
    run()
    (path,) = files(folder)
    key = path.stem
    code = _disk._unpack(key, path.read_bytes())
    errors = []

    def work():
        for _ in range(50):
            _disk.store(key, code)
            if _disk.load(key) is None:
                errors.append("missing")

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors


def test_the_least_recently_used_go_first(folder, monkeypatch):
    for number in range(1, 5):
        run(float(number))
    size = files(folder)[0].stat().st_size
    order = {}
    for number in range(1, 5):
        forget(monkeypatch)
        assert run(float(number))
        newest = max(files(folder), key=lambda p: p.stat().st_mtime_ns)
        order[number] = newest
        os.utime(newest, (1000.0 * number, 1000.0 * number))
    os.utime(order[1], (9000.0, 9000.0))  # used again
    monkeypatch.setenv("IAM_CACHE_MB", str(4.5 * size / 1e6))
    run(5.0)
    left = set(files(folder))
    assert order[2] not in left
    assert order[1] in left
    assert sum(path.stat().st_size for path in left) <= 4.5 * size * 3 / 4


def test_what_dead_writers_left_is_removed(folder):
    run()
    stale, fresh = folder / "tmpdead.part", folder / "tmpnew.part"
    for path in (stale, fresh):
        path.write_bytes(b"half")
    os.utime(stale, (1.0, 1.0))
    info = _disk.cache_info()
    assert not stale.exists()
    assert fresh.exists()
    assert info["programs"] == 1


def test_clearing(folder, monkeypatch):
    run(2.0)
    run(3.0)
    other = folder / "notes.txt"
    other.write_text("not ours")
    assert iam.compiler.clear_cache() == 2
    assert iam.compiler.cache_info()["programs"] == 0
    assert other.exists()
    forget(monkeypatch)
    assert not run(2.0)


# The loader.


@pytest.fixture
def code(folder):
    run()
    (path,) = files(folder)
    return _disk._unpack(path.stem, path.read_bytes())


def _maps():
    return pathlib.Path("/proc/self/maps").read_text().splitlines()


def _writable_code(maps):
    return [line.split()[0] for line in maps if line.split()[1].startswith("rwx")]


def test_code_is_not_writable(code):
    others = _writable_code(_maps())  # other libraries of this process may have some
    image = _object.load_object(code)
    address = image.address("iam_program")
    maps = _maps()
    for line in maps:
        low, high = (int(part, 16) for part in line.split()[0].split("-"))
        if low <= address < high:
            assert line.split()[1].startswith("r-x")
            break
    else:
        pytest.fail("the code is nowhere")
    assert _writable_code(maps) == others
    assert image.address("nowhere") == 0


def test_malformed_objects_are_refused_or_loaded_but_never_crash(code):
    """Cut at every length, and every byte of the headers and tables changed: an ObjectError or an image, which is not run."""
    for size in range(0, len(code), 7):
        with pytest.raises(_object.ObjectError):
            _object.load_object(code[:size])
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(2000):
        broken = bytearray(code)
        for at in rng.integers(0, len(code), size=3):
            broken[at] = rng.integers(0, 256)
        try:
            _object.load_object(bytes(broken))
        except _object.ObjectError:
            refused += 1
    assert refused > 200


def test_functions_that_are_none_of_the_runtime_are_refused(code):
    assert b"_mlir_memref_to_llvm_alloc\0" in code
    for name in (b"system", b"_mlir_memref_to_llvm_nope"):
        broken = code.replace(b"_mlir_memref_to_llvm_alloc\0", name.ljust(26, b"\0") + b"\0")
        with pytest.raises(_object.ObjectError, match="refers to"):
            _object.load_object(broken)


def test_sizes_that_no_program_has_are_refused(code):
    sections = struct.unpack_from("<Q", code, 40)[0]
    broken = bytearray(code)
    at = sections + 2 * 64
    assert struct.unpack_from("<Q", code, at + 8)[0] & 2  # it is loaded
    struct.pack_into("<I", broken, at + 4, 8)  # without content in the file
    struct.pack_into("<Q", broken, at + 32, 1 << 60)
    with pytest.raises(_object.ObjectError, match="too large"):
        _object.load_object(bytes(broken))


def test_other_machines_are_refused(code):
    arm = code[:18] + struct.pack("<H", 183) + code[20:]
    with pytest.raises(_object.ObjectError, match="no relocatable ELF object for x86-64"):
        _object.load_object(arm)
