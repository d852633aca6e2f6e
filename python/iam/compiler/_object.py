"""Machine code from an object file, without a compiler: what the on-disk cache gives back.

The JIT compiles for the large code model, so that an x86-64 ELF object of a program refers to everything by absolute
64-bit addresses. Loading one is then: copy the sections into fresh memory, add the addresses, make the code executable and
no longer writable. Only what such objects need is understood; everything else is refused, and the program is compiled.

Functions that an object may call: those that ``libiam_runtime`` exports to programs, and a fixed list of the C library.
"""

from __future__ import annotations

import ctypes
import mmap
import platform
import struct
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

__all__ = ["Image", "ObjectError", "load_object", "supported"]


class ObjectError(Exception):
    """This object cannot be loaded; the message says why."""


def supported() -> str | None:
    """None where object files can be loaded, else why not."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return f"object files are only loaded on Linux for x86-64, this is {sys.platform} for {platform.machine()}"
    return None


_RUNTIME = ("_mlir_ciface_iam_rt_", "_mlir_memref_to_llvm_")
_C: Final = frozenset(
    {"memcpy", "memmove", "memset", "memcmp"}
    | {name + "f" for name in ("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "tanh", "sin", "cos", "tan")}
    | {name + "f" for name in ("sqrt", "cbrt", "erf", "pow", "fma", "fmod", "floor", "ceil", "trunc", "round", "rint")}
    | {name + "f" for name in ("fabs", "copysign", "fmax", "fmin", "atan", "atan2")}
)

_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_SECTION = struct.Struct("<IIQQQQIIQQ")
_SYMBOL = struct.Struct("<IBBHQQ")
_RELOCATION = struct.Struct("<QQq")
_PROGBITS, _SYMTAB, _RELA, _NOBITS, _REL = 1, 2, 4, 8, 9
_WRITE, _ALLOC, _EXEC, _TLS = 1, 2, 4, 0x400
_UNWIND = 0x70000001  # SHT_X86_64_UNWIND: no exception passes through a compiled program
_ABS64, _PC32, _PLT32, _PC64 = 1, 2, 4, 24
_LARGEST = 1 << 26  # programs have some kilobytes; their weights are arguments


@dataclass(slots=True)
class _Section:
    name: str
    kind: int
    flags: int
    data: bytes
    size: int
    align: int
    info: int
    at: int = -1  # offset in the image, for those that are loaded

    @property
    def loaded(self) -> bool:
        return bool(self.flags & _ALLOC) and self.kind in (_PROGBITS, _NOBITS) and self.name != ".eh_frame"


class Image:
    """Loaded code. Addresses are valid as long as this object is alive."""

    __slots__ = ("_memory", "_symbols", "base", "note", "size")

    def __init__(self, memory: mmap.mmap, base: int, symbols: dict[str, int]) -> None:
        self._memory = memory
        self._symbols = symbols
        self.base = base
        self.size = len(memory)
        self.note = ""  # what whoever stored it has to know

    def address(self, symbol: str) -> int:
        """Of a symbol that the object defines, or 0."""
        return self._symbols.get(symbol, 0)


@cache
def _libc() -> Any:
    return ctypes.CDLL(None, use_errno=True)


@cache
def _libm() -> Any:
    return ctypes.CDLL("libm.so.6")


@cache
def _runtime() -> Any:
    from iam._tools import runtime_library

    return ctypes.CDLL(str(runtime_library()))


def _resolve(name: str) -> int:
    """The address of a function outside of the object."""
    if name.startswith(_RUNTIME):
        libraries = [_runtime()]
    elif name in _C:
        libraries = [_libc(), _libm()]
    else:
        raise ObjectError(f"it refers to {name}, which is no function of the runtime")
    for library in libraries:
        found = getattr(library, name, None)
        if found is not None:
            address = ctypes.cast(found, ctypes.c_void_p).value
            if address:
                return address
    raise ObjectError(f"it refers to {name}, which is not there")


def _slice(data: bytes, at: int, size: int, what: str) -> bytes:
    if at < 0 or size < 0 or at + size > len(data):
        raise ObjectError(f"its {what} is outside of the file")
    return data[at : at + size]


def _text(table: bytes, at: int) -> str:
    end = table.find(b"\0", at)
    if at >= len(table) or end < 0:
        raise ObjectError("a name is outside of its table")
    return table[at:end].decode("ascii", "replace")


def _sections(data: bytes) -> list[_Section]:
    if len(data) < _HEADER.size:
        raise ObjectError("it is shorter than a header")
    ident, kind, machine, _, _, _, start, *_, size, count, names = _HEADER.unpack_from(data)
    if ident[:6] != b"\x7fELF\x02\x01" or kind != 1 or machine != 62 or size != _SECTION.size:
        raise ObjectError("it is no relocatable ELF object for x86-64")
    table = _slice(data, start, count * size, "table of sections")
    rows = [_SECTION.unpack_from(table, i * size) for i in range(count)]
    if names >= count:
        raise ObjectError("its names have no section")
    strings = _slice(data, rows[names][4], rows[names][5], "names")
    found = []
    for name, kind, flags, _, offset, length, _, info, align, _ in rows:
        content = b"" if kind in (0, _NOBITS) else _slice(data, offset, length, "content")
        found.append(_Section(_text(strings, name), kind, flags, content, length, max(align, 1), info))
    return found


def _lay_out(sections: list[_Section]) -> tuple[int, list[tuple[int, int, int]]]:
    """Offsets for the sections that are loaded; the size, and ``(offset, size, protection)`` of each kind of memory."""
    at, regions = 0, []
    for protection, wanted in (
        (mmap.PROT_READ | mmap.PROT_EXEC, _EXEC),
        (mmap.PROT_READ, 0),
        (mmap.PROT_READ | mmap.PROT_WRITE, _WRITE),
    ):
        start = at
        for section in sections:
            if section.loaded and section.flags & (_EXEC | _WRITE) == wanted:
                if section.align > mmap.PAGESIZE or section.align & (section.align - 1):
                    raise ObjectError(f"its section {section.name} is aligned to {section.align}")
                at = (at + section.align - 1) & -section.align
                section.at, at = at, at + section.size
        at = (at + mmap.PAGESIZE - 1) & -mmap.PAGESIZE
        if at > start:
            regions.append((start, at - start, protection))
    for section in sections:
        if (section.loaded and section.at < 0) or section.flags & _TLS:
            raise ObjectError(f"its section {section.name} cannot be loaded")
    return at, regions


def _symbols(
    sections: list[_Section], data: bytes, base: int, resolve: Callable[[str], int]
) -> tuple[list[int], dict[str, int]]:
    """The address of every symbol by its number, and of those that are defined by name."""
    table = next((s for s in sections if s.kind == _SYMTAB), None)
    if table is None:
        raise ObjectError("it has no symbols")
    link = _SECTION.unpack_from(data, _HEADER.unpack_from(data)[6] + sections.index(table) * _SECTION.size)[6]
    if link >= len(sections):
        raise ObjectError("the names of its symbols have no section")
    strings = sections[link].data
    addresses, named = [], {}
    for at in range(0, len(table.data) - _SYMBOL.size + 1, _SYMBOL.size):
        name, info, _, index, value, _ = _SYMBOL.unpack_from(table.data, at)
        if index == 0:
            addresses.append(resolve(_text(strings, name)) if name else 0)
        elif index == 0xFFF1:  # absolute: the name of the file
            addresses.append(value)
        elif index < len(sections):
            section = sections[index]
            if section.at < 0:
                addresses.append(0)  # of a section that is not loaded; nothing that is refers to it
                continue
            if value > section.size:
                raise ObjectError("a symbol is outside of its section")
            addresses.append(base + section.at + value)
            if name and info >> 4:
                named[_text(strings, name)] = addresses[-1]
        else:
            raise ObjectError(f"a symbol is in section {index}")
    return addresses, named


def _relocate(sections: list[_Section], image: bytearray, base: int, addresses: list[int]) -> None:
    for table in sections:
        if table.kind not in (_RELA, _REL):
            continue
        if table.info >= len(sections):
            raise ObjectError("relocations of a section that is not there")
        target = sections[table.info]
        if not target.loaded:
            continue
        if table.kind == _REL:
            raise ObjectError("relocations without addends")
        for at in range(0, len(table.data) - _RELOCATION.size + 1, _RELOCATION.size):
            offset, info, addend = _RELOCATION.unpack_from(table.data, at)
            kind, symbol = info & 0xFFFFFFFF, info >> 32
            if symbol >= len(addresses):
                raise ObjectError("a relocation of a symbol that is not there")
            place = target.at + offset
            value = addresses[symbol] + addend
            size = 8 if kind in (_ABS64, _PC64) else 4
            if offset + size > target.size:
                raise ObjectError("a relocation is outside of its section")
            if kind in (_PC32, _PLT32, _PC64):
                value -= base + place
            elif kind != _ABS64:
                raise ObjectError(f"a relocation of kind {kind}")
            bits = 8 * size
            if kind != _ABS64 and not -(1 << bits - 1) <= value < 1 << bits - 1:
                raise ObjectError("a relative address does not fit")
            struct.pack_into("<Q" if size == 8 else "<I", image, place, value & ((1 << bits) - 1))


def load_object(data: bytes) -> Image:
    """Load an object file.

    Raises:
        ObjectError: it needs something that this loader does not know, or memory cannot be made executable here.
    """
    reason = supported()
    if reason is not None:
        raise ObjectError(reason)
    sections = _sections(data)
    size, regions = _lay_out(sections)
    if size == 0:
        raise ObjectError("it has no code")
    if size > _LARGEST:
        raise ObjectError(f"it is too large: {size} bytes")
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    addresses, named = _symbols(sections, data, base, _resolve)
    content = bytearray(size)
    for section in sections:
        if section.at >= 0 and section.kind == _PROGBITS:
            content[section.at : section.at + section.size] = section.data
    _relocate(sections, content, base, addresses)
    memory[:] = bytes(content)
    for offset, length, protection in regions:
        if _libc().mprotect(ctypes.c_void_p(base + offset), ctypes.c_size_t(length), ctypes.c_int(protection)):
            raise ObjectError(f"memory cannot be made executable here (errno {ctypes.get_errno()})")
    return Image(memory, base, named)
