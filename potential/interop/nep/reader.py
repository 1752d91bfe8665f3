"""`nep.txt` read: a header of a few lines, then one number a line.

    nep4_zbl T SYMBOLS…                        what it is, and for which elements
    zbl INNER OUTER [FACTOR]                   0 0: flexible, its table at the end of the file
    cutoff RADIAL ANGULAR… MAX_R MAX_A [f f f] once, or once per element; three factors: cutoffs by covalent radii (2024, 2025)
    n_max R A · basis_size R A · l_max L 222 1111 [112 123 233 134] · ANN NEURONS 0

Numbers: per network w0 (neurons, features), b0, w1 and in NEP5 a bias; the common bias; c of the radial functions
(n, k, t, t), of the angular ones; the scales of the features; the table of the flexible ZBL.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from pydantic import ValidationError

from adatom.potential.interop.nep.config import INVARIANTS, NepConfig
from adatom.potential.interop.nep.model import NepModel
from adatom.potential.model import Statistics
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import Potential

SUPPORTED = {f"nep{v}{z}": (v, bool(z)) for v in (3, 4, 5) for z in ("", "_zbl")}
KINDS = {"dipole": "dipoles", "polarizability": "polarizabilities", "temperature": "free energies at a temperature",
         "charge": "charges", "vdw": "van der Waals terms", "spin": "spins"}  # fmt: skip
START = re.compile(rb"\s*nep\d*(_\w+)?\s+\d+\s+[A-Z]")


def recognise(path: Path) -> bool:
    """Whether a file, or the `nep.txt` in a folder, begins like one. Never raises."""
    try:
        with open(_file(Path(path)), "rb") as f:
            return START.match(f.read(256)) is not None
    except OSError:
        return False


def read(path: Path) -> Potential:
    """The potential of a `nep.txt`. ModelFileError where it is damaged or of an unsupported kind, OSError where unreadable."""
    path = _file(Path(path))
    try:
        text = path.read_bytes().decode("ascii")
    except UnicodeDecodeError as error:
        raise ModelFileError(f"{path}: not a text file (byte {error.start}): damaged, or not a nep.txt") from error
    if not text.endswith("\n"):
        raise ModelFileError(f"{path}: the last line has no end: the file is truncated")
    header = _Header(path, text)
    config = header.config()
    c, t, f, w = config, len(config.elements), config.n_features, config.n_networks
    numbers = _numbers(path, header.rest(), header.line + 1)
    width = c.neurons * (f + 2) + (c.version == 5)
    flexible = c.zbl is not None and c.zbl.flexible
    sizes = {
        "networks": w * width, "bias": 1, "radial": t * t * (c.n_max[0] + 1) * (c.basis_size[0] + 1),
        "angular": t * t * (c.n_max[1] + 1) * (c.basis_size[1] + 1), "scaler": f, "zbl": 5 * t * (t + 1) if flexible else 0,
    }  # fmt: skip
    need = sum(sizes.values())
    if len(numbers) != need:
        what = "the file is truncated" if len(numbers) < need else "the header and the numbers do not belong together"
        raise ModelFileError(f"{path}: {need} numbers must follow this header, {len(numbers)} do: {what}")
    part = dict(zip(sizes, np.split(numbers, np.cumsum(list(sizes.values()))[:-1]), strict=True))
    net = part["networks"].reshape(w, width)
    bias = part["bias"][0] + (net[:, -1] if c.version == 5 else 0.0)
    constants: dict[str, Any] = {"scaler": part["scaler"], "offset": np.zeros(t)}
    if flexible:
        constants["zbl"] = _pair_table(path, c, part["zbl"])
    network = {
        **{k: _coefficients(part[k], t, c.n_max[n], c.basis_size[n]) for n, k in enumerate(("radial", "angular"))},
        "hidden_weights": net[:, : c.neurons * f].reshape(w, c.neurons, f),
        "hidden_biases": net[:, c.neurons * f : c.neurons * (f + 1)],
        "output_weights": net[:, c.neurons * (f + 1) : c.neurons * (f + 2)],
        "constants": constants,
    }
    network = {k: v if isinstance(v, dict) else np.ascontiguousarray(v) for k, v in network.items()}
    none, one = np.zeros((t, 1)), np.ones((t, 1))
    statistics = Statistics(-np.broadcast_to(bias, t), np.zeros(t), np.ones(t), none, one, np.zeros((t, t)))
    return Potential(NepModel(config), {"network": network, "statistics": statistics}, {"family": "nep", "kind": header.kind})


def _file(path: Path) -> Path:
    return path / "nep.txt" if path.is_dir() else path


def _coefficients(numbers: np.ndarray, t: int, n: int, k: int) -> np.ndarray:
    return numbers.reshape(n + 1, k + 1, t, t).transpose(2, 3, 0, 1)


def _pair_table(path: Path, c: NepConfig, numbers: np.ndarray) -> np.ndarray:
    """One row of ten per pair of elements, upper triangle, made symmetric (t, t, 10)."""
    t, rows = len(c.elements), numbers.reshape(-1, 10)
    table, upper = np.zeros((t, t, 10)), np.triu_indices(t)
    table[upper], table[upper[::-1]] = rows, rows
    if not ((table[..., 0] >= 0) & (table[..., 0] < table[..., 1])).all():
        raise ModelFileError(f"{path}: zbl: inner cutoffs must be smaller than outer ones in every row of the table at the end")
    if (table[..., 1] > c.pair_cutoffs("angular")).any():
        raise ModelFileError(f"{path}: zbl: an outer cutoff, {table[..., 1].max():g}, is beyond the angular cutoff")
    return table


def _numbers(path: Path, text: str, first: int) -> np.ndarray:
    tokens = text.split()
    try:
        numbers = np.array(list(map(float, tokens)))
    except ValueError:
        numbers = np.array([np.nan])
    if not np.isfinite(numbers).all():
        for n, line in enumerate(text.splitlines(), start=first):
            for token in line.split():
                if not _finite(token):
                    raise ModelFileError(f"{path}: line {n}: {token[:40]!r} is not a finite number: the file is damaged")
    return numbers


def _finite(token: str) -> bool:
    try:
        return bool(np.isfinite(float(token)))
    except ValueError:
        return False


class _Header:
    """The lines of the header one after another; `line` is the number of the last one read."""

    def __init__(self, path: Path, text: str) -> None:
        self.path, self.text, self.at, self.line, self.kind = path, text, 0, 0, ""

    def rest(self) -> str:
        return self.text[self.at :]

    def config(self) -> NepConfig:
        first = self._next("nep", lambda n: n >= 3)
        self.kind = first[0]
        if self.kind not in SUPPORTED:
            for key, what in KINDS.items():
                if key in self.kind:
                    raise ModelFileError(f"{self.path}: {self.kind} is a model of {what}, not of energies alone: not supported")
            raise ModelFileError(f"{self.path}: {self.kind!r} is not supported; known are {', '.join(SUPPORTED)}")
        version, has_zbl = SUPPORTED[self.kind]
        symbols = first[2:]
        if len(symbols) != self._whole(first[1], "the number of elements"):
            self._wrong(f"{first[1]} elements, but {len(symbols)} symbols")
        unknown = [s for s in symbols if atomic_numbers.get(s, 0) < 1]
        if unknown:
            self._wrong(f"{unknown[0][:20]!r} is not an element")
        t = len(symbols)
        settings: dict[str, Any] = {"version": version, "elements": tuple(atomic_numbers[s] for s in symbols)}
        zbl: dict[str, Any] | None = None
        if has_zbl:
            values = [self._real(x) for x in self._next("zbl", lambda n: n in (2, 3))]
            zbl = {"flexible": True} if values[:2] == [0.0, 0.0] else {"inner": values[0], "outer": values[1]}
            if len(values) == 3 and "inner" in zbl:
                zbl["factor"] = values[2]
        values = [self._real(x) for x in self._next("cutoff", lambda n: n in (4, 7, 2 * t + 2))]
        if len(values) == 7:
            *values, f_radial, f_angular, f_zbl = values
            if f_radial > 0.0:
                settings["factors"] = f_radial, f_angular
            if f_zbl > 0.0 and zbl and "inner" in zbl:
                zbl |= {"factor": f_zbl, "halved": True}
        *cutoffs, max_radial, max_angular = values
        settings["radial_cutoffs"], settings["angular_cutoffs"] = (tuple(cutoffs[n::2] * (2 * t // len(cutoffs))) for n in (0, 1))
        settings["max_neighbours"] = int(max_radial), int(max_angular)
        for key in ("n_max", "basis_size"):
            settings[key] = tuple(self._whole(x, key) for x in self._next(key, lambda n: n == 2))
        l_max, *flags = (self._whole(x, "l_max") for x in self._next("l_max", lambda n: 3 <= n <= 7))
        if flags[0] not in (0, 1, 2) or any(x > 1 for x in flags[1:]):
            self._wrong(f"l_max {l_max} {' '.join(map(str, flags))}: after the first number only 0 and 1 (2 for 222) are known")
        settings |= {"l_max": l_max, "invariants": tuple(x for x, on in zip(INVARIANTS, flags, strict=False) if on)}
        neurons, second = (self._whole(x, "ANN") for x in self._next("ANN", lambda n: n == 2))
        if second:
            raise ModelFileError(f"{self.path}: ANN {neurons} {second}: a second hidden layer is not supported")
        try:
            return NepConfig(**settings, neurons=neurons, zbl=zbl)  # type: ignore[arg-type]
        except ValidationError as error:
            e = error.errors()[0]
            where = ".".join(str(x) for x in e["loc"]) or "the header"
            raise ModelFileError(f"{self.path}: {where}: {e['msg'].removeprefix('Value error, ')}") from error

    def _next(self, key: str, fits: Callable[[int], bool]) -> list[str]:
        """The values of the next line, which must begin with `key` (the first line has no key before its values)."""
        self.line += 1
        stop = self.text.find("\n", self.at)
        stop = len(self.text) if stop < 0 else stop
        tokens, self.at = self.text[self.at : stop].split(), min(stop + 1, len(self.text))
        values = tokens if key == "nep" else tokens[1:]
        if not tokens or not (tokens[0].startswith("nep") if key == "nep" else tokens[0] == key):
            self._wrong(f"{key} expected, found {tokens[0][:40]!r}" if tokens else f"{key} expected, found nothing")
        if not fits(len(values)):
            self._wrong(f"{key} with {len(values)} values")
        return values

    def _real(self, token: str) -> float:
        if not _finite(token):
            self._wrong(f"{token[:40]!r} is not a number")
        return float(token)

    def _whole(self, token: str, what: str) -> int:
        if not (token.isascii() and token.isdigit() and len(token) < 7):
            self._wrong(f"{what}: {token[:40]!r} is not a whole number")
        return int(token)

    def _wrong(self, what: str) -> None:
        raise ModelFileError(f"{self.path}: line {self.line}: {what}")
