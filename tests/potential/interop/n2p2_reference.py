"""Small models of n2p2 with every kind of function, written as its files, and their energies by loops in NumPy.

`energies` knows nothing of the package: it goes through all pairs and triplets of every atom, function by function.

    python tests/potential/interop/n2p2_reference.py PROGRAM

runs these models and the published ones with n2p2 (PROGRAM is benchmarks/n2p2_reference.cpp linked to a build of it) and
writes n2p2_numbers.json beside this file.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from itertools import combinations
from math import acos, cos, exp, log1p, pi, tanh
from pathlib import Path

import numpy as np

BOHR, HARTREE = 0.529177210903, 27.211386245988
Z = {"H": 1, "O": 8}
LINES = """
X 2 H 0.9 0.0 4.1      X 2 O 0.3 1.2 5.9     X 2 O 0.02 3.0 6.3    X 12 0.05 0.4 5.0
X 3 H H 0.02 1 1 6.1   X 3 H O 0.05 -1 4 5.2 0.7                   X 3 O O 0.01 -1 2.5 6.3
X 9 H H 0.03 -1 1 5.9  X 9 H O 0.06 1 3 6.3 1.1                    X 9 O O 0.01 -1 2 6.3  X 9 H O 0.04 1 1.7 5.5
X 9 H H 0.02 1 16 6.2
X 13 0.03 0.5 -1 2 6.0
X 20 H 0.5 4.4 p1      X 20 O -5.0 5.0 p2a   X 23 0.2 5.7 p3
X 21 H O 0.4 6.0 20 120 p2                   X 21 H H -6.2 6.2 -70 70 p1
X 22 H O 0.4 5.8 10 150 p3a                  X 22 O O -6.3 6.3 0 180 p4
X 24 0.3 6.1 30 140 e  X 25 0.5 6.3 100 260 p4a
"""


@dataclass(frozen=True)
class Model:
    """What the files say. Functions are lists of words in n2p2's order."""

    text: str
    functions: dict
    scaling: dict
    weights: dict
    activations: list


def order(words):
    """n2p2's: `<` of its symmetry functions of one element."""
    kind = int(words[1])
    n = {2: 1, 3: 2, 9: 2, 20: 1, 21: 2, 22: 2}.get(kind, 0)
    e, x = sorted(Z[w] for w in words[2 : 2 + n]), words[2 + n :]
    if kind >= 20:
        core, numbers = x[-1], [float(w) for w in x[:-1]]
        return kind, core, e, numbers[1], numbers[0], numbers[2:]
    x = [float(w) for w in x]
    if kind in (2, 12):
        return kind, x[2], x[0], x[1], e
    eta, shift, sign, zeta, rc = x if kind == 13 else (x[0], (x[4:] or [0.0])[0], *x[1:4])
    return kind, rc, eta, shift, zeta, sign, e


def make(seed=0, *, cutoff="1", scaling="scale center", activations="t p l", normalize=False, kinds=None, conv=True):
    """A random model; `kinds` leaves out all other types of functions."""
    rng = np.random.default_rng(seed)
    words = [w for line in LINES.strip().splitlines() for w in ("X" + x for x in line.split("X") if x.strip())]
    words = [w.split() for w in words]
    words = [w for w in words if kinds is None or int(w[1]) in kinds]
    functions = {z: sorted([[z, *w[1:]] for w in words], key=order) for z in ("H", "O")}
    shuffled = rng.permutation([" ".join(w) for z in functions for w in functions[z]]).tolist()
    table, weights, names = {}, {}, activations.split()
    for z, f in functions.items():
        least = rng.uniform(0.0, 0.2, len(f))
        most = least + rng.uniform(1.0, 3.0, len(f)) * [40.0 if int(w[1]) in (12, 13, 23, 24, 25) else 1.0 for w in f]
        table[z] = np.stack([least, most, least + 0.3 * (most - least), 0.2 * (most - least)], axis=1)
        widths = [len(f), *(5, 4)[: len(names) - 1], 1]
        sizes = zip(widths[:-1], widths[1:], strict=True)
        weights[z] = [(rng.normal(size=(a, b)) / np.sqrt(a), rng.normal(size=b) * 0.3) for a, b in sizes]
    text = [
        "number_of_elements 2 # two", "elements O H", f"cutoff_type {cutoff}", f"global_hidden_layers_short {len(names) - 1}",
        f"global_nodes_short {' '.join(str(n) for n in (5, 4)[: len(names) - 1])}", f"global_activation_short {activations}",
        *[{"sigma": "scale_symmetry_functions_sigma"}.get(s, f"{s}_symmetry_functions") for s in scaling.split()],
        "scale_min_short -0.5", "scale_max_short 1.5", "atom_energy H -0.45", "atom_energy O -74.9 ! Hartree",
        *["mean_energy -25.5", "conv_energy 24.2", "conv_length 5.8"] * conv, *["normalize_nodes"] * normalize,
        *(f"symfunction_short {w}" for w in shuffled),
    ]  # fmt: skip
    return Model("\n".join(text) + "\n", functions, table, weights, names)


def write(model, folder):
    """input.nn, scaling.data, weights.001.data, weights.008.data."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "input.nn").write_text(model.text)
    rows = [
        f"{e} {q} " + " ".join(f"{x:.17e}" for x in row)
        for e, z in enumerate(("H", "O"), 1)
        for q, row in enumerate(model.scaling[z], 1)
    ]
    (folder / "scaling.data").write_text("# element function min max mean sigma\n" + "\n".join(rows) + "\n")
    for z, layers in model.weights.items():
        values = np.concatenate([np.concatenate([w.ravel(), b]) for w, b in layers])
        (folder / f"weights.{Z[z]:03d}.data").write_text("\n".join(f"{x:.17e} a {n}" for n, x in enumerate(values)) + "\n")
    return folder


def setting(model, key, default=None):
    """Arguments of the first line of a keyword."""
    lines = [x.split("#")[0].split("!")[0].split() for x in model.text.splitlines()]
    return next((w[1:] for w in lines if w and w[0] == key), default)


def cutoff(r, rc, kind, alpha):
    """f_c(r)."""
    if r >= rc:
        return 0.0
    if kind == 0:
        return 1.0
    if kind in (2, 3):
        return tanh(1.0 - r / rc) ** 3 / (tanh(1.0) ** 3 if kind == 3 else 1.0)
    x = max((r - alpha * rc) / (rc - alpha * rc), 0.0)
    return 0.5 * (cos(pi * x) + 1.0) if kind == 1 else core(x, {4: "e", 5: "p1", 6: "p2", 7: "p3", 8: "p4"}[kind])


def core(x, kind):
    if kind == "e":
        return exp(1.0 - 1.0 / (1.0 - x * x))
    return {
        "p1": lambda: (2 * x - 3) * x**2 + 1,
        "p2": lambda: ((15 - 6 * x) * x - 10) * x**3 + 1,
        "p3": lambda: (x * (x * (20 * x - 70) + 84) - 35) * x**4 + 1,
        "p4": lambda: (x * (x * ((315 - 70 * x) * x - 540) + 420) - 126) * x**5 + 1,
    }[kind]()


def compact(a, left, right, kind):
    if not left < a < right:
        return 0.0
    x = abs(a - 0.5 * (left + right)) / (0.5 * (right - left))
    return core((2 - x) * x if kind.endswith("a") else x, kind.removesuffix("a"))


def function(words, near, kind_alpha):
    """One symmetry function of an atom with neighbours [(symbol, vector)]."""
    kind = int(words[1])
    n = {2: 1, 3: 2, 9: 2, 20: 1, 21: 2, 22: 2}.get(kind, 0)
    wanted, x = sorted(words[2 : 2 + n]), words[2 + n :]
    narrow, weighted = kind in (3, 13, 21, 24), n == 0
    if kind >= 20:
        rl, rc, bump = float(x[0]), float(x[1]), x[-1]

        def radial(r):
            return compact(r, rl, rc, bump)
    else:
        x = [float(w) for w in x]
        eta, shift, sign, zeta, rc = {2: lambda: (x[0], x[1], 0, 0, x[2]), 12: lambda: (x[0], x[1], 0, 0, x[2])}.get(
            kind, lambda: (x[0], x[1], x[2], x[3], x[4]) if kind == 13 else (x[0], (x[4:] or [0.0])[0], x[1], x[2], x[3])
        )()

        def radial(r):
            return exp(-eta * (r - shift) ** 2) * cutoff(r, rc, *kind_alpha)

    total = 0.0
    if kind in (2, 12, 20, 23):
        for z, d in near:
            if weighted or z == wanted[0]:
                total += radial(np.linalg.norm(d)) * (Z[z] if weighted else 1)
        return total
    for (z1, d1), (z2, d2) in combinations(near, 2):
        if weighted or sorted((z1, z2)) == wanted:
            r1, r2 = np.linalg.norm(d1), np.linalg.norm(d2)
            value = radial(r1) * radial(r2) * (radial(np.linalg.norm(d1 - d2)) if narrow else 1.0)
            cosine = float(d1 @ d2 / (r1 * r2))
            if kind >= 20:
                left, right = (float(w) * pi / 180 for w in x[2:4])
                value *= compact(acos(min(max(cosine, -1.0), 1.0)), left, right, bump.removesuffix("a"))
            else:
                value *= 2 ** (1 - zeta) * max(1 + sign * cosine, 0.0) ** zeta
            total += value * (Z[z1] * Z[z2] if weighted else 1)
    return total


ACTIVATIONS = {
    "l": lambda x: x, "t": tanh, "s": lambda x: 1 / (1 + exp(-x)), "p": lambda x: log1p(exp(x)), "r": lambda x: max(x, 0.0),
    "g": lambda x: exp(-0.5 * x * x), "c": cos, "S": lambda x: 1 - 1 / (1 + exp(-x)), "e": lambda x: exp(-x),
    "h": lambda x: x * x,
}  # fmt: skip


def energies(model, symbols, positions, cell):
    """Of all atoms of a structure periodic in three directions or, without a cell, in none; in the model's units."""
    c = setting(model, "cutoff_type")
    kind_alpha = int(c[0]), float(c[1]) if len(c) > 1 else 0.0
    grid = np.array([[0, 0, 0]])
    if cell is not None:
        n = np.ceil(6.4 / (1.0 / np.linalg.norm(np.linalg.inv(cell), axis=0))).astype(int) + 1
        grid = np.stack(np.meshgrid(*[np.arange(-m, m + 1) for m in n], indexing="ij"), axis=-1).reshape(-1, 3)
    lattice = grid @ (np.zeros((3, 3)) if cell is None else cell)
    least, most = (float(setting(model, f"scale_{k}_short", [d])[0]) for k, d in (("min", "0"), ("max", "1")))
    has = {k: setting(model, k) is not None for k in ("scale_symmetry_functions", "center_symmetry_functions", "normalize_nodes")}
    mean, conv = (float(setting(model, k, [d])[0]) for k, d in (("mean_energy", "0"), ("conv_energy", "1")))
    offset = {"H": -0.45, "O": -74.9}
    out = []
    for i, z in enumerate(symbols):
        near = [
            (symbols[j], d)
            for j in range(len(symbols))
            for d in positions[j] - positions[i] + lattice
            if 1e-9 < np.linalg.norm(d) < 6.5
        ]
        g = np.array([function(w, near, kind_alpha) for w in model.functions[z]])
        low, high, average, sigma = model.scaling[z].T
        if setting(model, "scale_symmetry_functions_sigma") is not None:
            x = least + (most - least) * (g - average) / sigma
        elif has["scale_symmetry_functions"]:
            x = least + (most - least) * (g - (average if has["center_symmetry_functions"] else low)) / (high - low)
        else:
            x = g - average if has["center_symmetry_functions"] else g
        for (w, b), name in zip(model.weights[z], model.activations, strict=True):
            y = (x @ w + b) / (len(x) if has["normalize_nodes"] else 1)
            x = np.array([ACTIVATIONS[name](v) for v in y])
        out.append(x[0] / conv + mean + offset[z])
    return np.array(out)


MODELS = {
    "cos": {"kinds": (2, 3)},
    "cos 0.2, scale": {"kinds": (9, 12), "cutoff": "1 0.2", "scaling": "scale", "activations": "s t l", "normalize": True},
    "tanhu": {"kinds": (2, 13), "cutoff": "2", "activations": "t S l"},
    "tanh, sigma": {"kinds": (3, 20), "cutoff": "3", "scaling": "sigma", "activations": "c g h"},
    "poly1 0.3, not scaled": {"kinds": (9, 22), "cutoff": "5 0.3", "scaling": "", "activations": "t p l", "conv": False},
    "poly2, center": {"kinds": (2, 21), "cutoff": "6", "scaling": "center", "activations": "e t l"},
    "poly3 0.4": {"kinds": (12, 23), "cutoff": "7 0.4", "activations": "h r l"},
    "poly4, one layer": {"kinds": (9, 24), "cutoff": "8", "activations": "p l"},
    "exp 0.1": {"kinds": (2, 25), "cutoff": "4 0.1", "activations": "t t t"},
}
PUBLISHED = {"mlearn_Cu": (29,), "mlearn_Si": (14,), "mlearn_Mo": (42,), "water_cheng2019": (8, 1)}
SMALL = "small"
"""Its cell is shorter than the cutoff: n2p2's forces are not the derivative of its energy where an atom sees its own image."""


def structures(name):
    """Of a model: name, symbols, positions and cell in bohr; no symmetry makes a term vanish."""
    from ase.data import chemical_symbols, covalent_radii
    from helpers import awkward_structures

    elements = PUBLISHED.get(name, (8, 1))
    size = 1.1 * covalent_radii[list(elements)].max() if len(elements) == 1 else 1.0
    for key, s in awkward_structures(elements, seed=4).items():
        straight = name == "exp 0.1" and key == SMALL  # images in a row: n2p2 drops what this model has at exactly 180 degrees
        if key in ("triclinic", SMALL, "molecule") and not straight:
            symbols, positions, cell = [chemical_symbols[z] for z in s.numbers], s.positions, s.cell if s.pbc.all() else None
            if name == "water_cheng2019" and key == "triclinic":  # its cutoff is longer than the cell
                moves = np.stack(np.meshgrid(*[[0, 1]] * 3, indexing="ij"), axis=-1).reshape(-1, 1, 3) @ cell
                positions = (positions[None] + moves).reshape(-1, 3)
                positions = positions + np.random.default_rng(0).normal(0.0, 0.05, positions.shape)
                symbols, cell = symbols * 8, 2.0 * cell
            yield key, symbols, positions * size / BOHR, None if cell is None else cell * size / BOHR


def run(program, folder, symbols, positions, cell, repeats=1):
    """What n2p2 says about one structure."""
    rows = [] if cell is None else ["lattice " + " ".join(f"{x:.17e}" for x in row) for row in cell]
    rows += [f"atom {' '.join(f'{x:.17e}' for x in r)} {z} 0 0 0 0 0" for z, r in zip(symbols, positions, strict=True)]
    (folder / "input.data").write_text("\n".join(["begin", *rows, "energy 0", "charge 0", "end", ""]))
    done = subprocess.run([program, str(repeats)], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def main(program):
    root = Path(__file__).resolve().parents[3]
    sys.path.insert(0, str(root / "tests"))
    out = {"made by": "n2p2, git 61daa0d (2024-11-25), g++ 12 -O3 -march=native; lengths bohr, energies hartree"}
    with tempfile.TemporaryDirectory() as scratch:
        for n, (name, settings) in enumerate((MODELS | dict.fromkeys(PUBLISHED, None)).items()):
            folder = Path(scratch) / str(n)
            if settings is None:
                source = root.parent / "shared" / "data" / "models" / "n2p2" / name
                folder.mkdir()
                for p in source.glob("*.*"):
                    (folder / p.name).write_bytes(p.read_bytes())
            else:
                write(make(n, **settings), folder)
            out[name] = {}
            for key, symbols, positions, cell in structures(name):
                got = run(program, folder, symbols, positions, cell)
                out[name][key] = {"energy": got["energy"]} | ({} if key == SMALL else {"forces": got["forces"]})
    text = json.dumps(out, indent=1).replace("\n     ", " ").replace("\n    ]", "]")
    Path(__file__).with_name("n2p2_numbers.json").write_text(text + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve())
