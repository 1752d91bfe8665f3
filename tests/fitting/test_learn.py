"""A campaign, tiny but whole: EMT copper is learnt, stopped, continued; nothing is computed twice."""

from __future__ import annotations

import json
from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT

from adatom.fitting.active.choose import choose
from adatom.fitting.active.config import dump_config as dump_learn_config
from adatom.fitting.active.config import load_config
from adatom.fitting.active.explore import taken
from adatom.fitting.active.frames import divided, first_structures
from adatom.fitting.active.ledger import Ledger, exclusive
from adatom.fitting.active.report import coverage_table
from adatom.fitting.active.selection import Window
from adatom.fitting.active.stop import Stopwatch, finished
from adatom.fitting.active.template import template
from adatom.fitting.cli import main
from adatom.fitting.config import ConfigError, dump_config
from adatom.fitting.config import load_config as load_fit_config
from adatom.potential import AdatomCalculator, load

pytestmark = pytest.mark.usefixtures("quick_compilation")

CONFIG = """
[start]
labels = 10
test = ["test.extxyz"]
[explore]
temperatures_K = [300, 900]
runs = 4
duration_ps = 0.1
growth = 1.0
timestep_fs = 2.0
interval = 10
prototypes = {cu = "cu.extxyz"}
[[explore.structures]]
kind = "rattled"
atoms = 4
count = 12
max_strain = 0.03
[select]
lower_eV_A = 1e-5
upper_eV_A = 5.0
labels = 7
[label]
calculator = "emt"
workers = 2
[fit]
validation_fraction = 0.3
[fit.model.descriptor]
type = "symmetry_functions"
cutoff = 3.6
n_radial = 3
n_angular = 1
zetas = [1.0]
[fit.model.fitting_net]
widths = [8]
[fit.training]
epochs = 20
max_buckets = 1
[fit.uncertainty]
kind = "laplace"
members = 4
[stop]
iterations = 1
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("learn")
    ase.io.write(folder / "cu.extxyz", bulk("Cu", cubic=True))
    test = [bulk("Cu", cubic=True, a=a) for a in (3.5, 3.6, 3.7)]
    for k, atoms in enumerate(test):
        atoms.rattle(0.1, seed=k)
        atoms.calc = EMT()
        atoms.get_stress()
    ase.io.write(folder / "test.extxyz", test)
    (folder / "cu.toml").write_text(CONFIG)
    return folder


@pytest.mark.filterwarnings("ignore::adatom.potential.ExtrapolationWarning")
def test_a_campaign_and_its_continuation(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "cu"
    assert main(["learn", str(folder / "cu.toml"), "--dry-run"]) == 0
    assert "labelled before anything is fitted: 10, 4 to 4 atoms" in capsys.readouterr().out
    assert not out.exists()
    assert main(["learn", str(folder / "cu.toml")]) == 0
    said = capsys.readouterr().out
    assert "1 iterations done" in said
    before = (out / "iteration-001" / "report.json").read_bytes()
    report = json.loads(before)
    assert report["labels"] == {"done": 7, "failed": 0, "rejected": 0}
    assert (report["labels_total"], report["new_labels"]["frames"]) == (17, 7)
    assert report["explored"]["selected"] == 7
    assert report["calibration"] is None, "three validation frames are too few"
    assert report["test"]["forces"] > 0
    final = json.loads((out / "iteration-002" / "final.json").read_text())
    assert (report["frames_train"], final["frames_train"] + 5) == (7, 17), "the last fit knows the last labels"
    assert (out / "model.adatom").read_bytes() == (out / "iteration-002" / "fit" / "model.adatom").read_bytes()
    assert "\n        2      17    0" in said
    with Ledger(out / "ledger.sqlite", settings=load_config(out / "config.toml").label.fingerprint) as ledger:
        old = {c.hash: c.finished for c in ledger.rows("done")}
    more = CONFIG.replace("iterations = 1", "iterations = 2\nhours = 1e6").replace("[fit]", '[fit]\nstart = "previous"')
    (folder / "cu.toml").write_text(more)
    assert main(["learn", str(folder / "cu.toml")]) == 0
    assert "2 iterations done" in capsys.readouterr().out
    assert (out / "iteration-001" / "report.json").read_bytes() == before
    with Ledger(out / "ledger.sqlite", settings=load_config(folder / "cu.toml").label.fingerprint) as ledger:
        now = {c.hash: (c.finished, c.attempt) for c in ledger.rows("done")}
    assert {h: now[h] for h in old} == {h: (t, 1) for h, t in old.items()}
    fits = [load_fit_config(out / f"iteration-00{n}" / "fit" / "config.toml") for n in (1, 2)]
    assert [f.training.epochs for f in fits] == [20, 6], "it goes on from the potential before"
    assert fits[1].training.learning_rate == 0.25 * fits[0].training.learning_rate
    ends = [(out / f"iteration-00{n}" / "final.json").exists() for n in (2, 3)]
    assert ends == [False, True], "a last fit made with other settings is not gone on with"
    known = load(out / "iteration-002" / "fit" / "model.adatom").committee.calibration  # type: ignore[union-attr]
    assert known is not None
    assert known.data.endswith("labels of earlier iterations before training on them")
    data = ase.io.read(out / "data.extxyz", ":")
    assert len(data) == len(now) > len(old)
    for atoms in data[:3]:
        label = atoms.get_forces()
        atoms.calc = EMT()
        np.testing.assert_allclose(label, atoms.get_forces(), atol=1e-7)
    atoms.calc = AdatomCalculator(out / "model.adatom")
    assert atoms.calc.get_property("forces_std", atoms).shape == (4,)
    page = (out / "report.html").read_text()
    assert page.count("<tr>") >= 4
    for what in ("data:image/png;base64,", "accurate %", "core h", "hours", "E new", "F new", "Calibration"):
        assert what in page, what
    assert main(["learn", "status", str(out)]) == 0
    said = capsys.readouterr().out
    assert "E test" in said
    assert f"no loop is at work here; go on with: adatom learn {out}" in said
    assert main(["learn", "stop", str(out)]) == 0
    assert "there is nothing to stop" in capsys.readouterr().out
    with exclusive(out):
        assert main(["learn", "stop", str(out)]) == 0
        assert (out / "stop").exists()
        assert main(["learn", "status", str(out)]) == 0
        assert "at work: process " in capsys.readouterr().out
        assert main(["learn", str(out)]) == 2
    assert "another loop is at work here" in capsys.readouterr().err
    assert main(["learn", "retry", str(out)]) == 0
    assert "0 failed calculations are queued again" in capsys.readouterr().out


def test_few_labels_are_fitted_long_enough(folder: Path) -> None:
    """Epochs that are not given make enough steps of a few frames, not too many of a lot; those given stay. So does decay."""
    (folder / "e.toml").write_text(CONFIG.replace("epochs = 20", "epochs = 0\nbatch_atoms = 64"))
    config = load_config(folder / "e.toml")
    few, some, many = (config.fit_config(folder / "x", iteration=1, atoms=n).training for n in (100, 1000, 100_000))
    assert (few.epochs, some.epochs, many.epochs) == (1500, 1200, 40), "3000 steps, 1200 epochs, 4,000,000 visits to atoms"
    assert (few.weight_decay, some.weight_decay) == (0.3, pytest.approx(0.06)), "inversely as the atoms above 200"
    assert few.keep == "last"
    assert config.fit_config(folder / "x", iteration=1, atoms=100).loss.energy_end == 20.0, "a tenth of that of adatom fit"
    assert config.fit_config(folder / "x", iteration=1, atoms=100, goes_on=True).training.epochs == 450
    assert load_config(folder / "cu.toml").fit_config(folder / "x", iteration=1, atoms=100).training.epochs == 20


def test_runs_take_every_kind_in_turn() -> None:
    made = [ase.Atoms(info={"config_type": kind}) for kind in "aaabbc"]
    assert taken(made, 0, 6) == [0, 3, 5, 1, 4, 5]
    assert taken(made, 6, 3) == [2, 3, 5]


def test_divided_by_content() -> None:
    """The side of a frame depends on nothing else; rare elements are trained on."""
    frames = [bulk("Cu", a=3.5 + 0.001 * k) for k in range(400)]
    train, held = divided(frames, 0.2)
    assert 40 < len(held) < 120
    again = divided(frames[100:], 0.2)[1]
    assert {x.cell[0, 1] for x in again} == {x.cell[0, 1] for x in held} & {x.cell[0, 1] for x in frames[100:]}
    sides = divided([*train, *held, bulk("Ni"), bulk("Ag")], 0.9999999)
    assert (len(sides[0]), sides[1]) == (402, [])


def test_budgets(tmp_path: Path, folder: Path) -> None:
    """Hours of the clock are those of all processes together."""
    (folder / "b.toml").write_text(CONFIG.replace("[stop]", "[stop]\nhours = 2.0").replace("iterations = 1", "iterations = 9"))
    config = load_config(folder / "b.toml")
    done = {"explored": {}, "labels_total": 3, "core_hours": 9.0, "hours": 1.9}
    assert finished(config, tmp_path, 0, done) == ""
    assert finished(config, tmp_path, 0, done | {"hours": 2.1}) == "the budget of 2 hours is used up"
    (tmp_path / "stop").touch()
    assert finished(config, tmp_path, 0, done) == "asked to stop"
    assert finished(config, tmp_path, 0, done) == ""
    (tmp_path / "s.json").write_text('{"seconds": 100.0}')
    assert 100.0 <= Stopwatch(tmp_path / "s.json").mark() < 130.0


WRONG = [
    ("runs = 4", "runz = 4", "unknown key 'runz' in [explore]: did you mean 'runs'?"),
    ("upper_eV_A = 5.0", "", "give both lower_eV_A and upper_eV_A, or neither"),
    ('calculator = "emt"', 'calculator = "emmt"', "unknown calculator 'emmt' in [label]: did you mean 'emt'?"),
    ('kind = "laplace"', 'kind = "none"', "uncertainty.kind cannot be none"),
    ("[label]", "[labels]", "there is no section [label]"),
    ("cu.extxyz", "no.extxyz", "prototype 'cu'"),
]


@pytest.mark.parametrize(("old", "new", "message"), WRONG, ids=[w[1] or "no upper" for w in WRONG])
def test_mistakes_are_one_line(folder: Path, capsys: pytest.CaptureFixture[str], old: str, new: str, message: str) -> None:
    path = folder / "wrong.toml"
    path.write_text(CONFIG.replace(old, new))
    assert main(["learn", str(path), "--dry-run"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert message in said


def test_the_template_is_a_config(tmp_path: Path) -> None:
    (tmp_path / "learn.toml").write_text(template())
    config = load_config(tmp_path / "learn.toml")
    assert config.explore.prototypes == {"silicon": str(tmp_path / "silicon.cif")}
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "config.toml").write_text(dump_learn_config(config))
    assert load_config(tmp_path / "elsewhere" / "config.toml") == config
    with pytest.raises(ConfigError, match="no such config file"):
        load_config(tmp_path / "none.toml")


def test_a_fit_in_a_relative_folder_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The config that a fit finds in its folder is the one it is called with."""
    (tmp_path / "learn.toml").write_text(template())
    monkeypatch.chdir(tmp_path)
    wanted = load_config("learn.toml").fit_config(Path("si/train.extxyz"), iteration=1, atoms=100)
    (tmp_path / "fit.toml").write_text(dump_config(wanted))
    assert load_fit_config(tmp_path / "fit.toml") == wanted


def test_weighted_takes_large_deviations_of_different_kinds() -> None:
    """Ten frames alike with the largest σ, one of another kind with a smaller one: each kind once."""
    frames = [bulk("Cu", cubic=True) for _ in range(20)]
    deviation = np.r_[np.full(10, 0.9), 0.5, np.full(9, 0.11)]
    features = np.r_[np.tile([1.0, 0.0], (10, 1)), [[0.0, 1.0]], np.tile([0.1, 0.1], (9, 1))]
    found = choose(frames, deviation, features, np.zeros((0, 2)), window=Window(0.1, 1.0), rule="weighted", count=2, seed=0)
    assert sorted(found.chosen) == [0, 10]


def test_first_structures_of_every_kind() -> None:
    made = [bulk("Cu") for _ in range(12)]
    for k, atoms in enumerate(made):
        atoms.info["config_type"] = "a" if k < 10 else "b"
    assert [x.info["config_type"] for x in first_structures(made, 6)] == ["a"] * 4 + ["b"] * 2
    assert len(first_structures(made, 40)) == 12


def test_beyond_the_window_where_it_is_empty() -> None:
    """Sound frames in the window first; then the least deviating above it; broken ones never."""
    frames = [bulk("Cu", cubic=True) for _ in range(6)]
    frames[4].positions[1] = frames[4].positions[0] + 0.1
    deviation = np.array([0.01, 0.2, 0.9, 0.7, 0.3, np.inf])
    features = np.eye(6)
    found = choose(frames, deviation, features, np.zeros((0, 6)), window=Window(0.1, 0.5), rule="determinant", count=3, seed=0)
    assert found.chosen == [1, 3, 2]
    assert found.rejected == {"atoms too close": 1}
    assert found.beyond == 2
    assert found.fractions[:3] == pytest.approx((1 / 6, 2 / 6, 3 / 6))


def test_a_share_of_quiet_frames() -> None:
    """A quarter from the accurate ones, those unlike the others; none where there is nothing else, and few beside few."""
    frames = [bulk("Cu", cubic=True) for _ in range(12)]
    deviation = np.r_[np.full(6, 0.3), np.full(6, 0.01)]
    features = np.r_[np.eye(6), np.tile(np.eye(6)[0], (5, 1)), np.eye(6)[5:]]
    given = {"window": Window(0.1, 0.5), "rule": "random", "seed": 0, "quiet": 0.25}
    found = choose(frames, deviation, features, np.eye(6)[:5], count=4, **given)  # type: ignore[arg-type]
    assert (len(found.chosen), found.chosen[-1]) == (4, 11)
    assert max(found.chosen[:-1]) < 6
    assert choose(frames, 0.1 * deviation, features, np.eye(6), count=4, **given).chosen == []  # type: ignore[arg-type]
    deviation[1:6] = 0.01
    assert choose(frames, deviation, features, np.eye(6), count=4, **given).chosen == [0]  # type: ignore[arg-type]


def test_the_report_shows_the_calibration(tmp_path: Path) -> None:
    one = {"scale": 2.0, "nominal": [0.5, 0.9], "factors": [1.0, 2.0], "found": [0.55, 0.88], "rank": 0.4, "samples": 9}
    judged = {"nominal": [0.5, 0.9], "found": [0.4, 0.7], "ratio": 1.3, "rank": 0.2, "count": 5}
    known = {"energy": one, "forces": one, "data": "validation, 9 frames"}
    found = [
        {"iteration": 0},
        {"iteration": 1, "calibration": None, "new_labels": {}},
        {"iteration": 2, "calibration": known, "new_labels": {"coverage": {"energy": judged, "forces": judged}}},
        {"iteration": 3, "calibration": known, "new_labels": None},
    ]
    lines = coverage_table(found)
    assert lines[0] == ["iteration", "of", "on", "50 %", "90 %", "error/σ", "rank correlation"]
    assert lines[2] == ["2", "energy", "new labels", "40", "70", "1.30", "0.20"]
    assert [x[0] for x in lines[1:]] == ["2"] * 4 + ["3"] * 2
    assert coverage_table(found[:2]) == []
