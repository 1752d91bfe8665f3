"""Compute the silicon example set with DFT: generate structures, label them with GPAW, assemble one file.

    python -m adatom.fitting.examples.make_silicon --out DIR [--workers 2] [--only N] [--assemble-only]

Needs ase, numpy and gpaw, and no part of adatom, so that it runs under an interpreter of its own. The structures
follow from one seed. Each label is a file of its own, written beside its place, synced and renamed; a killed run
is continued by the same command and repeats nothing. A label that fails is written to ``failed.json`` with its
reason and skipped. What was converged, and how well, is in README.md beside this file.

The label is the Mermin free energy F = E - TS of the smeared electrons, the quantity the forces
and the stress derive from (Marzari, PhD thesis, Cambridge 1996, chapter 4).
"""
from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import json
import math
import multiprocessing
import os
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.build import bulk, cut, diamond100, diamond111
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from ase.neighborlist import neighbor_list

SEED = 20261120
TEST_FRACTION = 0.15
LATTICE = 5.47  # Å, diamond silicon in PBE
CUTOFF_EV = 300.0
SMEARING_EV = 0.1
K_DENSITY = 16.5  # Å: about this many k-points times the height of the cell; more for the metallic kinds
K_DENSITY_METALLIC = {"Liquid": 21.0, "BetaTin": 24.0, "SimpleCubic": 24.0, "BCC": 24.0, "FCC": 24.0}
COST = {"Liquid": 1.7, "BetaTin": 1.5, "SimpleCubic": 1.5, "BCC": 1.5, "FCC": 1.5, "Surface": 1.4}  # rough, relative
VACUUM = 9.0  # Å between a slab and its image
DENSITY_CONVERGENCE = 1e-5  # electrons per valence electron


# --- structures -----------------------------------------------------------------------------------------------

def min_distance(atoms):
    """Shortest interatomic distance in Å, periodic images included (3.5 if none is shorter)."""
    distances = neighbor_list("d", atoms, 3.5)
    return float(distances.min()) if len(distances) else 3.5


def push_apart(atoms, target, *, steps=100):
    """Move every pair closer than ``target`` Å apart along its bond, half of the way each, until none is left."""
    atoms = atoms.copy()
    for _ in range(steps):
        i, d, vectors = neighbor_list("idD", atoms, target)
        if not len(i):
            break
        shift = np.zeros((len(atoms), 3))
        np.add.at(shift, i, -0.5 * ((target - d) / d)[:, None] * vectors)
        atoms.positions += shift
    return atoms


def strained(atoms, strain):
    """Apply the symmetric strain ε: cell -> cell (1 + ε), atoms with it."""
    atoms = atoms.copy()
    atoms.set_cell(atoms.cell[:] @ (np.eye(3) + strain), scale_atoms=True)
    return atoms


def random_strain(rng, amplitude):
    """A symmetric tensor, components uniform in ±amplitude."""
    lower = np.tril(rng.uniform(-amplitude, amplitude, (3, 3)))
    return lower + np.tril(lower, -1).T


def rattled(rng, atoms, sigma, *, shortest=1.8):
    """Gaussian displacements of ``sigma`` Å, drawn again while two atoms are closer than ``shortest`` Å."""
    for _ in range(200):
        moved = atoms.copy()
        moved.positions += rng.normal(0.0, sigma, (len(atoms), 3))
        if min_distance(moved) >= shortest:
            return moved
    raise ValueError(f"no rattle of {sigma} Å keeps {atoms.get_chemical_formula()} above {shortest} Å: lower sigma")


def thermal(rng, atoms, temperature_K):
    """Classical harmonic displacements u = Σ_n sqrt(k_B T / κ_n) e_n (e_n · ξ) of a Born model of diamond silicon.

    Each bond has Φ = k_r r̂r̂ᵀ + k_t (1 - r̂r̂ᵀ), with k_r + 2 k_t = 3 m ω² / 8 = 10.3 eV/Å² from the zone-centre
    phonon (15.5 THz) and k_t / k_r = 0.07 for soft transverse modes. The three rigid translations are left out, and ξ
    is normal in Cartesian components, so that the choice of degenerate modes e_n does not matter.
    """
    n = len(atoms)
    hessian = np.zeros((n, 3, n, 3))
    for i, j, vector in zip(*neighbor_list("ijD", atoms, 2.7), strict=True):
        unit = vector / np.linalg.norm(vector)
        phi = 9.0 * np.outer(unit, unit) + 0.63 * (np.eye(3) - np.outer(unit, unit))
        hessian[i, :, i] += phi
        hessian[i, :, j] -= phi
    kappa, modes = np.linalg.eigh(hessian.reshape(3 * n, 3 * n))
    amplitudes = np.sqrt(units.kB * temperature_K / kappa[3:]) * (modes[:, 3:].T @ rng.normal(size=3 * n))
    moved = atoms.copy()
    moved.positions += (modes[:, 3:] @ amplitudes).reshape(n, 3)
    return moved


def random_packing(rng, n, volume, shortest):
    """``n`` atoms at random in a nearly cubic cell of ``volume`` Å^3 per atom, pushed apart to ``shortest`` Å."""
    for _ in range(200):
        cell = np.cbrt(n * volume) * (np.eye(3) + random_strain(rng, 0.08))
        cell *= np.cbrt(n * volume / abs(np.linalg.det(cell)))
        packed = push_apart(Atoms(f"Si{n}", scaled_positions=rng.random((n, 3)), cell=cell, pbc=True), shortest + 0.05)
        if min_distance(packed) >= shortest:
            return packed
    raise ValueError(f"no packing of {n} atoms at {volume} Å^3 each keeps {shortest} Å: lower the distance")


def slab(face):
    """A slab of diamond silicon, periodic in three directions, with VACUUM Å along z; '100d' has dimer rows."""
    if face == "111":  # ten layers less the outer two: whole bilayers, one dangling bond on each side
        atoms = diamond111("Si", (1, 1, 10), a=LATTICE, vacuum=0.0)[1:-1]
    elif face == "110":
        atoms = cut(bulk("Si", "diamond", a=LATTICE, cubic=True), a=(0.5, -0.5, 0), b=(0, 0, 1), c=(1, 1, 0))
        atoms.set_cell(atoms.cell.cellpar(), scale_atoms=True)
    else:
        atoms = diamond100("Si", (1, 2, 6) if face == "100d" else (1, 1, 8), a=LATTICE, vacuum=0.0)
    if face == "100d":
        order = np.argsort(atoms.positions[:, 2], kind="stable")
        for pair in (order[:2], order[-2:]):
            delta = atoms.get_distance(*pair, mic=False, vector=True)
            atoms.positions[pair] += 0.5 * (1 - 2.35 / np.linalg.norm(delta)) * np.array([delta, -delta])
    atoms.pbc = True
    height = np.ptp(atoms.positions[:, 2])
    cell = atoms.cell[:].copy()
    cell[2] = (0.0, 0.0, height + VACUUM)
    atoms.set_cell(cell)
    atoms.positions[:, 2] += 0.5 * cell[2, 2] - 0.5 * (atoms.positions[:, 2].max() + atoms.positions[:, 2].min())
    return atoms


def crystals():
    """Perfect crystals by name; lattice constants are rough, strain covers the rest."""
    diamond = bulk("Si", "diamond", a=LATTICE, cubic=True)
    primitive = bulk("Si", "diamond", a=LATTICE)
    tin = Atoms("Si4", scaled_positions=[(0, 0, 0), (.5, .5, .5), (0, .5, .25), (.5, 0, .75)],
                cell=(4.81, 4.81, 2.65), pbc=True)
    third, u = 1 / 3, 1 / 16
    hexagonal = Atoms("Si4", scaled_positions=[(third, 2 * third, u), (2 * third, third, u + .5),
                                               (2 * third, third, -u), (third, 2 * third, .5 - u)],
                      cell=(3.86, 3.86, 6.36, 90, 90, 120), pbc=True)
    return {"Si2": primitive, "Si8": diamond, "Si16": primitive * (2, 2, 2),
            "BetaTin": tin, "SimpleCubic": bulk("Si", "sc", a=2.53) * (2, 2, 1),
            "BCC": bulk("Si", "bcc", a=3.09, cubic=True) * (2, 1, 1), "FCC": bulk("Si", "fcc", a=3.87, cubic=True),
            "HexagonalDiamond": hexagonal * (2, 1, 1)}


def interstitial(diamond, site):
    """Diamond with one more atom: tetrahedral or hexagonal hole, or a split pair along [110]."""
    atoms = diamond.copy()
    if site == "split":
        atoms.positions[0] += LATTICE * np.array([0.15, 0.15, 0.07])
        atoms.append("Si")
        atoms.positions[-1] = LATTICE * np.array([-0.15, -0.15, 0.07])
    else:
        atoms.append("Si")
        atoms.positions[-1] = LATTICE * {"tetrahedral": 0.5, "hexagonal": 0.625}[site] * np.ones(3)
    return push_apart(atoms, 2.15)


def generate():
    """All structures in the order of labelling, each with config_type, split, structure_id and group in ``info``.

    A group is one parent configuration with its strain variants and is wholly in train or wholly in test. About
    ``TEST_FRACTION`` of the frames of each config_type are test. The types are interleaved by cost, the
    large cells last, so that an early stop leaves a balanced set.
    """
    perfect = crystals()
    groups = defaultdict(list)

    def add(kind, *frames):
        groups[kind].append(frames)

    def rng_for(kind):  # of its own for each kind, so that changing one kind leaves the others as they were
        return np.random.default_rng([SEED, *kind.encode()])

    rng = rng_for("Diamond_strained")
    for change in (-0.10, -0.075, -0.05, -0.025, 0.0, 0.025, 0.05, 0.075, 0.10, 0.12):
        add("Diamond_strained", strained(perfect["Si2"], (np.cbrt(1 + change) - 1) * np.eye(3)))
    for _ in range(12):
        parent = rattled(rng, perfect["Si8"], 0.02)
        add("Diamond_strained", *(strained(parent, random_strain(rng, 0.06)) for _ in range(2)))
    rng = rng_for("Diamond_rattled")
    for sigma in (0.03, 0.06, 0.09, 0.12, 0.16, 0.20):
        for n in range(6):
            volume = (1 + rng.uniform(-0.01, 0.015)) * np.eye(3)
            parent = perfect["Si16" if n == 5 else "Si8"]
            add("Diamond_rattled", rattled(rng, strained(parent, volume - np.eye(3)), sigma))
    rng = rng_for("Diamond_thermal")
    for temperature in (100, 300, 600, 1000, 1500):
        for n in range(4):
            expansion = 3e-6 * temperature * np.eye(3) + random_strain(rng, 0.005)
            parent = perfect["Si16" if n == 3 else "Si8"]
            add("Diamond_thermal", strained(thermal(rng, parent, temperature), expansion))
    for kind, count in {"BetaTin": 14, "SimpleCubic": 10, "BCC": 8, "FCC": 8, "HexagonalDiamond": 13}.items():
        rng = rng_for(kind)
        for n in range(count):
            parent = strained(perfect[kind], rng.uniform(-0.05, 0.05) * np.eye(3))
            add(kind, rattled(rng, strained(parent, random_strain(rng, 0.04)), (0.02, 0.06, 0.10, 0.15)[n % 4]))
    rng = rng_for("Vacancy")
    for n in range(14):
        atoms = strained(perfect["Si16" if n % 3 == 0 else "Si8"], random_strain(rng, 0.03))
        del atoms[int(rng.integers(len(atoms)))]
        add("Vacancy", rattled(rng, atoms, (0.03, 0.07, 0.12, 0.18)[n % 4]))
    rng = rng_for("Interstitial")
    for n in range(14):
        atoms = interstitial(perfect["Si8"], ("tetrahedral", "hexagonal", "split")[n % 3])
        add("Interstitial", rattled(rng, strained(atoms, random_strain(rng, 0.03)), (0.03, 0.07, 0.10, 0.13)[n % 4]))
    rng = rng_for("Surface")
    for n in range(24):
        atoms = slab(("100", "110", "111", "100d", "110", "111")[n % 6])
        strain = random_strain(rng, 0.02)
        strain[2] = strain[:, 2] = 0.0
        add("Surface", rattled(rng, strained(atoms, strain), (0.02, 0.05, 0.09, 0.14)[n // 6]))
    rng = rng_for("Liquid")
    for n in range(20):
        atoms = random_packing(rng, (8, 8, 9)[n % 3], rng.uniform(15.5, 21.0), (2.0, 2.1, 2.2, 2.3)[n // 3 % 4])
        add("Liquid", atoms)

    ranked = []
    for kind, members in sorted(groups.items()):
        rng = rng_for("split " + kind)
        total, taken = sum(map(len, members)), 0
        test = set()
        for g in rng.permutation(len(members)):
            if taken + len(members[g]) <= round(TEST_FRACTION * total):
                test.add(int(g))
                taken += len(members[g])
        order = [int(g) for g in rng.permutation(len(members))]
        sides = [[g for g in order if (g in test) is side] for side in (False, True)]
        place = {g: (n + 0.4) / len(side) for side in sides for n, g in enumerate(side)}  # test groups evenly between
        rank = 0
        for g in sorted(order, key=place.get):
            for variant, atoms in enumerate(members[g]):
                atoms.positions = atoms.positions.round(8)  # what the file holds is what is labelled
                atoms.set_cell(atoms.cell[:].round(8))
                atoms.info = {"config_type": kind, "split": "test" if g in test else "train",
                              "structure_id": f"{kind}-{g:03d}-{variant}", "group": f"{kind}-{g:03d}"}
                ranked.append((len(atoms) > 12, COST.get(kind, 1.0) * (rank + 0.5) / total, kind, atoms))
                rank += 1
    ranked.sort(key=lambda entry: entry[:3])
    return [entry[-1] for entry in ranked]


# --- labels ---------------------------------------------------------------------------------------------------

def settings(atoms):
    """GPAW's parameters for one frame: the same cutoff and smearing for all, k-points by kind and cell.

    Along lattice vector i there are N_i = ceil(K_DENSITY / h_i - 0.35) k-points, h_i = V / |a_j × a_k| the height of
    the cell, so that cells of every shape come out alike. Bulk grids do not hold Γ. Slabs have Γ alone along z,
    and even Monkhorst-Pack grids in plane.
    """
    n = len(atoms)
    density = K_DENSITY_METALLIC.get(atoms.info["config_type"], K_DENSITY)
    per_vector = density * np.linalg.norm(atoms.cell.reciprocal(), axis=1)
    if atoms.info["config_type"] == "Surface":
        kpts = {"size": (*(2 * math.ceil(count / 2 - 0.35) for count in per_vector[:2]), 1)}
    else:
        kpts = {"size": tuple(math.ceil(count - 0.35) for count in per_vector), "gamma": False}
    return {"mode": {"name": "pw", "ecut": CUTOFF_EV}, "xc": "PBE", "kpts": kpts,
            "occupations": {"name": "fermi-dirac", "width": SMEARING_EV},
            "nbands": 2 * n + max(4, -(-n // 2)), "symmetry": {"point_group": False},
            "convergence": {"density": DENSITY_CONVERGENCE, "energy": 1e-6}, "maxiter": 80}


def fingerprint(atoms):
    """SHA-256 of what the label depends on: species, positions, cell and settings."""
    content = [atoms.numbers.tolist(), atoms.positions.tolist(), atoms.cell.tolist(), settings(atoms)]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def write_atomically(path, data):
    """Write bytes beside ``path``, sync, rename: at any moment the file is whole or absent."""
    beside = path.with_name(f"{path.name}.{os.getpid()}.part")
    with open(beside, "wb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(beside, path)


def label(atoms, path):
    """Energy, forces and (but for slabs) stress of one frame to ``path``; RMM-DIIS first, then PPCG."""
    from gpaw.new.ase_interface import GPAW

    reasons = []
    for eigensolver in ("rmm-diis", "ppcg"):
        wall, cpu = time.time(), time.process_time()
        frame = atoms.copy()
        try:
            frame.calc = GPAW(**settings(atoms), eigensolver={"name": eigensolver}, txt=str(path.with_suffix(".txt")))
            result = {"energy": frame.get_potential_energy(force_consistent=True), "forces": frame.get_forces()}
            if atoms.info["config_type"] != "Surface":
                result["stress"] = frame.get_stress(voigt=True)
            if not all(np.isfinite(value).all() for value in result.values()):
                raise ArithmeticError("a label is not finite")
        except Exception as error:  # whatever ends one label must not end the others: it is recorded and reported
            reasons.append(f"{eigensolver}: {type(error).__name__}: {str(error)[:300]}")
            continue
        record = {key: np.asarray(value).tolist() for key, value in result.items()}
        record |= {"fingerprint": fingerprint(atoms), "eigensolver": eigensolver, "failures": reasons,
                   "wall_seconds": time.time() - wall, "cpu_seconds": time.process_time() - cpu}
        write_atomically(path, json.dumps(record).encode())
        return record, reasons
    return None, reasons


def finished(atoms, path):
    """The stored label of exactly this frame with exactly these settings, or None."""
    if not path.exists():
        return None
    record = json.loads(path.read_text())
    return record if record["fingerprint"] == fingerprint(atoms) else None


def assemble(frames, out):
    """Write ``silicon.extxyz.gz`` from all finished labels, in order of structure_id; returns how many."""
    labelled = []
    for atoms in sorted(frames, key=lambda frame: frame.info["structure_id"]):
        record = finished(atoms, out / "labels" / f"{atoms.info['structure_id']}.json")
        if record is None:
            continue
        stress = {"stress": np.array(record["stress"])} if "stress" in record else {}
        atoms = atoms.copy()
        atoms.calc = SinglePointCalculator(atoms, energy=record["energy"], free_energy=record["energy"],
                                           forces=np.array(record["forces"]), **stress)
        labelled.append(atoms)
    text = io.StringIO()
    if labelled:
        write(text, labelled, format="extxyz")
    write_atomically(out / "silicon.extxyz.gz", gzip.compress(text.getvalue().encode(), 9, mtime=0))
    return len(labelled)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for labels, logs and the assembled file")
    parser.add_argument("--workers", type=int, default=2, help="labels at a time, one core each")
    parser.add_argument("--only", type=int, help="label the first N frames only")
    parser.add_argument("--assemble-only", action="store_true", help="label nothing, assemble what is finished")
    arguments = parser.parse_args()
    labels = arguments.out / "labels"
    labels.mkdir(parents=True, exist_ok=True)
    frames = generate()[: arguments.only]
    paths = {id(atoms): labels / f"{atoms.info['structure_id']}.json" for atoms in frames}
    todo = [] if arguments.assemble_only else [atoms for atoms in frames if finished(atoms, paths[id(atoms)]) is None]
    print(f"{len(frames)} frames, {len(todo)} to label", flush=True)
    failed = {}
    if todo:
        os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"  # inherited by the workers
        with ProcessPoolExecutor(arguments.workers, multiprocessing.get_context("spawn")) as pool:
            jobs = {pool.submit(label, atoms, paths[id(atoms)]): atoms.info["structure_id"] for atoms in todo}
            for done, job in enumerate(as_completed(jobs), start=1):
                record, reasons = job.result()
                if record is None:
                    failed[jobs[job]] = reasons
                seconds = f"{record['wall_seconds']:.1f} s" if record else f"failed: {reasons}"
                print(f"{done}/{len(todo)} {jobs[job]} {seconds}", flush=True)
        write_atomically(arguments.out / "failed.json", json.dumps(failed, indent=1).encode())
    print(f"assembled {assemble(frames, arguments.out)} frames, {len(failed)} failed")


if __name__ == "__main__":
    main()
