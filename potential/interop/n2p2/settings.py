"""input.nn: the lines of keywords that n2p2 and RuNNer share, and what they say about a model.

Everything after # or ! is a comment. Keywords of training are no business of ours; what changes the energy and is not
supported is refused by name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, NoReturn

from ase.data import atomic_numbers, chemical_symbols
from pydantic import ValidationError

from adatom.potential.interop.n2p2.config import WEIGHTED, Compact, Gaussian, order
from adatom.potential.model_file import ModelFileError

CUTOFFS = ("hard", "cos", "tanhu", "tanh", "exp", "poly1", "poly2", "poly3", "poly4")
CORES = {"p1": "poly1", "p2": "poly2", "p3": "poly3", "p4": "poly4", "e": "exp"}
PARAMETERS = {
    2: "eta shift cutoff",
    3: "eta sign zeta cutoff",
    9: "eta sign zeta cutoff",
    12: "eta shift cutoff",
    13: "eta shift sign zeta cutoff",
}
ALTERNATIVES = {
    "symfunction": "symfunction_short",
    "element_symfunction_short_atomic": "element_symfunction_short",
    "global_symfunction_short_atomic": "global_symfunction_short",
} | dict.fromkeys(("nnp_generation", "nnp_type_gen", "nnp_gen"), "nnp_type")
SEVERAL = {
    "symfunction_short", "atom_energy", "element_symfunction_short", "global_symfunction_short", "element_nodes_short",
    "element_activation_short", "element_hidden_layers_short",
}  # fmt: skip
REFUSED = {
    "use_electrostatics": "electrostatics",
    "electrostatic_type": "electrostatics",
    "use_vdw": "dispersion corrections",
    "use_fixed_charges": "electrostatics",
    "global_hidden_layers_pair": "pair networks",
}
ONLY = {"nnp_type": ("2G-HDNNP", "2"), "nn_type_short": ("1",)}
LENGTHS = {"angstrom": 1.0, "bohr": 0.529177210903}
ENERGIES = {"ev": 1.0, "hartree": 27.211386245988}


class Settings:
    """The keywords of an input.nn, each with its arguments and line number."""

    def __init__(self, path: Path) -> None:
        """Raises ModelFileError where a keyword is given twice that may be given once."""
        self.path = path
        self.lines: dict[str, list[tuple[int, list[str]]]] = {}
        self.text = read_text(path)
        for number, line in enumerate(self.text.splitlines(), 1):
            words = line.split("#")[0].split("!")[0].split()
            if words:
                key = ALTERNATIVES.get(words[0], words[0])
                self.lines.setdefault(key, []).append((number, words[1:]))
                if len(self.lines[key]) > 1 and key not in SEVERAL and key in KNOWN:
                    self.fail(number, f"{key} a second time")
        for key, what in REFUSED.items():
            if key in self.lines:
                self.fail(self.lines[key][0][0], f"{key} is not supported: {what}")
        for key, allowed in ONLY.items():
            if (self.words(key) or [allowed[0]])[:1] not in [[x] for x in allowed]:
                number, words = self.lines[key][0]
                self.fail(number, f"{key} {' '.join(words)} is not supported, only {allowed[0]}: short-range networks of atoms")

    def fail(self, number: int, why: str) -> NoReturn:
        raise ModelFileError(f"{self.path}, line {number}: {why}")

    def words(self, key: str) -> list[str] | None:
        """Arguments of a keyword that is given once; None where it is not there."""
        return self.lines[key][0][1] if key in self.lines else None

    def numbers(self, key: str, count: int, default: list[float] | None = None) -> list[float]:
        """The first `count` arguments of a keyword as numbers."""
        if key not in self.lines:
            if default is None:
                raise ModelFileError(f"{self.path}: there is no {key}")
            return default
        number, words = self.lines[key][0]
        return [self.number(number, key, words, n) for n in range(count)]

    def number(self, line: int, key: str, words: Sequence[str], n: int) -> float:
        """Argument n as a finite number; FORTRAN's 1.0d0 counts."""
        try:
            value = float(words[n].lower().replace("d", "e"))
        except (IndexError, ValueError):
            self.fail(line, f"argument {n + 1} of {key} should be a number: {' '.join(words) or 'nothing there'!r}")
        if not abs(value) < 1e100:
            self.fail(line, f"argument {n + 1} of {key} is {words[n]}")
        return value

    def element(self, line: int, key: str, words: Sequence[str], n: int) -> int:
        """Argument n as an atomic number."""
        if n >= len(words) or words[n] not in atomic_numbers or words[n] == "X":
            self.fail(line, f"argument {n + 1} of {key} should be an element: {' '.join(words) or 'nothing there'!r}")
        return atomic_numbers[words[n]]

    def elements(self) -> tuple[int, ...]:
        """In n2p2's order, by atomic number."""
        if "elements" not in self.lines:
            raise ModelFileError(f"{self.path}: there is no elements")
        line, words = self.lines["elements"][0]
        elements = [self.element(line, "elements", words, n) for n in range(len(words))]
        if len(set(elements)) != len(elements) or [float(len(elements))] != self.numbers("number_of_elements", 1):
            self.fail(line, f"elements {' '.join(words)} and number_of_elements do not fit")
        return tuple(sorted(elements))

    def functions(self, elements: Sequence[int], length: float) -> list[list[Gaussian | Compact]]:
        """Of every element, lengths in Å, in n2p2's order; `length` is the file's unit in Å."""
        found: list[list[Gaussian | Compact]] = [[] for _ in elements]
        for line, words in (*self.lines.get("symfunction_short", []), *self._shorthands(elements)):
            centre = self.element(line, "symfunction_short", words, 0)
            if centre not in elements:
                self.fail(line, f"a symmetry function of {chemical_symbols[centre]}, which is not among the elements")
            found[elements.index(centre)].append(self._function(line, words, length))
        return [sorted(functions, key=order) for functions in found]

    def _shorthands(self, elements: Sequence[int]) -> Iterator[tuple[int, list[str]]]:
        """RuNNer's lines for an element, or all, with every neighbour or pair of neighbours there is, as symfunction_short.

        `element_symfunction_short element type parameters` and `global_symfunction_short type parameters`, parameters as in
        symfunction_short (RuNNer's manual, "Keywords").
        """
        symbols = [chemical_symbols[z] for z in elements]
        for key in ("element_symfunction_short", "global_symfunction_short"):
            for line, words in self.lines.get(key, []):
                n = int(key.startswith("element"))
                centres = [chemical_symbols[self.element(line, key, words, 0)]] if n else symbols
                kind = self.number(line, key, words, n)
                if kind not in (2, 3, 9):
                    self.fail(line, f"{key} of type {words[n]} is not supported, only 2, 3 and 9")
                for centre in centres:
                    for near in combinations_with_replacement(symbols, 1 if kind == 2 else 2):
                        yield line, [centre, words[n], *near, *words[n + 1 :]]

    def _function(self, line: int, words: list[str], length: float) -> Gaussian | Compact:
        def number(n: int) -> float:
            return self.number(line, "symfunction_short", words, n)

        kind = number(1)
        if kind not in (2, 3, 9, 12, 13, 20, 21, 22, 23, 24, 25):
            self.fail(line, f"symmetry function type {words[1]} is not supported")
        count = 0 if kind in WEIGHTED else 1 if kind in (2, 20) else 2
        neighbours = sorted(self.element(line, "symfunction_short", words, 2 + n) for n in range(count))
        f: dict[str, Any] = {"kind": int(kind), "neighbours": tuple(neighbours)}
        n = 2 + count
        if kind >= 20:
            f |= {"inner": number(n) * length, "cutoff": number(n + 1) * length}
            if kind not in (20, 23):
                f |= {"left": number(n + 2), "right": number(n + 3)}
                n += 2
            name = words[n + 2] if n + 2 < len(words) else ""
            if name.removesuffix("a") not in CORES or name == "ea":
                self.fail(line, f"compact function {name!r} is none of {', '.join(CORES)}, p1a, p2a, p3a, p4a")
            return self._valid(line, Compact, f | {"core": CORES[name.removesuffix("a")], "asymmetric": name.endswith("a")})
        f |= {name: number(n + m) for m, name in enumerate(PARAMETERS[int(kind)].split())}
        if kind in (3, 9):
            f["shift"] = number(n + 4) if len(words) > n + 4 else 0.0
        f |= {"eta": f["eta"] / length**2, "shift": f["shift"] * length, "cutoff": f["cutoff"] * length}
        return self._valid(line, Gaussian, f)

    def _valid(self, line: int, kind: type[Gaussian] | type[Compact], f: dict[str, Any]) -> Gaussian | Compact:
        try:
            return kind.model_validate(f)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = "".join(f"{x}: " for x in first["loc"])
            self.fail(line, f"symfunction_short: {where}{first['msg'].removeprefix('Value error, ')}")

    def networks(self, elements: Sequence[int]) -> list[dict[str, Any]]:
        """Widths and activations of every element's hidden layers: the global ones, or the element's own."""
        found = []
        for z in elements:
            layers = self._of("hidden_layers", z)
            widths, activations = self._of("nodes", z), self._of("activation", z)
            if not layers or not activations or [str(len(widths))] != layers or len(activations) != len(widths) + 1:
                raise ModelFileError(
                    f"{self.path}: hidden layers, nodes and activations of {chemical_symbols[z]} do not fit: "
                    f"{' '.join(layers) or 'none'}, {' '.join(widths) or 'none'}, {' '.join(activations) or 'none'}"
                )
            found.append({"widths": widths, "activations": activations})
        return found

    def _of(self, what: str, z: int) -> list[str]:
        key = f"element_{what}_short"
        own = [words[1:] for line, words in self.lines.get(key, []) if self.element(line, key, words, 0) == z]
        return own[-1] if own else self.words(f"global_{what}_short") or []


KNOWN = {
    "number_of_elements", "elements", "cutoff_type", "scale_symmetry_functions", "scale_min_short", "scale_max_short",
    "center_symmetry_functions", "scale_symmetry_functions_sigma", "global_hidden_layers_short", "global_nodes_short",
    "global_activation_short", "normalize_nodes", "mean_energy", "conv_length", "conv_energy", "nnp_type", "nn_type_short",
}  # fmt: skip


def read_text(path: Path) -> str:
    """A text file whole. Raises ModelFileError where there is none, or none of text."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ModelFileError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise ModelFileError(f"{path}: not a text file ({' '.join(str(error).split())[:100]})") from error
