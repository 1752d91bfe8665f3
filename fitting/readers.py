"""Read structures from files: paths and globs → ASE Atoms with the place each came from.

Extended XYZ is cut into frames here and handed to ASE frame by frame, so that a truncated or malformed frame is
named and none is lost: ASE alone stops at the first empty line, and is quadratic in compressed files because it
seeks backwards. Compressed files of any format are unpacked whole first.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import re
import tempfile
import warnings
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import ase
import ase.db
import ase.io
import numpy as np
from ase.io.extxyz import key_val_str_to_dict
from ase.io.formats import UnknownFileTypeError, filetype

from adatom.fitting.labels import DataError, symmetric

_UNPACK = {".gz": gzip.decompress, ".bz2": bz2.decompress, ".xz": lzma.decompress}
_STRESS = re.compile(r'(?:^|\s)(stress|virial)\s*=\s*["{]([^"{}]*)["}]')


def expand_paths(paths: Sequence[str | Path]) -> list[Path]:
    """Files and folders meant by `paths`, where * ? [ ] are globs (sorted). DataError where one does not exist."""
    if isinstance(paths, str | Path):
        raise DataError(f"paths must be a list of paths, not the single path {str(paths)!r}: write [{str(paths)!r}]")
    found: list[Path] = []
    for text in map(str, paths):
        path = Path(text).expanduser()
        if path.exists():
            matches = [path]
        elif any(c in text for c in "*?["):
            matches = [Path(p) for p in sorted(glob.glob(str(path), recursive=True))]
            if not matches:
                raise DataError(f"{text}: no file matches this pattern (looked from {Path.cwd()})")
        else:
            raise DataError(f"{text}: no such file or folder (looked from {Path.cwd()})")
        found += [p for p in matches if p.resolve() not in {f.resolve() for f in found}]
    if not found:
        raise DataError("no data files given: name at least one file, folder or pattern")
    return found


def read_file(path: Path) -> Iterator[tuple[ase.Atoms, str]]:
    """Every structure of one file with its place, "train.xyz:17" (frames are counted from 0).

    Raises DataError with one line for an empty, truncated or unreadable file.
    """
    if path.is_dir():
        with _one_line(path):
            yield from _numbered(ase.io.read(path, index=":"), str(path))
        return
    packed = path.suffix.lower() in _UNPACK
    content = _content(path) if packed else b""
    if packed and not content:
        raise DataError(f"{path}: the compressed file is empty")
    if not packed and path.stat().st_size == 0:
        raise DataError(f"{path}: the file is empty")
    kind = _format(path, content)
    if kind in {"extxyz", "xyz"}:
        yield from _read_extxyz((content or path.read_bytes()), str(path))
    elif packed:
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / path.stem
            plain.write_bytes(content)
            yield from _read_ase(plain, kind, str(path))
    else:
        yield from _read_ase(path, kind, str(path))


class _one_line:
    """Turn whatever a reader raises into a DataError of one line."""

    def __init__(self, path: str | Path, advice: str = "is it complete, and of the format its name says?") -> None:
        self.path, self.advice = path, advice

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if isinstance(error, Exception) and not isinstance(error, DataError):
            said = " ".join(str(error).split())[:160]
            raise DataError(
                f"{self.path}: cannot be read ({type(error).__name__}{': ' + said if said else ''}); {self.advice}"
            ) from error


def _content(path: Path) -> bytes:
    try:
        return _UNPACK[path.suffix.lower()](path.read_bytes())
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{path}: the compressed file is truncated or damaged ({error}); copy or download it again") from error


def _format(path: Path, content: bytes) -> str:
    """ASE's name of the format, from the file's name, else its first bytes."""
    advice = "give the file the extension of its format (.xyz, .traj, .db, OUTCAR, vasprun.xml, …)"
    try:
        if content:
            stem = path.stem
            kind = filetype(stem, read=False) if "." in stem or "OUTCAR" in stem else filetype(io.BytesIO(content))
        else:
            kind = filetype(str(path))
        ase.io.formats.get_ioformat(kind)
    except (UnknownFileTypeError, OSError, ValueError) as error:
        raise DataError(f"{path}: not a format that ASE knows; {advice}") from error
    return str(kind)


def _read_ase(path: Path, kind: str, name: str) -> Iterator[tuple[ase.Atoms, str]]:
    with _one_line(name), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind in {"db", "json"}:
            with ase.db.connect(path, type=kind if kind == "json" else "extract_from_name") as db:
                images: Any = [row.toatoms(add_additional_information=True) for row in db.select()]
        else:
            images = ase.io.read(path, index=":", format=kind, do_not_split_by_at_sign=True)
    if kind == "vasp-xml" and "</modeling>" not in _tail(path):
        count = len(images) if isinstance(images, list) else 1
        warnings.warn(f"{name}: the file is not finished; the {count} complete steps were read", stacklevel=2)
    if not images:
        raise DataError(f"{name}: no structures in the file ({kind}); did the calculation finish a step?")
    yield from _numbered(images, name)


def _tail(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 200, 0))
        return file.read().decode("utf-8", "replace")


def _numbered(images: ase.Atoms | list[ase.Atoms], name: str) -> Iterator[tuple[ase.Atoms, str]]:
    for k, atoms in enumerate(images if isinstance(images, list) else [images]):
        yield atoms, f"{name}:{k}"


def _read_extxyz(content: bytes, name: str) -> Iterator[tuple[ase.Atoms, str]]:
    """Frames of an extended XYZ file; empty lines between frames are allowed, a short last frame is an error."""
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{name}: not a text file ({error.reason} at byte {error.start}), so not XYZ") from error
    at, frame = 0, 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        where = f"{name}:{frame}"
        head = lines[at].split()
        if len(head) != 1 or not head[0].isdigit() or int(head[0]) == 0:
            raise DataError(
                f"{where}: line {at + 1} should be the number of atoms, but is {lines[at].strip()[:60]!r}; "
                "has a line been lost or added before it?"
            )
        count = int(head[0])
        end = at + 2 + count
        while end < len(lines) and lines[end].lstrip().startswith("VEC"):
            end += 1
        if len(lines) < at + 2 + count:
            raise DataError(
                f"{where}: the file ends within this frame: {max(len(lines) - at - 2, 0)} of {count} atoms are there "
                f"(the frame starts at line {at + 1}); the file is truncated"
            )
        yield _one_extxyz(lines[at:end], where, at + 1), where
        at, frame = end, frame + 1
    if frame == 0:
        raise DataError(f"{name}: no structures in the file: it holds nothing but empty lines")


def _one_extxyz(lines: list[str], where: str, first_line: int) -> ase.Atoms:
    _check_columns(lines, where, first_line)
    with _one_line(where, f"the frame starts at line {first_line} of the file"):
        images = ase.io.read(io.StringIO("\n".join(lines) + "\n"), index=":", format="extxyz")
    for name, text in _STRESS.findall(lines[1]):  # ASE keeps only one half of a 3×3 stress
        values = np.array(text.split(), dtype=np.float64)
        if values.size == 9:
            symmetric(values.reshape(3, 3), f"{where}: {name}")
    return cast(ase.Atoms, images[0])


def _check_columns(lines: list[str], where: str, first_line: int) -> None:
    """A DataError that names the line where the number of columns is not what Properties says."""
    with _one_line(where, f"check the comment line, line {first_line + 1} of the file"):
        properties = key_val_str_to_dict(lines[1]).get("Properties", "species:S:1:pos:R:3") if "=" in lines[1] else ""
        fields = str(properties).split(":")
        expected = sum(int(n) for n in fields[2::3]) if len(fields) >= 3 else 4
    for k, line in enumerate(lines[2 : 2 + int(lines[0])]):
        columns = len(line.split())
        if columns < expected:
            raise DataError(
                f"{where}: atom {k} (line {first_line + 2 + k}) has {columns} columns, but Properties needs "
                f"{expected}; the line is cut, or the number of atoms is wrong"
            )
