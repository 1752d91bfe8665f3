"""Small NEP models of every form, written as nep.txt, and their energies from the equations in NumPy.

`evaluate` knows nothing of the package: it reads the file by its own lines and gets invariants by integration over the
sphere. Forces and stress are exact to rounding: derivatives along imaginary steps.

    python tests/potential/interop/nep_reference.py

runs these models and, from ../shared/data, the published ones with calorine's CPUNEP, which must be installed, and writes
nep_numbers.json beside this file. Given a nep.txt, it evaluates the structures that stand in JSON on its standard input instead.
"""

import json
import sys
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
from numpy.polynomial.legendre import leggauss, legval

SYMBOLS = {"H": 1, "C": 6, "O": 8, "Al": 13, "Si": 14, "Cu": 29, "Ag": 47}
RADII = {"H": 0.426667, "C": 1.0, "O": 0.84, "Al": 1.50667, "Si": 1.38667}  # Å, GPUMD's
THREE_J = {"222": -((2 / 35) ** 0.5), "112": (2 / 15) ** 0.5, "123": -((3 / 35) ** 0.5), "233": (4 / 105) ** 0.5,
           "134": (4 / 63) ** 0.5}  # fmt: skip
HEADERS = {
    "five-body Si": "nep4 1 Si\ncutoff 4 3.6 50 40\nn_max 4 3\nbasis_size 5 4\nl_max 4 2 1\nANN 7 0",
    "all invariants, cutoffs of elements": (
        "nep4_zbl 2 O H\nzbl 0.9 1.9 0.7\ncutoff 4 3.5 3.6 3.2 60 50\nn_max 3 2\nbasis_size 4 6\n"
        "l_max 4 1 1 1 1 1 1\nANN 6 0"
    ),
    "one network, flexible zbl": (
        "nep3_zbl 2 Al O\nzbl 0 0\ncutoff 4 4 60 60\nn_max 2 4\nbasis_size 6 3\nl_max 3 2 0\nANN 5 0"
    ),
    "biases of elements, high l": (
        "nep5_zbl 2 O Al\nzbl 1 2\ncutoff 3.9 3.4 60 60\nn_max 1 2\nbasis_size 1 3\nl_max 8 1 0 1\nANN 4 0"
    ),
    "radial only": "nep4 2 H C\ncutoff 4.1 4 60 60\nn_max 5 0\nbasis_size 5 0\nl_max 0 0 0\nANN 5 0",
}
OLDER = {
    "cutoffs by covalent radii": (
        "nep4_zbl 2 O Al\nzbl 1 2\ncutoff 4 3.6 60 60 1.7 1.4 0.6\nn_max 3 3\nbasis_size 4 4\nl_max 4 2 1\nANN 6 0"
    ),
}
"""What no program of today reads any more, but those of 2024 and 2025 wrote."""
PUBLISHED = {
    "Si_2022_NEP4_3body.txt": ("Si",),
    "Si_2022_NEP4_5body.txt": ("Si",),
    "C_2022_NEP4.txt": ("C",),
    "Song-2024-UNEP-v1-AgAlAuCrCuMgMoNiPbPdPtTaTiVWZr.txt": ("Cu", "Ag"),
}


def text_of(name, seed=0):
    """A nep.txt with random numbers, as many as its header asks for."""
    header = {**HEADERS, **OLDER}[name]
    rng, s = np.random.default_rng(seed), sizes(header.splitlines())
    width = s["neurons"] * (s["features"] + 2) + (s["version"] == 5)
    net = rng.normal(0.0, 0.4, s["networks"] * width + 1)
    c = rng.normal(0.0, 0.5, s["types"] ** 2 * (s["radial"] + s["angular"]))
    numbers = [net, c, rng.uniform(0.2, 0.6, s["features"])]
    if "zbl 0 0" in header:
        for n in range(s["types"] * (s["types"] + 1) // 2):
            numbers += [[0.4 + 0.1 * n, 1.8 + 0.1 * n], rng.uniform(0.1, 0.4, 8) * ([1.0, 4.0] * 4)]
    return header + "\n" + "".join(f"{x:15.7e}\n" for x in np.concatenate(numbers))


def sizes(lines):
    """What the lines of a header mean."""
    line = {x.split()[0]: x.split()[1:] for x in lines}
    version, types = int(lines[0][3]), int(lines[0].split()[1])
    (nr, na), (kr, ka) = (tuple(int(x) + 1 for x in line[k]) for k in ("n_max", "basis_size"))
    l_max, *flags = (int(x) for x in line["l_max"])
    invariants = [x for x, on in zip(("222", "1111", "112", "123", "233", "134"), flags, strict=False) if on]
    return {
        "version": version, "types": types, "symbols": lines[0].split()[2:], "networks": 1 if version == 3 else types,
        "neurons": int(line["ANN"][0]), "n": (nr, na), "k": (kr, ka), "radial": nr * kr, "angular": na * ka, "l_max": l_max,
        "invariants": invariants, "features": nr + na * (l_max + len(invariants)), "zbl": [float(x) for x in line.get("zbl", [])],
        "cutoff": [float(x) for x in line["cutoff"]],
    }  # fmt: skip


class Nep:
    """A file, for evaluation from the equations."""

    def __init__(self, text):
        lines = text.splitlines()
        n_header = 7 if "_zbl" in lines[0] else 6
        self.s = s = sizes(lines[:n_header])
        numbers, f, t, h = [float(x) for x in lines[n_header:]], s["features"], s["types"], s["neurons"]
        at = 0

        def take(*shape):
            nonlocal at
            n = int(np.prod(shape))
            at += n
            return np.reshape(numbers[at - n : at], shape)

        self.nets = [[take(h, f), take(h), take(h), take(1)[0] if s["version"] == 5 else 0.0] for _ in range(s["networks"])]
        self.bias = take(1)[0]
        self.c = [take(n, k, t, t) for n, k in zip(s["n"], s["k"], strict=True)]
        self.scaler = take(f)
        self.table = take(t * (t + 1) // 2, 10) if s["zbl"][:2] == [0.0, 0.0] else None
        assert at == len(numbers)

    def cutoff(self, kind, a, b):
        x, t = self.s["cutoff"], self.s["types"]
        if len(x) == 2 * t + 2:
            return 0.5 * (x[2 * a + kind] + x[2 * b + kind])
        if len(x) == 7:
            return min(x[kind], x[4 + kind] * (RADII[self.s["symbols"][a]] + RADII[self.s["symbols"][b]]))
        return x[kind]

    def repulsion(self, a, b, r):
        """½ ZBL of a pair at r."""
        names = self.s["symbols"][a], self.s["symbols"][b]
        z, radii = [SYMBOLS[x] for x in names], [RADII.get(x, 0.0) for x in names]
        inner, outer = self.s["zbl"][:2]
        terms = [0.18175, 3.1998, 0.50986, 0.94229, 0.28022, 0.4029, 0.02817, 0.20162]
        if self.table is not None:
            pairs = [(m, n) for m in range(self.s["types"]) for n in range(m, self.s["types"])]
            inner, outer, *terms = self.table[pairs.index((min(a, b), max(a, b)))]
        elif len(self.s["zbl"]) == 3:
            inner, outer = 0.0, min(outer, self.s["zbl"][2] * sum(radii))
        elif len(self.s["cutoff"]) == 7:
            outer = min(outer, self.s["cutoff"][6] * sum(radii))
            inner = 0.5 * outer
        if r.real >= outer:
            return 0.0
        x = r * (z[0] ** 0.23 + z[1] ** 0.23) * 2.134563
        phi = sum(terms[2 * n] * np.exp(-terms[2 * n + 1] * x) for n in range(4))
        switch = 1.0 if r.real < inner else 0.5 + 0.5 * np.cos(np.pi * (r - inner) / (outer - inner))
        return 0.5 * 14.399645 * z[0] * z[1] / r * phi * switch

    def radial_functions(self, kind, a, b, r):
        """g_n of a pair, (n,)."""
        rc = self.cutoff(kind, a, b)
        if r.real >= rc:
            return np.zeros(self.s["n"][kind], dtype=complex)
        fc, x = 0.5 + 0.5 * np.cos(np.pi * r / rc), 2 * (r / rc - 1) ** 2 - 1
        f = [0.5 * (chebyshev_of(k, x) + 1) * fc for k in range(self.s["k"][kind])]
        return self.c[kind][:, :, a, b] @ np.array(f)

    def atom(self, a, others, vectors):
        """Energy of an atom of type a with neighbours of types `others` at `vectors` (complex)."""
        s, l_max = self.s, self.s["l_max"]
        q = np.zeros(s["n"][0], dtype=complex)
        projected = np.zeros((l_max + 1, s["n"][1], len(WEIGHTS)), dtype=complex)  # Σ_m A_nlm Y_lm on the sphere
        energy = 0.0
        for b, v in zip(others, vectors, strict=True):
            r = np.sqrt((v * v).sum())
            q += self.radial_functions(0, a, b, r)
            g, cos = self.radial_functions(1, a, b, r), NODES @ (v / r)
            for l in range(1, l_max + 1):  # noqa: E741
                projected[l] += (2 * l + 1) / (4 * np.pi) * g[:, None] * legval(cos, [0.0] * l + [1.0])[None]
            if s["zbl"]:
                energy = energy + self.repulsion(a, b, r)
        features = [q] + [(projected[l] ** 2) @ WEIGHTS for l in range(1, l_max + 1)]  # noqa: E741
        for name in s["invariants"]:
            if name == "1111":
                features.append(7 / 15 * features[1] ** 2)
                continue
            x, y, z = (projected[int(c)] for c in name)
            size = np.prod([2 * int(c) + 1 for c in name])
            features.append((x * y * z) @ WEIGHTS / (np.sqrt(size / (4 * np.pi)) * THREE_J[name]))
        w0, b0, w1, own = self.nets[a if len(self.nets) > 1 else 0]
        return energy + w1 @ np.tanh(w0 @ (np.concatenate(features) * self.scaler) - b0) - own - self.bias


def chebyshev_of(k, x):
    """Chebyshev's T_k of a complex number."""
    return np.polynomial.chebyshev.chebval(x, [0.0] * k + [1.0])


def sphere(n):
    """Nodes (p, 3) and weights of a rule exact for polynomials to degree 2n − 1 on the unit sphere."""
    z, w = leggauss(n)
    phi = 2 * np.pi * np.arange(2 * n) / (2 * n)
    s = np.sqrt(1 - z * z)
    nodes = [(a * np.cos(p), a * np.sin(p), b) for a, b in zip(s, z, strict=True) for p in phi]
    return np.array(nodes), np.repeat(w, 2 * n) * np.pi / n


NODES, WEIGHTS = sphere(9)


def evaluate(text, symbols, positions, cell=None, derivatives=True):
    """Energies of the atoms, forces and dE/dε [eV] of a structure, in all directions periodic where it has a cell."""
    nep, h, n = Nep(text), 1e-30, len(symbols)
    types = [nep.s["symbols"].index(x) for x in symbols]
    reach = range(-4, 5) if cell is not None else (0,)
    images = np.array(list(product(reach, repeat=3)), dtype=float)
    lattice = np.zeros((3, 3)) if cell is None else np.asarray(cell)
    far = max(nep.cutoff(0, a, b) for a in types for b in types)
    near = []
    for i in range(n):
        found = [(j, s) for j in range(n) for s in images if j != i or s.any()]
        d = [np.linalg.norm(positions[j] + s @ lattice - positions[i]) for j, s in found]
        near.append([x for x, r in zip(found, d, strict=True) if r < far])

    def energies(r, c, atoms):
        return np.array([
            nep.atom(types[i], [types[j] for j, _ in near[i]], [r[j] + s @ c - r[i] for j, s in near[i]]) for i in atoms
        ])  # fmt: skip

    own = energies(np.array(positions, dtype=complex), lattice, range(n)).real
    if not derivatives:
        return own, None, None
    forces, virial = np.zeros((n, 3)), np.zeros((3, 3))
    for i, x in product(range(n), range(3)):
        r = np.array(positions, dtype=complex)
        r[i, x] += 1j * h
        forces[i, x] = -energies(r, lattice, range(n)).sum().imag / h
    for x, y in product(range(3), repeat=2):
        strain = np.eye(3, dtype=complex)
        strain[x, y] += 0.5j * h
        strain[y, x] += 0.5j * h
        virial[x, y] = energies(positions @ strain, lattice @ strain, range(n)).sum().imag / h
    return own, forces, virial


def structure(symbols, seed=1):
    """Symbols, positions and cell of atoms in a small triclinic cell, nothing symmetric about them."""
    rng = np.random.default_rng(seed)
    cell = np.array([[3.9, 0.2, -0.3], [0.6, 4.3, 0.2], [-0.5, 0.4, 4.6]])
    places = np.array([[0.1, 0.1, 0.1], [0.6, 0.15, 0.2], [0.2, 0.6, 0.55], [0.7, 0.65, 0.1], [0.6, 0.1, 0.7]])
    return [symbols[n % len(symbols)] for n in range(5)], (places + rng.uniform(-0.04, 0.04, (5, 3))) @ cell, cell


def case(name):
    """The structure of a model; for the published ones a larger cell."""
    symbols, positions, cell = structure(PUBLISHED.get(name) or sizes({**HEADERS, **OLDER}[name].splitlines())["symbols"])
    scale = 1.25 if name in PUBLISHED else 1.0
    return symbols, positions * scale, cell * scale


def by_calorine(path, symbols, positions, cell):
    """Energies, forces and dE/dε by its C++ engine (NEP_CPU, double precision); its own calculator refuses NEP3 and NEP5."""
    import _nepy

    n = len(symbols)
    box, r = (np.transpose(x).ravel().tolist() for x in (cell, positions))
    engine = _nepy.NEPY(str(path), n, box, symbols, r, np.ones(n))
    energies, forces, virials = (np.array(x).reshape(-1, n).T for x in engine.get_potential_forces_and_virials())
    parts = {"energies": energies[:, 0], "forces": forces, "virial": -virials.sum(axis=0).reshape(3, 3)}
    return {k: v.tolist() for k, v in parts.items()}


def with_calorine():
    """Run all."""
    here = Path(__file__).resolve()
    models = here.parents[3].parent / "shared" / "data" / "models" / "nep"
    numbers = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in [*HEADERS, *PUBLISHED]:
            path = models / name
            if name in HEADERS:
                path = Path(folder) / "nep.txt"
                path.write_text(text_of(name))
            numbers[name] = by_calorine(path, *case(name))
    here.with_name("nep_numbers.json").write_text(json.dumps(numbers, indent=1) + "\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        items = json.loads(sys.stdin.read())
        print(json.dumps([by_calorine(sys.argv[1], x["symbols"], x["positions"], x["cell"]) for x in items]))
    else:
        with_calorine()
