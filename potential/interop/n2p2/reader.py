"""A folder of n2p2 or RuNNer, input.nn + scaling.data + weights.NNN.data, as a potential.

The files say nothing about units. Lengths and energies are taken in those that the caller names, or that comments like
`# length unit: Angstrom` in input.nn do (our own files have them); without either, the folder is refused: a potential in the
wrong unit would run, and be wrong.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from ase.data import chemical_symbols
from pydantic import ValidationError

from adatom.potential.interop.n2p2.config import N2p2Config
from adatom.potential.interop.n2p2.model import N2p2Model
from adatom.potential.interop.n2p2.settings import CUTOFFS, ENERGIES, LENGTHS, Settings, read_text
from adatom.potential.model import Statistics
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import Potential


def recognise(path: str | Path) -> bool:
    """Whether a folder, or the input.nn in it, is a model of this family."""
    try:
        folder = _folder(Path(path))
        return (folder / "input.nn").is_file() and (folder / "scaling.data").is_file()
    except OSError:
        return False


def read(path: str | Path, *, length_unit: str | None = None, energy_unit: str | None = None) -> Potential:
    """Units: "angstrom" or "bohr", "eV" or "hartree", of the numbers in the files; None where input.nn says them.

    Raises ModelFileError where the files are damaged, incomplete, or of a variant that is not supported.
    """
    folder = _folder(Path(path))
    settings = Settings(folder / "input.nn")
    length_name, length = _unit(settings, "length", LENGTHS, length_unit)
    energy_name, energy = _unit(settings, "energy", ENERGIES, energy_unit)
    config = _config(settings, length)
    mean, conv_energy, _ = _normalisation(settings)
    network: dict[str, Any] = {"constants": {"energy": np.array(energy / conv_energy), "offset": np.zeros(len(config.elements))}}
    rows = _rows(folder / "scaling.data", config)
    for z, functions, table in zip(config.elements, config.functions, rows, strict=True):
        network["constants"][chemical_symbols[z]] = table
        widths = (len(functions), *config.networks[config.elements.index(z)].widths, 1)
        network[chemical_symbols[z]] = _weights(folder / f"weights.{z:03d}.data", widths)
    t = len(config.elements)
    offsets = _offsets(settings, config.elements)
    nothing, one = np.zeros(t), np.ones((t, 1))
    statistics = Statistics(energy * (offsets + mean), nothing, nothing + 1.0, 0.0 * one, one, np.zeros((t, t)))
    info = {"source": folder.name, "family": "n2p2", "length_unit": length_name, "energy_unit": energy_name}
    return Potential(N2p2Model(config), {"network": network, "statistics": statistics}, info)


def _folder(path: Path) -> Path:
    return path.parent if path.name == "input.nn" else path


def _unit(settings: Settings, what: str, known: dict[str, float], given: str | None) -> tuple[str, float]:
    said = re.search(rf"^\s*#\s*{what} unit:\s*(\S+)", settings.text, re.MULTILINE)
    name = given or (said and said.group(1))
    if name is None:
        raise ModelFileError(
            f"{settings.path}: the files of n2p2 do not say their {what} unit; give --{what}-unit ({' or '.join(known)})"
        )
    if name.lower() not in known:
        raise ModelFileError(f"{settings.path}: {what} unit {name!r} is none of {', '.join(known)}")
    return name.lower(), known[name.lower()]


def _config(settings: Settings, length: float) -> N2p2Config:
    elements = settings.elements()
    number, words = settings.lines.get("cutoff_type", [(0, ["1"])])[0]  # RuNNer's default
    kind = settings.number(number, "cutoff_type", words, 0)
    if kind not in range(len(CUTOFFS)):
        settings.fail(number, f"cutoff_type {words[0]} is not supported, only 0 to {len(CUTOFFS) - 1}")
    has = settings.lines.__contains__
    scaling = "scale_sigma" if has("scale_symmetry_functions_sigma") else "none"
    if has("scale_symmetry_functions") or has("center_symmetry_functions"):
        scaling = "_".join(k for k in ("scale", "center") if has(f"{k}_symmetry_functions"))
    try:
        return N2p2Config.model_validate(
            {
                "elements": elements,
                "functions": settings.functions(elements, length),
                "networks": settings.networks(elements),
                "cutoff_type": CUTOFFS[int(kind)],
                "cutoff_alpha": settings.number(number, "cutoff_type", words, 1) if len(words) > 1 else 0.0,
                "scaling": scaling,
                "scale_min": settings.numbers("scale_min_short", 1, [0.0])[0],
                "scale_max": settings.numbers("scale_max_short", 1, [1.0])[0],
                "normalize_nodes": has("normalize_nodes"),
            }
        )
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(x) for x in first["loc"])
        raise ModelFileError(f"{settings.path}: {where}: {first['msg'].removeprefix('Value error, ')}") from error


def _normalisation(settings: Settings) -> tuple[float, float, float]:
    """mean_energy, conv_energy, conv_length. The last changes nothing: symmetry functions have no unit."""
    keys = ("mean_energy", "conv_energy", "conv_length")
    present = [k for k in keys if k in settings.lines]
    if present and len(present) < 3:
        raise ModelFileError(f"{settings.path}: {', '.join(present)} without {', '.join(set(keys) - set(present))}")
    mean, energy, length = (settings.numbers(k, 1, [0.0 if k == "mean_energy" else 1.0])[0] for k in keys)
    if energy <= 0.0 or length <= 0.0:
        raise ModelFileError(f"{settings.path}: conv_energy {energy} and conv_length {length} must be positive")
    return mean, energy, length


def _offsets(settings: Settings, elements: tuple[int, ...]) -> np.ndarray:
    offsets = np.zeros(len(elements))
    for line, words in settings.lines.get("atom_energy", []):
        z = settings.element(line, "atom_energy", words, 0)
        if z in elements:
            offsets[elements.index(z)] = settings.number(line, "atom_energy", words, 1)
    return offsets


def _numbers(path: Path) -> list[tuple[int, list[float]]]:
    """Lines of numbers with their line numbers, up to the first word that is none; comments start with #."""
    lines = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if line.startswith("#") or not line.strip():
            continue
        values = []
        for word in line.split():
            try:
                values.append(float(word.lower().replace("d", "e")))
            except ValueError:
                break
        if not values or not all(abs(x) < 1e100 for x in values):
            raise ModelFileError(f"{path}, line {number}: {line.strip()[:60]!r} should be finite numbers")
        lines.append((number, values))
    return lines


def _rows(path: Path, config: N2p2Config) -> list[np.ndarray]:
    """scaling.data: minimum, maximum, mean and sigma of every function, (functions, 4) per element. RuNNer has no sigma."""
    lines, tables, start = _numbers(path), [], 0
    for e, functions in enumerate(config.functions):
        table = np.zeros((len(functions), 4))
        symbol = chemical_symbols[config.elements[e]]
        for q in range(len(functions)):
            if start + q >= len(lines):
                raise ModelFileError(f"{path}: ends before function {q + 1} of {len(functions)} of {symbol}")
            number, values = lines[start + q]
            if values[:2] != [e + 1, q + 1] or len(values) < 5:
                raise ModelFileError(
                    f"{path}, line {number}: should be {e + 1} {q + 1} min max mean sigma of function {q + 1} of {symbol}; "
                    f"input.nn has {len(functions)} of them"
                )
            table[q] = (*values[2:5], values[5] if len(values) > 5 else 0.0)
            span = table[q, 3] if config.scaling == "scale_sigma" else table[q, 1] - table[q, 0]
            if span <= 0.0 and config.scaling.startswith("scale"):
                what = "sigma" if config.scaling == "scale_sigma" else "maximum − minimum"
                raise ModelFileError(f"{path}, line {number}: {what} is {span}, which nothing can be divided by")
        tables.append(table)
        start += len(functions)
    if any(len(values) > 4 for _, values in lines[start:]):  # RuNNer adds the range of energies: two numbers
        raise ModelFileError(f"{path}, line {lines[start][0]}: more functions than input.nn has")
    return tables


def _weights(path: Path, widths: tuple[int, ...]) -> dict[str, dict[str, np.ndarray]]:
    """One number a line: of each layer all weights out of input 1, of input 2, …, then the biases."""
    values = np.array([x[0] for _, x in _numbers(path)])
    sizes = [(a, b) for a, b in zip(widths[:-1], widths[1:], strict=True)]
    wanted = sum(a * b + b for a, b in sizes)
    if len(values) != wanted:
        raise ModelFileError(f"{path}: {len(values)} weights; {'-'.join(map(str, widths))} neurons have {wanted}")
    layers, start = {}, 0
    for n, (a, b) in enumerate(sizes):
        stop = start + a * b
        layers[f"layer_{n}"] = {"kernel": values[start:stop].reshape(a, b), "bias": values[stop : stop + b]}
        start = stop + b
    return layers
