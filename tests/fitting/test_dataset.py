"""Reading of data: labels from wherever they stand, in our conventions, and one clear line for whatever is wrong."""

from __future__ import annotations

import gzip
import importlib
import lzma
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.units import GPa

from adatom.fitting.dataset import DataError, Frame, LabelKeys, read_frames

RAW = {
    "energy": -1.5,
    "forces": [[0.1, 0.2, 0.3], [-0.1, -0.2, -0.3]],
    "stress": [0.01, 0.02, 0.03, 0.001, 0.002, 0.003],
}
STRESS = np.array([[0.01, 0.003, 0.002], [0.003, 0.02, 0.001], [0.002, 0.001, 0.03]])


def silicon() -> Atoms:
    return Atoms("Si2", positions=[[0, 0, 0], [1.3, 1.3, 1.3]], cell=np.diag([4.0, 4.0, 5.0]), pbc=True)


def labelled(k: float = 0.0, pbc: tuple[bool, bool, bool] = (True, True, True)) -> Atoms:
    atoms = silicon()
    atoms.pbc = pbc
    atoms.positions[1, 0] += 0.01 * k
    atoms.calc = SinglePointCalculator(atoms, energy=RAW["energy"] + k, forces=RAW["forces"], stress=RAW["stress"])
    return atoms


def write(path: Path, atoms: Atoms | list[Atoms]) -> Path:
    ase.io.write(path, atoms)
    return path


def only(path: Path, **keys: str) -> Frame:
    frames, _ = read_frames([path], keys=LabelKeys(**keys))
    assert len(frames) == 1
    return frames[0]


def check(frame: Frame) -> None:
    assert frame.labels.energy == pytest.approx(-1.5)
    np.testing.assert_allclose(frame.labels.forces, RAW["forces"], atol=1e-8)
    np.testing.assert_allclose(frame.labels.stress, STRESS, atol=1e-9)


# --- formats ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.xyz", "a.extxyz", "a.traj", "a.db", "a.json"])
def test_formats_of_ase(tmp_path: Path, name: str) -> None:
    frames, coverage = read_frames([write(tmp_path / name, [labelled(k) for k in range(3)])])
    check(frames[0])
    assert [f.labels.energy for f in frames] == pytest.approx([-1.5, -0.5, 0.5])
    assert frames[2].source == f"{tmp_path / name}:2"
    assert coverage.summary().splitlines() == [
        "3 frames from 1 file",
        "  energy  3/3 (calculator)",
        "  forces  3/3 (calculator)",
        "  stress  3/3 (calculator)",
    ]


@pytest.mark.parametrize("name", ["a.xyz", "a.traj", "a.db"])
def test_compressed(tmp_path: Path, name: str) -> None:
    plain = write(tmp_path / name, [labelled(k) for k in range(3)])
    packed = tmp_path / (name + ".gz")
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    frames, _ = read_frames([packed])
    assert len(frames) == 3
    check(frames[0])
    assert frames[1].source == f"{packed}:1"


def test_xz(tmp_path: Path) -> None:
    plain = write(tmp_path / "a.xyz", labelled())
    (tmp_path / "b.xyz.xz").write_bytes(lzma.compress(plain.read_bytes()))
    check(only(tmp_path / "b.xyz.xz"))


OUTCAR_HEAD = """ vasp.6.4.2
 POTCAR:    PAW_PBE Si 05Jan2001
 POTCAR:    PAW_PBE Si 05Jan2001
   k-points           NKPTS =      1   k-points in BZ     NKDIM =      1   number of bands    NBANDS=      8
 k-points in reciprocal lattice and weights: G
   0.00000000  0.00000000  0.00000000       1.000
   ISPIN  =      1    spin polarized calculation?
   ions per type =               2
----------------------------------------- Iteration    1(   1)  ---------------------------------------
"""
OUTCAR_STEP = """  in kB      10.00000    20.00000    30.00000     1.00000     2.00000     3.00000
      direct lattice vectors                 reciprocal lattice vectors
     4.000000000  0.000000000  0.000000000     0.250000000  0.000000000  0.000000000
     0.000000000  4.000000000  0.000000000     0.000000000  0.250000000  0.000000000
     0.000000000  0.000000000  5.000000000     0.000000000  0.000000000  0.200000000

 POSITION                                       TOTAL-FORCE (eV/Angst)
 -----------------------------------------------------------------------------------
      0.00000      0.00000      0.00000         0.100000      0.200000      0.300000
      1.30000      1.30000      1.30000        -0.100000     -0.200000     -0.300000
 -----------------------------------------------------------------------------------
  FREE ENERGIE OF THE ION-ELECTRON SYSTEM (eV)
  ---------------------------------------------------
  free  energy   TOTEN  =       {free:.8f} eV

  energy  without entropy=       -1.40000000  energy(sigma->0) =       -1.45000000
"""


@pytest.mark.parametrize("packed", [False, True])
def test_outcar_all_steps_free_energy_and_vasp_sign(tmp_path: Path, packed: bool) -> None:
    text = OUTCAR_HEAD + "".join(OUTCAR_STEP.format(free=-1.5 - k) for k in range(3))
    path = tmp_path / ("OUTCAR.gz" if packed else "OUTCAR")
    path.write_bytes(gzip.compress(text.encode()) if packed else text.encode())
    frames, coverage = read_frames([path])
    assert [f.labels.energy for f in frames] == pytest.approx([-1.5, -2.5, -3.5])
    assert coverage.sources["energy"] == {"calculator free_energy": 3}
    assert "free_energy taken, the forces belong to it (3 frames)" in coverage.summary()
    # VASP: kbar, positive = compression, xx yy zz xy yz zx
    expected = -0.1 * GPa * np.array([[10.0, 1.0, 3.0], [1.0, 20.0, 2.0], [3.0, 2.0, 30.0]])
    np.testing.assert_allclose(frames[0].labels.stress, expected, rtol=1e-12)


VASPRUN = """<?xml version="1.0" encoding="ISO-8859-1"?>
<modeling>
 <kpoints><varray name="kpointlist"><v> 0.0 0.0 0.0 </v></varray><varray name="weights"><v> 1.0 </v></varray></kpoints>
 <atominfo><array name="atoms"><set><rc><c>Si</c><c>1</c></rc><rc><c>Si</c><c>1</c></rc></set></array></atominfo>
 <structure name="initialpos"><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 5</v></varray></crystal>
  <varray name="positions"><v>0 0 0</v><v>0.325 0.325 0.26</v></varray></structure>
{steps}</modeling>
"""
VASPRUN_STEP = """ <calculation>
  <scstep><energy><i name="e_fr_energy">{e}</i><i name="e_0_energy">{e}</i></energy></scstep>
  <structure><crystal><varray name="basis"><v>4 0 0</v><v>0 4 0</v><v>0 0 5</v></varray></crystal>
   <varray name="positions"><v>0 0 0</v><v>0.325 0.325 0.26</v></varray></structure>
  <varray name="forces"><v>0.1 0.2 0.3</v><v>-0.1 -0.2 -0.3</v></varray>
  <varray name="stress"><v>10 1 3</v><v>1 20 2</v><v>3 2 30</v></varray>
  <energy><i name="e_fr_energy">{e}</i><i name="e_0_energy">{e}</i></energy>
 </calculation>
"""


def test_vasprun_all_steps(tmp_path: Path) -> None:
    path = tmp_path / "vasprun.xml"
    path.write_text(VASPRUN.format(steps="".join(VASPRUN_STEP.format(e=-1.5 - k) for k in range(2))))
    frames, coverage = read_frames([path])
    assert [f.labels.energy for f in frames] == pytest.approx([-1.5, -2.5])
    assert frames[0].labels.stress[0, 2] == pytest.approx(-0.3 * GPa)
    assert coverage.sources["energy"] == {"calculator": 2}


def test_unfinished_vasprun_warns(tmp_path: Path) -> None:
    path = tmp_path / "vasprun.xml"
    path.write_text(VASPRUN.format(steps="".join(VASPRUN_STEP.format(e=-1.5 - k) for k in range(2)))[:-400])
    with pytest.warns(UserWarning, match="not finished; the 1 complete steps were read"):
        frames, _ = read_frames([path])
    assert len(frames) == 1


def test_several_files_globs_and_no_file_twice(tmp_path: Path) -> None:
    for name in ("b.xyz", "a.xyz"):
        write(tmp_path / name, [labelled(), labelled(1)])
    frames, coverage = read_frames([str(tmp_path / "*.xyz"), tmp_path / "a.xyz"])
    assert [Path(f.group).name for f in frames] == ["a.xyz", "a.xyz", "b.xyz", "b.xyz"]
    assert coverage.files == 2


def test_deepmd_folders(tmp_path: Path) -> None:
    dpdata = pytest.importorskip("dpdata", reason="pip install 'adatom[data]'")
    rng = np.random.default_rng(0)

    def system(types: list[int]) -> object:
        n = len(types)
        data = {
            "atom_names": ["O", "H"], "atom_numbs": [types.count(0), types.count(1)], "atom_types": np.array(types),
            "orig": np.zeros(3), "cells": np.tile(np.diag([5.0, 6.0, 7.0]), (3, 1, 1)),
            "coords": 5 * rng.random((3, n, 3)), "energies": rng.random(3), "forces": rng.random((3, n, 3)),
            "virials": np.tile(np.diag([1.0, 2.0, 3.0]), (3, 1, 1)),
        }  # fmt: skip
        return dpdata.LabeledSystem(data=data)

    water = system([0, 1, 1])
    water.to("deepmd/npy", str(tmp_path / "npy"), prec=np.float64)  # type: ignore[attr-defined]
    water.to("deepmd/raw", str(tmp_path / "raw"))  # type: ignore[attr-defined]
    dpdata.MultiSystems(water, system([0, 0, 1, 1])).to("deepmd/npy/mixed", str(tmp_path / "mixed"))
    for name, count in (("npy", 3), ("raw", 3), ("mixed", 6)):
        frames, coverage = read_frames([tmp_path / name])
        assert len(frames) == coverage.count("stress") == count
        assert frames[0].structure.numbers.tolist() == [8, 1, 1]
        np.testing.assert_allclose(frames[0].labels.energy, water["energies"][0], rtol=1e-6)  # type: ignore[index]
        np.testing.assert_allclose(frames[0].labels.stress, -np.diag([1.0, 2.0, 3.0]) / 210.0, rtol=1e-6)
    assert len(read_frames([tmp_path])[0]) == 12


# --- labels ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["REF_", "dft_", "DFT_"])
@pytest.mark.parametrize("tensor", ["stress 9", "stress 6", "virials 9", "virial 3x3"])
def test_label_names(tmp_path: Path, prefix: str, tensor: str) -> None:
    atoms = silicon()
    atoms.info[prefix + "energy"] = -1.5
    atoms.arrays[prefix + "forces"] = np.array(RAW["forces"])
    name, form = tensor.split()
    values = {"9": STRESS.ravel(), "6": np.array(RAW["stress"]), "3x3": STRESS}[form]
    atoms.info[prefix + name] = values if name == "stress" else -atoms.get_volume() * values
    frames, coverage = read_frames([write(tmp_path / "a.xyz", atoms)])
    check(frames[0])
    assert coverage.sources["stress"] == {prefix + name: 1}


def test_gpumd_names(tmp_path: Path) -> None:
    atoms = silicon()
    atoms.info["energy"] = -1.5
    atoms.arrays["force"] = np.array(RAW["forces"])
    atoms.info["virial"] = -80.0 * STRESS
    check(only(write(tmp_path / "a.xyz", atoms)))


def test_ref_comes_first_and_calculator_agrees(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info["REF_energy"] = -1.5 + 1e-7
    _, coverage = read_frames([write(tmp_path / "a.xyz", atoms)])
    assert coverage.sources["energy"] == {"REF_energy": 1}


def test_explicit_key_wins_over_everything(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info.update(REF_energy=-7.0, mine=-9.0, my_virial=-80.0 * 2 * STRESS)
    atoms.arrays["f2"] = 2 * np.array(RAW["forces"])
    frame = only(write(tmp_path / "a.xyz", atoms), energy="mine", forces="f2", virial="my_virial")
    assert frame.labels.energy == -9.0
    np.testing.assert_allclose(frame.labels.forces, 2 * np.array(RAW["forces"]))
    np.testing.assert_allclose(frame.labels.stress, 2 * STRESS)


def test_explicit_key_can_name_what_ase_moved_to_the_calculator(tmp_path: Path) -> None:
    check(only(write(tmp_path / "a.xyz", labelled()), energy="energy", forces="forces", stress="stress"))


def test_unknown_stress_names_are_not_taken(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.calc.results.pop("stress")
    atoms.info["stress_label_raw_voigt_eVA3"] = np.array(RAW["stress"])
    path = write(tmp_path / "a.xyz", atoms)
    assert only(path).labels.stress is None
    check(only(path, energy="energy", forces="forces", stress="stress_label_raw_voigt_eVA3"))


def test_missing_labels_are_none_and_counted(tmp_path: Path) -> None:
    bare = labelled(1)
    bare.calc.results.pop("stress")
    no_forces = labelled(2)
    no_forces.calc.results.pop("forces")
    frames, coverage = read_frames([write(tmp_path / "a.xyz", [labelled(), bare, no_forces])])
    assert frames[1].labels.stress is None
    assert frames[2].labels.forces is None
    assert [coverage.count(x) for x in ("energy", "forces", "stress")] == [3, 2, 2]
    assert "stress  2/3 (calculator)" in coverage.summary()


def test_constraints_do_not_zero_forces(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.set_constraint(FixAtoms([0]))
    check(only(write(tmp_path / "a.traj", atoms)))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_nan_labels_are_kept_for_the_audit(tmp_path: Path, value: float) -> None:
    atoms = labelled()
    atoms.calc.results["energy"] = value
    energy = only(write(tmp_path / "a.xyz", atoms)).labels.energy
    assert energy is not None
    assert not np.isfinite(energy)


def test_stress_without_3d_cell_is_masked(tmp_path: Path) -> None:
    slab, zero = labelled(pbc=(True, True, False)), labelled(1, pbc=(True, True, False))
    zero.calc.results["stress"] = np.zeros(6)
    frames, coverage = read_frames([write(tmp_path / "a.traj", [slab, zero])])
    assert all(f.labels.stress is None for f in frames)
    assert coverage.notes == {"masked_stress": 1, "zero_stress": 1}
    assert "WARNING: stress masked" in coverage.summary()


def test_config_type_weights_and_groups(tmp_path: Path) -> None:
    atoms = labelled()
    atoms.info.update(
        config_type="slab", config_weight=2, config_energy_weight=0.5, config_virials_weight=0.0, run="md-7"
    )
    path = write(tmp_path / "a.xyz", [atoms, labelled(1)])
    first, second = read_frames([path])[0]
    assert (first.config_type, first.weight, first.energy_weight, first.forces_weight, first.stress_weight) == (
        "slab",
        2,
        0.5,
        1,
        0,
    )
    assert (second.config_type, second.weight, second.group) == ("default", 1.0, str(path))
    assert read_frames([write(tmp_path / "b.xyz", atoms)], group_key="run")[0][0].group == "md-7"


def test_database_key_value_pairs(tmp_path: Path) -> None:
    with ase.db.connect(tmp_path / "a.db") as db:
        db.write(labelled(), config_type="bulk", config_weight=3.0, data={"REF_forces": np.array(RAW["forces"])})
    frames, coverage = read_frames([tmp_path / "a.db"])
    check(frames[0])
    assert (frames[0].config_type, frames[0].weight) == ("bulk", 3.0)
    assert coverage.sources["forces"] == {"REF_forces": 1}


def test_empty_lines_between_frames_lose_nothing(tmp_path: Path) -> None:
    text = write(tmp_path / "a.xyz", labelled()).read_text()
    (tmp_path / "b.xyz").write_text(text + "\n\n" + text + "\n")
    assert len(read_frames([tmp_path / "b.xyz"])[0]) == 2


def test_emt_stress_and_molecule(tmp_path: Path) -> None:
    copper = bulk("Cu", cubic=True)
    copper.rattle(0.05, seed=1)
    copper.calc = EMT()
    expected = copper.get_stress(voigt=False)
    copper.get_forces()
    water = molecule("H2O")
    water.calc = EMT()
    water.get_forces()
    frames, _ = read_frames([write(tmp_path / "a.traj", [copper, water])])
    np.testing.assert_allclose(frames[0].labels.stress, expected, atol=1e-10)
    assert frames[1].labels.stress is None
    assert frames[1].structure.pbc.tolist() == [False, False, False]


# --- bad input: each with its one line ----------------------------------------------------------------------


def xyz(comment: str = "energy=-1.5", extra: str = "", atoms: int = 2) -> str:
    lattice = 'Lattice="4 0 0 0 4 0 0 0 5"'
    rows = [f"Si {1.3 * k} {1.3 * k} {1.3 * k}{extra}" for k in range(2)]
    return "\n".join([str(atoms), f"{lattice} {comment}", *rows]) + "\n"


FORCES = "Properties=species:S:1:pos:R:3:forces:R:3 energy=-1.5"
BAD_TEXT = {
    "empty": ("", "bad.xyz: the file is empty"),
    "blank": ("\n\n", "bad.xyz: no structures in the file"),
    "no count": ("Si 0 0 0\n", "bad.xyz:0: line 1 should be the number of atoms, but is 'Si 0 0 0'"),
    "zero atoms": ("0\n\n", "bad.xyz:0: line 1 should be the number of atoms"),
    "truncated": (xyz() + xyz()[:-30], r"bad.xyz:1: the file ends within this frame: . of 2 atoms"),
    "cut row": (xyz(FORCES, " 0.1 0.2"), r"bad.xyz:0: atom 0 \(line 3\) has 6 columns, but Properties needs 7"),
    "too many rows": (xyz(atoms=1), "bad.xyz:1: line 4 should be the number of atoms, but is 'Si 1.3"),
    "not numbers": (xyz(FORCES, " a b c"), "bad.xyz:0: cannot be read .*the frame starts at line 1"),
    "unknown element": (xyz().replace("Si 0", "Xy 0"), "bad.xyz:0: cannot be read"),
    "nan position": (xyz().replace("Si 0.0", "Si nan"), "bad.xyz:0: 1 atoms have NaN or infinite positions"),
    "flat cell": (xyz().replace("0 0 5", "4 0 0"), "bad.xyz:0: the three lattice vectors lie in one plane"),
    "energy is text": (xyz("energy=high"), "bad.xyz:0: calculator is 'high', not numbers"),
    "energy is a flag": (xyz("energy"), "bad.xyz:0: calculator is True, not numbers"),
    "energy is a list": (xyz('REF_energy="1 2"'), r"REF_energy has shape \(2,\), but an energy is one number"),
    "forces shape": (
        xyz("Properties=species:S:1:pos:R:3:force:R:2 energy=-1.5", " 0 0"),
        r"bad.xyz:0: force has shape \(2, 2\), but 2 atoms need forces of shape \(2, 3\)",
    ),
    "stress shape": (
        xyz('REF_stress="1 2 3 4"'),
        r"REF_stress has shape \(4,\), but a stress or virial is 3×3, flat 9 or Voigt 6",
    ),
    "stress of six": (xyz('stress="1 2 3 4 5 6"'), "bad.xyz:0: cannot be read .*special 3x3"),
    "asymmetric stress": (xyz('stress="1 2 3 4 5 6 7 8 9"'), "bad.xyz:0: stress is not symmetric"),
    "asymmetric virial": (
        xyz('REF_virials="1 2 3 4 5 6 7 8 9"'),
        "REF_virials is not symmetric: components differ by 4 of 9",
    ),
    "energies disagree": (
        xyz("energy=-1.5 REF_energy=-1.6"),
        "bad.xyz:0: two sources of the energy disagree: REF_energy has -1.6 eV and calculator has -1.5 eV",
    ),
    "forces disagree": (
        xyz("Properties=species:S:1:pos:R:3:REF_forces:R:3:forces:R:3", " 0 0 0.1 0 0 0.2"),
        r"two sources of the forces disagree: REF_forces has 0.1 eV/Å and calculator has 0.2 eV/Å at \[0, 2\]",
    ),
    "stress and virial disagree": (
        xyz('stress="1 0 0 0 1 0 0 0 1" virial="80 0 0 0 80 0 0 0 80"'),
        "two sources of the stress disagree: calculator has 1 eV/Å³ and virial has -1 eV/Å³",
    ),
    "no labels": (xyz("author=me"), "no energy, forces or stress in any of the 1 frames .* they have author"),
    "negative weight": (xyz("energy=1 config_weight=-1"), "bad.xyz:0: config_weight is -1, but a weight is"),
    "weight is text": (xyz("energy=1 config_weight=big"), "bad.xyz:0: config_weight is 'big'"),
}


@pytest.mark.parametrize("case", BAD_TEXT)
def test_bad_files(tmp_path: Path, case: str) -> None:
    text, message = BAD_TEXT[case]
    (tmp_path / "bad.xyz").write_text(text)
    with pytest.raises(DataError, match=message) as caught:
        read_frames([tmp_path / "bad.xyz"])
    assert "\n" not in str(caught.value)


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="gone.xyz: no such file or folder"):
        read_frames([tmp_path / "gone.xyz"])


def test_glob_without_match(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\*.xyz: no file matches this pattern"):
        read_frames([tmp_path / "*.xyz"])


def test_nothing_given() -> None:
    with pytest.raises(DataError, match="no data files given"):
        read_frames([])


def test_single_path_instead_of_list(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"paths must be a list of paths.*write \['data.xyz'\]"):
        read_frames("data.xyz")


def test_truncated_gzip(tmp_path: Path) -> None:
    packed = gzip.compress(write(tmp_path / "a.xyz", [labelled(k) for k in range(20)]).read_bytes())
    (tmp_path / "b.xyz.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match="b.xyz.gz: the compressed file is truncated or damaged"):
        read_frames([tmp_path / "b.xyz.gz"])


def test_gz_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "b.xyz.gz").write_bytes(b"2\nplain text\n")
    with pytest.raises(DataError, match="b.xyz.gz: the compressed file is truncated or damaged"):
        read_frames([tmp_path / "b.xyz.gz"])


def test_unknown_format(tmp_path: Path) -> None:
    (tmp_path / "notes.qqq").write_text("hello\n")
    with pytest.raises(DataError, match="notes.qqq: not a format that ASE knows; give the file the extension"):
        read_frames([tmp_path / "notes.qqq"])


def test_binary_called_xyz(tmp_path: Path) -> None:
    (tmp_path / "a.xyz").write_bytes(bytes([0, 255, 254, 10]))
    with pytest.raises(DataError, match="a.xyz: not a text file"):
        read_frames([tmp_path / "a.xyz"])


@pytest.mark.parametrize("name", ["a.traj", "a.db", "vasprun.xml", "OUTCAR"])
def test_damaged_files_of_other_formats(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"this is not what it says\n" * 3)
    with pytest.raises(DataError, match=f"{name}: cannot be read") as caught:
        read_frames([tmp_path / name])
    assert "\n" not in str(caught.value)


def test_explicit_key_that_is_nowhere(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", labelled())
    with pytest.raises(
        DataError, match="the energy key 'enrgy' is in none of the 1 frames; they have energy, forces, stress"
    ):
        read_frames([path], keys=LabelKeys(energy="enrgy"))


def test_group_key_that_is_missing(tmp_path: Path) -> None:
    path = write(tmp_path / "a.xyz", labelled())
    with pytest.raises(DataError, match="a.xyz:0: no 'run' to group by"):
        read_frames([path], group_key="run")


def test_folder_without_data(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="a folder without DeePMD data"):
        read_frames([tmp_path])


def deepmd_folder(path: Path, names: str | None = "O\nH\n") -> Path:
    (path / "set.000").mkdir(parents=True)
    (path / "type.raw").write_text("0\n1\n1\n")
    if names is not None:
        (path / "type_map.raw").write_text(names)
    np.save(path / "set.000" / "coord.npy", np.zeros((2, 9)) + np.arange(9))
    np.save(path / "set.000" / "box.npy", np.tile(np.eye(3).ravel() * 9, (2, 1)))
    np.save(path / "set.000" / "energy.npy", np.zeros(2))
    return path


def test_deepmd_without_type_map(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="type_map.raw is missing; write the element symbols"):
        read_frames([deepmd_folder(tmp_path / "s", names=None)])


def test_deepmd_with_types_that_are_no_elements(tmp_path: Path) -> None:
    pytest.importorskip("dpdata", reason="pip install 'adatom[data]'")
    with pytest.raises(DataError, match="type_map.raw names 'Type_0', which is no element"):
        read_frames([deepmd_folder(tmp_path / "s", names="Type_0\nType_1\n")])


def test_deepmd_without_energy(tmp_path: Path) -> None:
    folder = deepmd_folder(tmp_path / "s")
    (folder / "set.000" / "energy.npy").unlink()
    pytest.importorskip("dpdata", reason="pip install 'adatom[data]'")
    with pytest.raises(DataError, match=r"energy.npy: missing; a DeePMD system .* needs an energy"):
        read_frames([folder])


def test_deepmd_with_wrong_shape(tmp_path: Path) -> None:
    pytest.importorskip("dpdata", reason="pip install 'adatom[data]'")
    folder = deepmd_folder(tmp_path / "s")
    np.save(folder / "set.000" / "force.npy", np.zeros((2, 6)))
    with pytest.raises(DataError, match="dpdata cannot read this as deepmd/npy") as caught:
        read_frames([folder])
    assert "\n" not in str(caught.value)


def test_deepmd_without_dpdata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError(name)

    folder = deepmd_folder(tmp_path / "s")
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(DataError, match=r"dpdata, which is not installed: pip install 'adatom\[data\]'"):
        read_frames([folder])
