"""Bad files, configs, structures and arguments: exit code 2 and one line on stderr that says what and where."""

from __future__ import annotations

import gzip
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import ase.io
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import make_potential, symmetry_functions

from adatom.fitting import cli
from adatom.potential.model_file import save


class Place(NamedTuple):
    """A folder with train.xyz (12 labelled frames of copper), model.adatom (copper), start.xyz and config.toml."""

    folder: Path

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str, content: str | bytes) -> str:
        path = self.folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return name

    def frames(self, name: str, change: Callable[[list[Atoms]], object] = lambda frames: None) -> str:
        frames = ase.io.read(self / "train.xyz", ":")
        change(frames)
        ase.io.write(self / name, frames)
        return name

    def structure(self, name: str, **changes: object) -> str:
        atoms = bulk("Cu", cubic=True)
        for key, value in changes.items():
            setattr(atoms, key, value)
        ase.io.write(self / name, atoms)
        return name


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place, rng = Place(tmp_path_factory.mktemp("made")), np.random.default_rng(0)
    frames = []
    for _ in range(12):
        atoms = bulk("Cu", cubic=True)
        atoms.positions += rng.normal(0, 0.05, (4, 3))
        forces = rng.normal(0, 0.1, (4, 3))
        atoms.calc = SinglePointCalculator(atoms, energy=-4 + 0.01 * rng.normal(), forces=forces - forces.mean(axis=0))
        frames.append(atoms)
    ase.io.write(place / "train.xyz", frames)
    ase.io.write(place / "start.xyz", bulk("Cu", cubic=True))
    save(make_potential((29,), symmetry_functions(cutoff=3.6, n_radial=3, n_angular=0)), place / "model.adatom")
    place.text("config.toml", "[data]\ntrain = ['train.xyz']\n")
    return place


@pytest.fixture
def place(made: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    for source in made.folder.iterdir():
        (tmp_path / source.name).write_bytes(source.read_bytes())
    monkeypatch.chdir(tmp_path)
    return Place(tmp_path)


def without_energy(frames: list[Atoms]) -> None:
    for atoms in frames:
        del atoms.calc.results["energy"]


def nan_energy(frames: list[Atoms]) -> None:
    frames[5].calc.results["energy"] = np.nan


def aluminium(frames: list[Atoms]) -> None:
    frames[7].numbers[0] = 13


def bare(frames: list[Atoms]) -> None:
    for atoms in frames:
        atoms.calc = None


def at_one_place(frames: list[Atoms]) -> None:
    frames[2].positions[1] = frames[2].positions[0]


def rewritten(place: Place, **changes: object) -> str:
    """The model with another header."""
    with zipfile.ZipFile(place / "model.adatom") as old, zipfile.ZipFile(place / "other.adatom", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "header.json":
                content = json.dumps(json.loads(content) | changes).encode()
            new.writestr(name, content)
    return "other.adatom"


def flipped(place: Place) -> str:
    content = bytearray((place / "model.adatom").read_bytes())
    at = len(content) // 2
    content[at : at + 8] = bytes(255 - x for x in content[at : at + 8])
    return place.text("other.adatom", bytes(content))


def a_run(place: Place) -> str:
    (place / "run").mkdir()
    place.text("run/model.adatom", (place / "model.adatom").read_bytes())
    return "run"


def halved(place: Place) -> str:
    content = gzip.compress((place / "train.xyz").read_bytes())
    return place.text("t.xyz.gz", content[: len(content) // 2])


FIT = ("fit", "--out", "out", "--train")
MD = ("md", "model.adatom")
GO = ("--ensemble", "nvt", "--temperature-K", "300", "--steps", "2", "--out", "t.extxyz")


def toml(text: str) -> Callable[[Place], list[str]]:
    return lambda p: ["fit", p.text("bad.toml", "[data]\ntrain = ['train.xyz']\n" + text), "--out", "out"]


# name: (arguments, phrases of the one line)
CASES: dict[str, tuple[Callable[[Place], list[str]], tuple[str, ...]]] = {
    # data
    "no file": (lambda p: [*FIT, "nowhere.xyz"], ("nowhere.xyz: no such file or folder",)),
    "no match": (lambda p: [*FIT, "run*/*.xyz"], ("run*/*.xyz: no file matches this pattern",)),
    "empty file": (lambda p: [*FIT, p.text("empty.xyz", "")], ("empty.xyz: the file is empty",)),
    "empty gzip": (lambda p: [*FIT, p.text("empty.xyz.gz", b"")], ("empty.xyz.gz: the compressed file is empty",)),
    "truncated frame": (
        lambda p: [*FIT, p.text("cut.xyz", "\n".join((p / "train.xyz").read_text().splitlines()[:-2]))],
        ("cut.xyz:11: the file ends within this frame: 2 of 4 atoms are there",),
    ),
    "truncated gzip": (
        lambda p: [*FIT, halved(p)], ("t.xyz.gz: the compressed file is truncated or damaged",),
    ),
    "no format": (lambda p: [*FIT, p.text("notes.foo", "# notes")], ("notes.foo: not a format that ASE knows",)),
    "binary": (lambda p: [*FIT, p.text("b.xyz", b"\xff\xfe\x00\x01")], ("b.xyz: not a text file",)),
    "folder without data": (lambda p: [*FIT, "."], ("a folder without DeePMD data",)),
    "no labels": (lambda p: [*FIT, p.frames("bare.xyz", bare)], ("no energy, forces or stress in any of the 12 frames",)),
    "no energies": (
        lambda p: [*FIT, p.frames("f.xyz", without_energy)], ("loss.energy", "no training frame has a label of energy"),
    ),
    "nan energy": (
        lambda p: [*FIT, p.frames("n.xyz", nan_energy)], ("the audit found 1 error", "energy of 1 frame is NaN"),
    ),
    "nan energy, audit off": (
        lambda p: [*FIT, p.frames("n.xyz", nan_energy), "--set", "data.audit=off"],
        ("n.xyz:5: energy is NaN or infinite",),
    ),
    "nan energy in test": (
        lambda p: ["test", "model.adatom", p.frames("n.xyz", nan_energy)], ("n.xyz:5: energy is NaN or infinite",),
    ),
    "overlap": (
        lambda p: [*FIT, p.frames("o.xyz", at_one_place)], ("the audit found", "Cu-Cu 0.000 Å", "data.audit=warn"),
    ),
    "overlap in test": (
        lambda p: ["test", "model.adatom", p.frames("o.xyz", at_one_place)],
        ("o.xyz:2", "atoms on top of each other"),
    ),
    "stress weighted, not there": (
        lambda p: [*FIT, "train.xyz", "--set", "loss.stress_end=5"], ("loss.stress", "no training frame has a label of stress"),
    ),
    "wrong key": (
        lambda p: [*FIT, "train.xyz", "--set", "data.energy_key=TotEnergy"], ("the energy key 'TotEnergy' is in none",),
    ),
    "element of test unknown to train": (
        lambda p: [*FIT, "train.xyz", "--test", p.frames("al.xyz", aluminium)],
        ("al.xyz:7 has Al, which no training frame has",),
    ),
    "element unknown to the model in test": (
        lambda p: ["test", "model.adatom", p.frames("al.xyz", aluminium)],
        ("al.xyz:7", "the model knows Cu", "has Al"),
    ),
    "audit of nothing": (lambda p: ["audit", "nowhere.xyz"], ("nowhere.xyz: no such file or folder",)),
    "audit cutoff": (lambda p: ["audit", "train.xyz", "--cutoff", "-1"], ("--cutoff needs a positive length in Å, got -1",)),
    # model files
    "no model": (lambda p: ["info", "no.adatom"], ("no.adatom: no such model file",)),
    "folder as model": (lambda p: ["info", a_run(p)], ("run: a folder, not a model file; did you mean run/model.adatom",)),
    "empty model": (lambda p: ["info", p.text("e.adatom", b"")], ("e.adatom: empty",)),
    "truncated model": (
        lambda p: ["test", p.text("h.adatom", (p / "model.adatom").read_bytes()[:900]), "train.xyz"],
        ("h.adatom: truncated or corrupted",),
    ),
    "corrupted model": (lambda p: ["info", flipped(p)], ("other.adatom: ", "corrupted")),
    "foreign model": (lambda p: ["info", "train.xyz"], ("train.xyz: not a potential of adatom",)),
    "foreign zip": (lambda p: ["info", rewritten(p, format="deepmd")], ("other.adatom: not a potential of adatom",)),
    "newer model": (lambda p: ["info", rewritten(p, format_version=99)], ("format version 99", "upgrade adatom")),
    "changed model": (lambda p: ["info", rewritten(p, cutoff=9.0)], ("does not match the checksum",)),
    # configs
    "no config": (lambda p: ["fit", "nowhere.toml"], ("nowhere.toml: no such config file", "adatom template fit")),
    "nothing given": (lambda p: ["fit"], ("give a CONFIG.toml, or --train DATA",)),
    "bad TOML": (toml("epochs = = 3"), ("bad.toml: not valid TOML", "line 3")),
    "typo": (toml("[training]\nepoch = 3"), ("unknown key 'epoch' in [training]: did you mean 'epochs'?",)),
    "typo of a section": (toml("[los]\nhuber = 3"), ("unknown key 'los' in the file: did you mean 'loss'?",)),
    "negative cutoff": (toml("[model.descriptor]\ncutoff = -3.0"), ("'cutoff' in [model.descriptor]", "-3.0")),
    "negative epochs": (toml("[training]\nepochs = -1"), ("'epochs' in [training]", "greater than or equal to 0")),
    "no batch": (toml("[training]\nbatch_atoms = 0"), ("'batch_atoms' in [training]", "greater than or equal to 1")),
    "precision": (toml("[training]\nprecision = 'half'"), ("'precision' in [training]", "'float32'", "'half'")),
    "no such element": (toml("[model]\nelements = ['Cq']"), ("'Cq' is not the symbol of an element",)),
    "element not in the data": (toml("[model]\nelements = ['Cu', 'O']"), ("model.elements has O, which no training",)),
    "element not named": (toml("[model]\nelements = ['O']"), ("the training data have Cu too",)),
    "e0 of one lacks": (toml("[model.e0]\nO = -1.0"), ("model.e0 lacks Cu",)),
    "no isolated atoms": (toml("[model]\ne0 = 'isolated_atoms'"), ("no isolated-atom frame of Cu",)),
    "no loss": (
        toml("[loss]\n" + "\n".join(f"{t}_{e} = 0" for t in ("energy", "forces", "stress") for e in ("start", "end"))),
        ("all prefactors are zero",),
    ),
    "group of nothing": (
        lambda p: [*FIT, "train.xyz", "--set", "data.group_key=run"],
        ("train.xyz:0: no 'run' to group by",),
    ),
    "one group": (lambda p: [*FIT, "train.xyz", "--set", "data.split=group"], ("a split by group needs two groups",)),
    "bad set": (lambda p: [*FIT, "train.xyz", "--set", "epochs"], ("--set epochs: write section.key=value",)),
    "set of the wrong type": (
        lambda p: [*FIT, "train.xyz", "--set", "training.epochs=soon"], ("'epochs' in [training]", "'soon'"),
    ),
    # folders
    "out exists": (lambda p: ["fit", "config.toml", "--out", a_run(p)], ("run: holds a run already", "--resume")),
    "nothing to resume": (lambda p: ["fit", "--resume", "--out", "none"], ("none: nothing to resume",)),
    "nothing to resume, config": (
        lambda p: ["fit", "config.toml", "--resume", "--out", "none"], ("none: nothing to resume",),
    ),
    "out is a file": (lambda p: ["fit", "config.toml", "--out", "start.xyz"], ("start.xyz: cannot be made a folder",)),
    "out below a file": (lambda p: ["fit", "config.toml", "--out", "start.xyz/x"], ("start.xyz/x",)),
    "config below a file": (lambda p: ["fit", "start.xyz/x.toml"], ("start.xyz/x.toml",)),
    # molecular dynamics
    "no start": (lambda p: [*MD, "nowhere.xyz", *GO], ("nowhere.xyz",)),
    "broken start": (
        lambda p: [*MD, p.text("b.xyz", "4\nx\nCu 0 0"), *GO], ("b.xyz: cannot be read as a structure",),
    ),
    "element unknown in md": (
        lambda p: [*MD, p.structure("al.xyz", symbols="CuCuCuAl"), *GO], ("the model knows Cu; al.xyz has Al",),
    ),
    "nan positions": (
        lambda p: [*MD, p.structure("n.traj", positions=np.full((4, 3), np.nan)), *GO],
        ("4 atoms have NaN or infinite positions, the first is atom 0",),
    ),
    "atoms on top of each other": (
        lambda p: [*MD, p.structure("o.xyz", positions=np.zeros((4, 3))), *GO], ("atoms too close",),
    ),
    "singular cell": (
        lambda p: [*MD, p.structure("s.traj", cell=[[3, 0, 0], [0, 3, 0], [3, 3, 0]]), *GO], ("lie in one plane",),
    ),
    "no lattice vector": (
        lambda p: [*MD, p.structure("s.traj", cell=[[3, 0, 0], [0, 3, 0], [0, 0, 0]]), *GO], ("lattice vector 2 has no length",),
    ),
    "nvt without temperature": (
        lambda p: [*MD, "start.xyz", "--ensemble", "nvt", "--steps", "2", "--out", "t.traj"], ("nvt needs temperature_K",),
    ),
    "nve without velocities": (
        lambda p: [*MD, "start.xyz", "--ensemble", "nve", "--steps", "2", "--out", "t.traj"], ("no velocities", "temperature_K"),
    ),
    "pressure in nvt": (lambda p: [*MD, "start.xyz", *GO, "--pressure-GPa", "1"], ("pressure_GPa is for npt only",)),
    "negative timestep": (lambda p: [*MD, "start.xyz", *GO, "--timestep-fs", "-1"], ("timestep_fs: Input should be greater",)),
    "timestep no number": (
        lambda p: [*MD, "start.xyz", *GO, "--timestep-fs", "fast"], ("--timestep-fs: invalid float value: 'fast'",),
    ),
    "no steps": (lambda p: [*MD, "start.xyz", *GO, "--steps", "0"], ("steps: Input should be greater",)),
    "no interval": (lambda p: [*MD, "start.xyz", *GO, "--interval", "0"], ("interval: Input should be greater",)),
    "supercell": (lambda p: [*MD, "start.xyz", *GO, "--supercell", "0", "1", "1"], ("--supercell needs positive numbers",)),
    "suffix": (lambda p: [*MD, "start.xyz", *GO[:-1], "t.pdb"], ("t.pdb: the suffix must be one of",)),
    "no folder for the trajectory": (lambda p: [*MD, "start.xyz", *GO[:-1], "no/t.traj"], ("there is no folder no",)),
    "trajectory exists": (lambda p: [*MD, "start.xyz", *GO[:-1], "train.xyz"], ("train.xyz exists already",)),
    "ensemble": (lambda p: [*MD, "start.xyz", *GO, "--ensemble", "nph"], ("--ensemble: invalid choice: 'nph'",)),
    # arguments
    "unknown verb": (lambda p: ["train"], ("invalid choice: 'train'",)),
    "no verb": (lambda p: [], ("required: VERB",)),
    "unknown flag": (lambda p: ["info", "model.adatom", "--fast"], ("unrecognized arguments: --fast",)),
    "plot suffix": (
        lambda p: ["test", "model.adatom", "train.xyz", "--plot", "p.docx"], ("docx",),
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_one_line_and_exit_code_2(name: str, place: Place, capsys: pytest.CaptureFixture[str]) -> None:
    arguments, phrases = CASES[name]
    command = arguments(place)
    before = {p for p in place.folder.rglob("*") if p.name in ("model.adatom", "checkpoint.zip", "metrics.json")}
    try:
        code = cli.main(command)
    except SystemExit as stop:
        code = int(stop.code or 0)
    err = capsys.readouterr().err
    assert code == 2, err
    lines = [x for x in err.splitlines() if not x.startswith("testing: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("adatom")
    assert len(lines[0]) < 500
    for phrase in phrases:
        assert phrase in lines[0]
    after = {p for p in place.folder.rglob("*") if p.name in ("model.adatom", "checkpoint.zip", "metrics.json")}
    assert after == before


def test_there_are_many() -> None:
    assert len(CASES) >= 60
