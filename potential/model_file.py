"""The model file, `.adatom`: a zip of `header.json` and one `.npy` per array. Read as data: nothing is unpickled or executed.

The header says what a person or another program needs to know (format version, elements, cutoff, configuration, E0, shortest
distances in the data, training summary, errors, units) and holds a SHA-256 over itself and all arrays.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
import zlib
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ase.data import chemical_symbols
from pydantic import ValidationError

from adatom.potential.committee import Calibration, Committee
from adatom.potential.families import family_of, make_model
from adatom.potential.model import Statistics
from adatom.potential.potential import Golden, Potential, flatten, unflatten
from adatom.potential.structure import Structure

FORMAT, FORMAT_VERSION = "adatom potential", 1
UNITS = {"energy": "eV", "length": "Å", "forces": "eV/Å", "stress": "eV/Å³, (1/V) dE/dε, positive in tension"}
STATISTICS = ("e0", "shift", "scale", "feature_mean", "feature_std", "min_distance")


class ModelFileError(ValueError):
    """The file is not a potential that this program can read; the message says why in one line."""


def write_atomically(path: Path, content: bytes) -> None:
    """Write beside, fsync, rename: at any moment `path` is whole, old or new."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(beside, "wb") as f:
            f.write(content)
            f.flush()
            os.fsync(f.fileno())
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def save(potential: Potential, path: str | Path) -> None:
    """Write a potential to one file, atomically."""
    arrays = {f"network/{k}": np.asarray(v) for k, v in flatten(potential.params["network"]).items()}
    arrays |= {f"statistics/{k}": np.asarray(getattr(potential.statistics, k)) for k in STATISTICS}
    if potential.committee is not None:
        arrays |= {f"members/{k}": np.asarray(v) for k, v in flatten(potential.committee.members).items()}
    if potential.golden is not None:
        g = potential.golden
        arrays |= {
            "golden/numbers": g.structure.numbers, "golden/positions": g.structure.positions, "golden/cell": g.structure.cell,
            "golden/pbc": g.structure.pbc, "golden/energy": np.asarray(g.energy), "golden/forces": g.forces,
        }  # fmt: skip
    header = header_of(potential)
    header["written"] = datetime.now(UTC).isoformat(timespec="seconds")
    header = json.loads(json.dumps(header))  # what a reader will see
    header["checksum"] = _checksum(header, arrays)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as z:
        z.writestr("header.json", json.dumps(header, indent=1, ensure_ascii=False))
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.asarray(array, order="C"), allow_pickle=False)
            z.writestr(f"{name}.npy", member.getvalue())
    write_atomically(Path(path), buffer.getvalue())


def header_of(potential: Potential) -> dict[str, Any]:
    """The header without date and checksum; what `adatom info` prints."""
    s, symbols, c = potential.statistics, potential.symbols, potential.committee
    distance = np.asarray(s.min_distance)
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "adatom": _version(),
        "jax": jax.__version__,
        "elements": list(symbols),
        "cutoff": potential.model.cutoff,
        "units": UNITS,
        "parameters": potential.n_parameters,
        "e0": {a: float(x) for a, x in zip(symbols, np.asarray(s.e0), strict=True)},
        "min_distance": {
            f"{a}-{b}": float(distance[i, j]) if np.isfinite(distance[i, j]) else None
            for i, a in enumerate(symbols)
            for j, b in enumerate(symbols)
            if i <= j
        },
        "config": potential.model.config.model_dump(mode="json"),
        "info": potential.info,
    }
    if c is not None:
        known = c.calibration and c.calibration.model_dump(mode="json")
        header["committee"] = {"kind": c.kind, "members": c.size, "calibration": known}
    return header


def load(path: str | Path) -> Potential:
    """Read a potential.

    Raises FileNotFoundError, or ModelFileError where the file is truncated, corrupted, foreign or of a newer format.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such model file")
    if path.is_dir():
        raise ModelFileError(f"{path}: a folder, not a model file; did you mean {path / 'model.adatom'}?")
    header, arrays = _read(path)
    try:
        numbers = tuple(chemical_symbols.index(s) for s in header["elements"])
        model = make_model(header["config"])
        if model.elements != numbers:
            raise ModelFileError(f"{path}: elements {header['elements']} do not fit the configuration's {model.elements}")
        network = {k.removeprefix("network/"): v for k, v in arrays.items() if k.startswith("network/")}
        expected = {k: v.shape for k, v in flatten(jax.eval_shape(model.init, jax.random.key(0))).items()}
        if {k: v.shape for k, v in network.items()} != expected:
            raise ModelFileError(f"{path}: the arrays do not have the shapes that the configuration asks for")
        statistics = Statistics(**{k: arrays[f"statistics/{k}"] for k in STATISTICS})
        golden = None
        if "golden/energy" in arrays:
            g = {k: arrays[f"golden/{k}"] for k in ("numbers", "positions", "cell", "pbc", "energy", "forces")}
            golden = Golden(Structure(g["numbers"], g["positions"], g["cell"], g["pbc"]), float(g["energy"]), g["forces"])
        bare: dict[str, Any] = {"descriptor": {}} if family_of(model) == "adatom" else {}
        params = {"network": bare | unflatten(network), "statistics": statistics}
        return Potential(model, params, header.get("info", {}), golden, _committee(path, header, arrays, expected))
    except ModelFileError:
        raise
    except (KeyError, ValueError, TypeError, ValidationError) as error:
        raise ModelFileError(f"{path}: damaged header, {_one_line(error)}") from error


def _committee(
    path: Path, header: dict[str, Any], arrays: dict[str, np.ndarray], expected: dict[str, tuple[int, ...]]
) -> Committee | None:
    about = header.get("committee")
    if about is None:
        return None
    members = {k.removeprefix("members/"): v for k, v in arrays.items() if k.startswith("members/")}
    if not members or any(v.shape != (about["members"], *expected.get(k, (-1,))) for k, v in members.items()):
        raise ModelFileError(f"{path}: the committee's arrays do not have the shapes that the configuration asks for")
    calibration = about["calibration"] and Calibration.model_validate(about["calibration"])
    return Committee(about["kind"], unflatten(members), calibration)


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    try:
        with zipfile.ZipFile(path) as z:
            if any(m.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for m in z.infolist()):
                raise ModelFileError(f"{path}: corrupted, or a zip file compressed in another way than models are")
            if "header.json" not in z.namelist():
                raise ModelFileError(f"{path}: a zip file, but not a potential of adatom (no header.json in it)")
            header = json.loads(z.read("header.json"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise ModelFileError(f"{path}: not a potential of adatom (its header does not say format {FORMAT!r})")
            if header.get("format_version") != FORMAT_VERSION:
                raise ModelFileError(
                    f"{path}: format version {header.get('format_version')}, this adatom {_version()} reads version "
                    f"{FORMAT_VERSION}; upgrade adatom"
                )
            arrays = {
                n.removesuffix(".npy"): np.lib.format.read_array(io.BytesIO(z.read(n)), allow_pickle=False)
                for n in z.namelist()
                if n.endswith(".npy")
            }
    except ModelFileError:
        raise
    except zipfile.BadZipFile as error:
        whole = path.read_bytes()
        why = "empty" if not whole else "truncated or corrupted" if whole[:2] == b"PK" else "not a potential of adatom"
        raise ModelFileError(f"{path}: {why} ({len(whole)} bytes; {_one_line(error)})") from error
    except (ValueError, OSError, EOFError, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ModelFileError(f"{path}: corrupted, {_one_line(error)}") from error
    if header.get("checksum") != _checksum(header, arrays):
        raise ModelFileError(f"{path}: corrupted, its content does not match the checksum in its header")
    return header, arrays


def _checksum(header: dict[str, Any], arrays: dict[str, np.ndarray]) -> str:
    plain = {k: v for k, v in header.items() if k != "checksum"}
    digest = hashlib.sha256(json.dumps(plain, sort_keys=True, ensure_ascii=False).encode())
    for name in sorted(arrays):
        a = np.asarray(arrays[name], order="C")  # ascontiguousarray would make () into (1,)
        digest.update(f"{name} {a.dtype.str} {a.shape}".encode())
        digest.update(a.tobytes())
    return digest.hexdigest()


def _version() -> str:
    """Of the installed package; a bare clone on the search path has none."""
    try:
        return version("adatom")
    except PackageNotFoundError:
        return "not installed"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:160]
