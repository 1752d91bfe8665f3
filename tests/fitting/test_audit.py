"""The audit finds what is wrong in data that were spoilt on purpose, and nothing in data that are right."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.units import GPa

from adatom.fitting.audit import AuditReport, audit, audit_leakage
from adatom.fitting.audit_geometry import measure, same_structures
from adatom.fitting.audit_stress import check_stress, name_factor
from adatom.fitting.dataset import DataError, Frame, LabelKeys, Labels, read_frames
from adatom.potential.structure import from_atoms

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
Change = Callable[[Frame], Frame]


def emt(atoms: Atoms, source: str, config_type: str = "default") -> Frame:
    atoms = atoms.copy()
    atoms.calc = EMT()
    labels = Labels(
        energy=atoms.get_potential_energy(),
        forces=atoms.get_forces(),
        stress=atoms.get_stress(voigt=False) if atoms.pbc.all() else None,
    )
    return Frame(from_atoms(atoms), labels, source=source, config_type=config_type, group=source)


def strained(n: int = 14, size: float = 1.0) -> list[Frame]:
    """Al3Cu, rattled once and strained at random by up to 2 % × `size`, moved a little."""
    rng = np.random.default_rng(1)
    base = bulk("Al", "fcc", a=4.0, cubic=True).repeat((2, 1, 1))
    base.symbols[[0, 5]] = "Cu"
    base.rattle(0.05, seed=2)
    frames = []
    for k in range(n):
        atoms = base.copy()
        strain = 0.02 * size * rng.uniform(-1, 1, (3, 3))
        atoms.set_cell(atoms.cell @ (np.eye(3) + 0.5 * (strain + strain.T)), scale_atoms=True)
        atoms.rattle(0.01 * size, seed=10 + k)
        frames.append(emt(atoms, f"strained:{k}", "strain"))
    return frames


def dynamics(n: int = 16) -> list[Frame]:
    """Cu in one cell, rattled: no strain to learn from."""
    frames = []
    for k in range(n):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.rattle(0.12, seed=k)
        frames.append(emt(atoms, f"md:{k}", "md"))
    return frames


STRAINED, DYNAMICS = strained(), dynamics()


def scaled(factor: float) -> Change:
    def change(frame: Frame) -> Frame:
        stress = frame.labels.stress
        return frame if stress is None else replace(frame, labels=replace(frame.labels, stress=factor * stress))

    return change


def relabel(frame: Frame, **labels: object) -> Frame:
    return replace(frame, labels=replace(frame.labels, **labels))  # type: ignore[arg-type]


def codes(report: AuditReport, *severities: str) -> set[str]:
    return {f.code for f in report.findings if f.severity in (severities or ("error", "warning"))}


def message(report: AuditReport, code: str) -> str:
    return next(f.text() for f in report.findings if f.code == code)


# --- stress ----------------------------------------------------------------------------------------------------------

WRONG = [
    (-1.0, "stress-sign", "the sign is wrong"),
    (1 / GPa, "stress-unit", "they are in GPa: multiply by 0.00624151"),
    (-1 / GPa, "stress-unit", "they are in GPa with the wrong sign: multiply by -0.00624151"),
    (10 / GPa, "stress-unit", "they are in kbar: multiply by 0.000624151"),
    (-10 / GPa, "stress-unit", "they are in kbar with the wrong sign: multiply by -0.000624151"),
    (1e4 / GPa, "stress-unit", "they are in bar"),
]


@pytest.mark.parametrize("frames", [STRAINED, DYNAMICS], ids=["strained", "dynamics"])
def test_right_stress_is_confirmed(frames: list[Frame]) -> None:
    report = audit(frames)
    assert not {c for c in codes(report) if c.startswith("stress")}
    assert "stress-agrees" in codes(report, "info")


def test_slope_is_one() -> None:
    (verdict,) = check_stress(STRAINED)
    assert verdict.method == "strain"
    assert verdict.factor == pytest.approx(1.0, abs=0.02)
    assert not abs(verdict.offset_GPa) > 0.1


def test_slope_is_nearer_one_for_smaller_strain() -> None:
    (verdict,) = check_stress(strained(size=0.1))
    assert verdict.factor == pytest.approx(1.0, abs=2e-3)


@pytest.mark.parametrize("frames", [STRAINED, DYNAMICS], ids=["strained", "dynamics"])
@pytest.mark.parametrize(("factor", "code", "text"), WRONG, ids=[t for _, _, t in WRONG])
def test_wrong_stress_is_diagnosed(frames: list[Frame], factor: float, code: str, text: str) -> None:
    report = audit([scaled(factor)(f) for f in frames])
    assert {f.code for f in report.errors} == {code}
    assert text in message(report, code)
    assert len(report.errors[0].frames) == len(frames)


def test_wrapping_of_atoms_does_not_matter() -> None:
    def wrapped(frame: Frame) -> Frame:
        atoms = frame.structure.to_atoms()
        atoms.wrap()
        return replace(frame, structure=from_atoms(atoms))

    (plain,), (again,) = check_stress(STRAINED), check_stress([wrapped(f) for f in STRAINED])
    assert again.factor == pytest.approx(plain.factor, rel=1e-6)


def test_virial_given_as_stress() -> None:
    report = audit([scaled(-f.structure.volume)(f) for f in STRAINED])
    assert "they are −V × stress, the virial in eV" in message(report, "stress-virial")


def test_order_of_shear_components() -> None:
    def vasp_order(frame: Frame) -> Frame:
        s = frame.labels.stress
        assert s is not None
        yz, xz, xy = s[0, 1], s[1, 2], s[0, 2]  # xy, yz, zx stand where yz, xz, xy belong
        return relabel(frame, stress=np.array([[s[0, 0], xy, xz], [xy, s[1, 1], yz], [xz, yz, s[2, 2]]]))

    report = audit([vasp_order(f) for f in STRAINED])
    assert "the shear components stand in VASP's order" in message(report, "stress-order")


def test_missing_pressure() -> None:
    report = audit([relabel(f, stress=f.labels.stress + 2.5 * GPa * np.eye(3)) for f in STRAINED])
    assert "strain -2.5 GPa must be added" in message(report, "stress-offset")


def test_no_factor_that_is_known() -> None:
    assert "which is no unit known here" in message(audit([scaled(37.0)(f) for f in STRAINED]), "stress-factor")


def test_only_one_config_type_is_wrong() -> None:
    mixed = [*STRAINED, *[scaled(-1.0)(f) for f in DYNAMICS]]
    report = audit(mixed)
    assert report.errors[0].code == "stress-sign"
    assert set(report.errors[0].frames) == {f.source for f in DYNAMICS}


def test_too_little_to_check_says_so() -> None:
    assert check_stress(STRAINED[:1])[0].kind == "unknown"
    report = audit(STRAINED[:2])
    assert "could not be checked" in message(report, "stress-unchecked")
    report = audit([scaled(10 / GPa)(f) for f in STRAINED[:2]])
    assert "is it in GPa or kbar?" in message(report, "stress-large")


def test_frames_without_forces_or_energy() -> None:
    no_forces = [relabel(f, forces=None) for f in STRAINED]
    no_energy = [relabel(f, energy=None) for f in DYNAMICS]
    assert not codes(audit(no_energy))
    audit(no_forces)


@pytest.mark.parametrize(("factor", "kind"), [(1.1, "ok"), (-0.9, "sign"), (150.0, "unit"), (12.0, "factor")])
def test_name_factor(factor: float, kind: str) -> None:
    assert name_factor(factor, 1.6)[0] == kind


@pytest.mark.parametrize("name", ["mlearn_Si", "mlearn_Mo", "nbmotaw"])
def test_published_data(name: str) -> None:
    path = DATA / name / ("train_1000.extxyz.gz" if name == "nbmotaw" else "train.extxyz.gz")
    if not path.is_file():
        pytest.skip(f"{path} is not there: the published data sets are not part of the project")
    frames, _ = read_frames([path])
    assert {v.kind for v in check_stress(frames)} <= {"ok", "unknown"}
    for factor, kind in ((-1.0, "sign"), (1 / GPa, "unit"), (10 / GPa, "unit"), (-10 / GPa, "unit")):
        verdicts = check_stress([scaled(factor)(f) for f in frames])
        assert {v.kind for v in verdicts} <= {kind, "unknown"}
        sure = [v for v in verdicts if v.method == "strain"]
        assert sure
        assert all(v.factor == pytest.approx(factor, rel=0.1) for v in sure)


def test_published_copper_labels_lack_a_pressure() -> None:
    path = DATA / "mlearn_Cu" / "train.extxyz.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there: the published data sets are not part of the project")
    assert read_frames([path])[1].count("stress") == 0
    frames, _ = read_frames([path], keys=LabelKeys(stress="stress_label_raw_voigt_eVA3"))
    elastic = next(v for v in check_stress(frames) if v.config_type == "Elastic")
    assert elastic.kind == "ok"
    assert -3.2 < elastic.offset_GPa < -2.0


# --- everything else -------------------------------------------------------------------------------------------------


def test_clean_data_have_no_findings() -> None:
    assert not codes(audit([*STRAINED, *DYNAMICS]))


@pytest.mark.parametrize("label", ["energy", "forces", "stress"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_and_inf(label: str, value: float) -> None:
    shape = {"energy": (), "forces": (8, 3), "stress": (3, 3)}[label]
    bad = relabel(STRAINED[3], **{label: float(value) if label == "energy" else np.full(shape, value)})
    report = audit([*STRAINED[:3], bad, *STRAINED[4:]])
    assert [(f.code, f.frames) for f in report.errors] == [(f"nan-{label}", ("strained:3",))]
    json.dumps(report.as_dict(), allow_nan=False)


def test_net_force() -> None:
    forces = DYNAMICS[2].labels.forces
    assert forces is not None
    report = audit([*DYNAMICS[:2], relabel(DYNAMICS[2], forces=forces + [0.3, 0, 0]), *DYNAMICS[3:]])
    assert "md:2" in message(report, "net-force")
    assert codes(report) == {"net-force"}


def shuffled(frame: Frame, *, shift: float = 0.7, rounding: int = 5) -> Frame:
    """The same structure with atoms reordered, translated and rounded, other images; labels along with it."""
    order = np.random.default_rng(0).permutation(len(frame.structure))
    atoms = frame.structure.to_atoms()[order]
    atoms.positions = np.round(atoms.positions + shift, rounding)
    atoms.wrap()
    forces = frame.labels.forces
    assert forces is not None
    labels = replace(frame.labels, forces=forces[order])
    return replace(frame, structure=from_atoms(atoms), labels=labels, source="copy of " + frame.source)


def test_duplicates() -> None:
    report = audit([*STRAINED, shuffled(STRAINED[4])])
    assert codes(report) - {"collinear-compositions"} == {"duplicates"}
    assert "copy of strained:4" in message(report, "duplicates")


def test_rotated_molecule_is_a_duplicate() -> None:
    water = molecule("H2O")
    turned = water.copy()
    turned.rotate(50, (1, 2, 3))
    assert "duplicates" in codes(audit([emt(water, "a"), emt(turned, "b")]))


def test_same_structure_different_labels() -> None:
    copy = shuffled(STRAINED[4])
    assert copy.labels.energy is not None
    report = audit([*STRAINED, relabel(copy, energy=copy.labels.energy + 0.4)])
    assert "contradicting-labels" in {f.code for f in report.errors}
    assert "50 meV/atom (strained:4 and copy of strained:4" in message(report, "contradicting-labels")


def test_small_displacements_are_not_duplicates() -> None:
    frames = []
    for k in range(6):
        atoms = bulk("Cu", cubic=True).repeat(2)
        atoms.positions[k, k % 3] += 0.01 * (k + 1)
        frames.append(emt(atoms, str(k)))
    assert not same_structures([measure(f.structure, 6.0) for f in frames])


def test_alloy_orderings_with_equal_distances_are_no_contradiction() -> None:
    common = [(0, 0, 0), (0, 4, 0), (4, 0, 0), (4, 4, 0), (0, 0, 4), (2, 2, 2), (2, 6, 2)]

    def ordering(more: list[tuple[int, int, int]]) -> Frame:
        atoms = bulk("Cu", "bcc", a=3.2, cubic=True).repeat(2)
        sites = [tuple(int(n) for n in site) for site in np.round(8 * atoms.get_scaled_positions())]
        atoms.symbols[[sites.index(site) for site in common + more]] = "Au"
        return emt(atoms, str(more))

    first, second = ordering([(6, 2, 2), (6, 6, 2)]), ordering([(2, 2, 6), (2, 6, 6)])
    assert second.labels.energy is not None
    frames = [first, relabel(second, energy=second.labels.energy + 0.08)]
    assert same_structures([measure(f.structure, 6.0) for f in frames]) == [(0, 1)]
    assert "contradicting-labels" not in codes(audit(frames))
    assert audit_leakage(frames[:1], frames[1:]) == []


def test_leakage() -> None:
    findings = {f.code: f for f in audit_leakage(STRAINED[:10], [shuffled(STRAINED[4]), *STRAINED[11:]])}
    assert findings["leakage"].frames == ("copy of strained:4",)
    assert "group-leakage" in findings
    assert audit_leakage(STRAINED[:10], STRAINED[10:]) == []


@pytest.mark.parametrize(
    ("distance", "severity", "code"), [(1.2, "warning", "close-atoms"), (0.6, "error", "overlapping-atoms")]
)
def test_overlapping_atoms(distance: float, severity: str, code: str) -> None:
    atoms = DYNAMICS[0].structure.to_atoms()
    atoms.positions[1] = atoms.positions[0] + [distance, 0, 0]
    report = audit([*DYNAMICS[1:], replace(DYNAMICS[0], structure=from_atoms(atoms), source="close")])
    finding = next(f for f in report.findings if f.code == code)
    assert (finding.severity, finding.frames) == (severity, ("close",))
    assert f"Cu-Cu {distance:.3f} Å" in finding.message
    assert report.min_distances["Cu-Cu"] == pytest.approx(distance)


def test_lonely_atom_and_isolated_atoms() -> None:
    apart = Atoms("CuH2", positions=[[0, 0, 0], [0, 0, 20], [0, 0, 20.8]])
    frames = [emt(apart, "apart"), emt(Atoms("H"), "atom", "IsolatedAtom"), emt(molecule("H2"), "h2")]
    report = audit(frames)
    assert "1 atom in 1 frame with no neighbour within 6 Å (atom 0 of the first)" in message(report, "no-neighbour")
    assert "1 isolated-atom frame (H)" in message(report, "isolated-atoms")


def test_energy_outlier() -> None:
    energy = DYNAMICS[5].labels.energy
    assert energy is not None
    report = audit([*DYNAMICS[:5], relabel(DYNAMICS[5], energy=energy + 20.0), *DYNAMICS[6:]])
    finding = next(f for f in report.findings if f.code == "energy-outliers")
    assert finding.frames == ("md:5",)
    assert "σ, at +0.6" in finding.message


def test_collinear_compositions() -> None:
    water = [emt(molecule("H2O"), "a"), emt(molecule("H2O"), "b")]
    assert "H, O cannot be told apart" in message(audit(water), "collinear-compositions")
    with_atoms = [*water, emt(Atoms("H"), "H"), emt(Atoms("O"), "O")]
    assert "the isolated atoms settle it" in message(audit(with_atoms), "collinear-compositions")


def test_zero_labels_and_no_labels() -> None:
    report = audit([*DYNAMICS, relabel(DYNAMICS[0], stress=np.zeros((3, 3))), replace(DYNAMICS[1], labels=Labels())])
    assert {"zero-stress", "no-labels"} <= codes(report)


def test_table_and_text() -> None:
    report = audit([*STRAINED, *DYNAMICS])
    by_type = {row.config_type: row for row in report.table}
    assert list(by_type) == ["md", "strain"]
    row = by_type["md"]
    forces = np.concatenate([f.labels.forces for f in DYNAMICS if f.labels.forces is not None])
    stresses = np.array([f.labels.stress for f in DYNAMICS])
    assert (row.frames, row.atoms, row.with_stress) == (16, 512, 16)
    assert row.force_rms == pytest.approx(np.sqrt((forces**2).mean()))
    assert row.force_max == pytest.approx(np.linalg.norm(forces, axis=1).max())
    assert row.stress_rms_GPa == pytest.approx(np.sqrt((stresses**2).mean()) / GPa)
    text = report.text()
    assert "shortest distances (Å): Al-Al" in text
    assert "0 errors, 0 warnings" in text
    assert len(json.loads(json.dumps(report.as_dict()))["table"]) == 2


def test_no_frames() -> None:
    with pytest.raises(DataError, match="nothing to audit: no frames were given"):
        audit([])
