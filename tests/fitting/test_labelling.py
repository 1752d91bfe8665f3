"""Labelling with real calculators in real processes, and with real kills: nothing lost, nothing twice, reasons in one line."""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from adatom.fitting.active import label_worker
from adatom.fitting.active.cost import estimate
from adatom.fitting.active.label_checks import check_label, check_structure
from adatom.fitting.active.label_config import ChecksConfig, LabelConfig, label_config, label_template, load_label_config
from adatom.fitting.active.labelling import LabelError, Labelled, cancel, label
from adatom.fitting.active.ledger import Calculation, Ledger
from adatom.potential.structure import from_atoms

# A harmonic crystal that takes its time and counts what it has finished; the first atom says what goes wrong.
MODULE = """
import os, time
import numpy as np
from ase.calculators.calculator import Calculator, all_changes

class Slow(Calculator):
    implemented_properties = ["energy", "free_energy", "forces"]
    default_parameters = {"k": 1.0}

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        first = atoms.get_chemical_symbols()[0]
        attempt = os.path.basename(os.path.dirname(os.getcwd()))
        time.sleep(float(os.environ.get("SLOW_SECONDS", "0")))
        if first == "H":
            raise RuntimeError("the density does\\nnot converge")
        if first == "He":
            os.abort()
        if first == "Li":
            time.sleep(1000)
        if first == "O" and attempt.endswith("-1"):
            raise RuntimeError("bad luck")
        x = atoms.positions
        forces = -self.parameters.k * (x - x.mean(axis=0)) * {"B": 1e4, "C": np.nan}.get(first, 1.0)
        if first == "F":
            forces += 1.0
        energy = 0.5 * self.parameters.k * float(((x - x.mean(axis=0)) ** 2).sum())
        self.results = {"energy": energy + 0.5, "free_energy": energy, "forces": forces, "converged": first != "Be"}
        with open(os.environ["SLOW_COUNTER"], "a") as f:
            f.write(attempt + "\\n")
"""


class Slow:
    """Where the calculator of a test lives, and what it has finished."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "slow_module.py").write_text(MODULE)

    def config(self, *, seconds: float = 0.0, **more: Any) -> LabelConfig:
        environment = {"SLOW_SECONDS": seconds, "SLOW_COUNTER": "./counter"}
        given = {
            "calculator": "slow_module:Slow",
            "environment": environment,
            "stress": False,
            "poll_seconds": 0.05,
            "workers": 2,
            "patience_minutes": 5,
        }
        return label_config(given | more, root=self.folder)

    def finished(self) -> Counter[str]:
        path = self.folder / "counter"
        return Counter(path.read_text().split() if path.exists() else ())


@pytest.fixture
def slow(tmp_path: Path) -> Slow:
    return Slow(tmp_path)


def chain(first: str, length: int = 3, *, seed: int = 0) -> Atoms:
    x = 2.5 * np.arange(length)[:, None] * np.eye(3)[0]
    return Atoms([first] + ["Ne"] * (length - 1), x + np.random.default_rng(seed).normal(0.0, 0.05, (length, 3)))


def workers_of(folder: Path) -> dict[int, list[str]]:
    """Processes at work in a folder: number → command."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().decode().split("\0")
        except OSError:
            continue
        if any(w.endswith("label_worker.py") for w in words) and any(w.startswith(f"{folder.resolve()}/") for w in words):
            found[int(path.parent.name)] = words
    return found


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def test_emt_and_lj(tmp_path: Path) -> None:
    """The labels are the calculator's own, stress where it is defined, and the code is named."""
    copper, cluster = bulk("Cu", cubic=True), Atoms("Ar3", [(0, 0, 0), (3.7, 0, 0), (0, 3.8, 0)])
    copper.rattle(0.1, seed=1)
    for name, atoms, calculator, arguments in (
        ("emt", copper, EMT(), {}),
        ("lj", cluster, LennardJones(sigma=3.4, epsilon=0.01), {"sigma": 3.4, "epsilon": 0.01}),
    ):
        config = label_config({"calculator": name, "arguments": arguments})
        said: list[str] = []
        with Ledger(tmp_path / f"{name}.sqlite", settings=config.fingerprint) as ledger:
            c = ledger.add(atoms, iteration=0, origin={})
            assert estimate(config, [atoms], ledger) is None
            assert label(ledger, config, tmp_path / "jobs", say=said.append) == Labelled(done=1)
            c = ledger[c.hash]
            assert estimate(config, [atoms], ledger) == 0.0
            big = estimate(config, [atoms * (2, 1, 1), atoms], ledger) if name == "emt" else None
        reference = c.structure.to_atoms()
        reference.calc = calculator
        assert not said
        assert c.label_energy == pytest.approx(reference.get_potential_energy(), abs=1e-12)
        np.testing.assert_allclose(c.forces, reference.get_forces(), atol=1e-12)
        if name == "emt":
            np.testing.assert_allclose(c.stress, reference.get_stress(voigt=False), atol=1e-12)
            assert big == pytest.approx(4.0 * (c.seconds or 0.0) / 3600.0)
        else:
            assert c.stress is None
        assert c.code.startswith("ase ")
        assert 0.0 < (c.seconds or 0.0) < 60.0


def test_everything_that_goes_wrong(slow: Slow, tmp_path: Path) -> None:
    """Each failure ends as itself, with its reason and the place of its output, and the others are not disturbed."""
    config = slow.config(attempts=1, workers=4, timeout_minutes=0.1)
    said: list[str] = []
    crowd = Atoms("Ne3", [(0, 0, 0), (0.3, 0, 0), (3, 0, 0)])
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        rows = {s: ledger.add(chain(s), iteration=0, origin={}).hash for s in ("Li", "H", "He", "Be", "B", "C", "F", "Ne")}
        rows["close"] = ledger.add(crowd, iteration=0, origin={}).hash
        assert label(ledger, config, tmp_path / "jobs", say=said.append) == Labelled(done=1, failed=3, rejected=5)
        c = {name: ledger[h] for name, h in rows.items()}
        assert ledger.export(tmp_path / "labels.extxyz") == 1
    expected = {
        "Li": ("failed", "ran longer than timeout_minutes = 0.1; output in "),
        "H": ("failed", "RuntimeError: the density does not converge; output in "),
        "He": ("failed", "died of SIGABRT"),
        "Be": ("rejected", "the code says that it has not converged"),
        "B": ("rejected", "force of "),
        "C": ("rejected", "forces: NaN or infinite"),
        "F": ("rejected", "net force of 1.73 eV/Å per atom"),
        "close": ("rejected", "atoms Ne 0 and Ne 1 are 0.300 Å apart, 0.26 of the sum of their covalent radii"),
        "Ne": ("done", ""),
    }
    for name, (state, reason) in expected.items():
        assert (c[name].state, c[name].reason[: len(reason)]) == (state, reason)
        assert "\n" not in c[name].reason
    assert c["close"].attempt == 0
    assert "RuntimeError" in (tmp_path / "jobs" / f"{c['H'].hash[:12]}-1" / "stderr.txt").read_text()
    assert c["Ne"].label_energy == c["Ne"].free_energy == (c["Ne"].energy or 0.0) - 0.5
    assert len(said) == 8
    assert all("\n" not in line for line in said)
    wait_for(lambda: not workers_of(tmp_path / "jobs"))  # they leave after their results


def test_attempts(slow: Slow, tmp_path: Path) -> None:
    """A failure is tried again, in a folder of its own, and one that goes on failing does not end the loop."""
    config = slow.config(attempts=2)
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        lucky, never = (ledger.add(chain(s), iteration=0, origin={}).hash for s in ("O", "H"))
        assert label(ledger, config, tmp_path / "jobs", say=lambda _: None) == Labelled(done=1, failed=1)
        assert (ledger[lucky].state, ledger[lucky].attempt) == ("done", 2)
        assert (ledger[never].state, ledger[never].attempt) == ("failed", 2)
    assert len(list((tmp_path / "jobs").iterdir())) == 4
    assert sum(slow.finished().values()) == 1


def test_wrong_settings_do_not_burn_the_queue(tmp_path: Path) -> None:
    """Where all of the first labels fail alike, the reason is said in one line and the rest is left for better settings."""
    broken = label_config({"calculator": "emt", "arguments": {"asap_cutof": True}, "workers": 2, "attempts": 1})
    with Ledger(tmp_path / "ledger.sqlite", settings=broken.fingerprint) as ledger:
        for k in range(5):
            ledger.add(bulk("Cu") * (1, 1, 1 + k), iteration=0, origin={})
        with pytest.raises(
            LabelError, match="the first 2 labels all failed.*EMT has no argument 'asap_cutof': did you mean 'asap_cutoff'"
        ):
            label(ledger, broken, tmp_path / "jobs", say=lambda _: None)
        assert ledger.counts()["queued"] + ledger.counts()["running"] == 5
        assert len(list((tmp_path / "jobs").iterdir())) <= 4
        other = label_config({"calculator": "no_such_package.module:Class"})
        with pytest.raises(ValueError, match="the ledger was opened for settings"):
            label(ledger, other, tmp_path / "jobs", say=lambda _: None)
    said: list[str] = []
    with Ledger(tmp_path / "ledger.sqlite", settings=other.fingerprint) as ledger:
        with pytest.raises(LabelError, match=f"cannot import no_such_package.module with {sys.executable}: ModuleNotFoundError"):
            label(ledger, other, tmp_path / "jobs", say=said.append)
        assert "queued or failed with other settings are queued with the present ones" in said[0]
        lost = label_config({"calculator": "no_such_package.module:Class", "python": "./no/python"}, root=tmp_path)
        with pytest.raises(LabelError, match=r"\[label\] python: there is no interpreter .*/no/python"):
            label(ledger, lost, tmp_path / "jobs", say=said.append)


def test_stop_and_go_on(slow: Slow, tmp_path: Path) -> None:
    """Ctrl-C leaves jobs running; they are found again, though their supervisor is killed, and not counted beyond `workers`."""
    config = slow.config(seconds=2.5)
    said: list[str] = []

    def interrupt() -> bool:
        raise KeyboardInterrupt

    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        for k in range(3):
            ledger.add(chain("Ne", seed=k), iteration=0, origin={})
        with pytest.raises(KeyboardInterrupt):
            label(ledger, config, tmp_path / "jobs", say=said.append, stop=interrupt)
        assert said[-1].startswith("interrupted: 2 labels go on in the background")
        assert label(ledger, config, tmp_path / "jobs", say=said.append, stop=lambda: True) == Labelled(left=3)
        assert ledger.counts()["running"] == 2
        wait_for(lambda: sum("compute" in words for words in workers_of(tmp_path / "jobs").values()) == 2)
        supervisors = [n for n, words in workers_of(tmp_path / "jobs").items() if "compute" not in words]
        os.kill(supervisors[0], signal.SIGKILL)
        assert label(ledger, config, tmp_path / "jobs", say=said.append) == Labelled(done=3)
        assert {c.attempt for c in ledger.rows()} == {1}
    assert set(slow.finished().values()) == {1}
    assert len(slow.finished()) == 3


def test_cancel(slow: Slow, tmp_path: Path) -> None:
    config = slow.config(timeout_minutes=2)
    said: list[str] = []
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        c = ledger.add(chain("Li"), iteration=0, origin={})
        label(ledger, config, tmp_path / "jobs", say=said.append, stop=lambda: True)
        assert cancel(ledger, config, tmp_path / "jobs") == 1
        wait_for(lambda: not workers_of(tmp_path / "jobs"))
        label(ledger, config, tmp_path / "jobs", say=said.append, stop=lambda: True)
        cancel(ledger, config, tmp_path / "jobs")
        assert (ledger[c.hash].attempt, ledger[c.hash].failures) == (2, 0)
        wait_for(lambda: not workers_of(tmp_path / "jobs"))
    assert "failed, attempt 1: cancelled; output in" in said[0]


DRIVER = """
import os, random, signal, sys, time
from pathlib import Path
sys.path[:0] = [sys.argv[3]]
from test_labelling import workers_of
from adatom.fitting.active.label_config import load_label_config
from adatom.fitting.active.labelling import label
from adatom.fitting.active.ledger import Ledger, exclusive
folder, kills = Path(sys.argv[1]), int(sys.argv[2])
config, dice = load_label_config(folder / "config.toml"), random.Random(5)
for k in range(kills + 1):
    driver = os.fork()
    if not driver:
        with exclusive(folder), Ledger(folder / "ledger.sqlite", settings=config.fingerprint) as ledger:
            label(ledger, config, folder / "jobs", say=lambda line: print(line, flush=True))
        os._exit(0)
    if k < kills:
        time.sleep(dice.uniform(0.0, 1.0))
        if k % 3 == 2:
            workers = sorted(workers_of(folder / "jobs").items())
            for number, words in dice.sample(workers, min(1 + k % 2, len(workers))):
                with open(folder / "killed", "a") as f:
                    f.write(os.path.basename(next(w for w in words if "/jobs/" in w)) + "\\n")
                try:
                    os.kill(number, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        os.kill(driver, signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(driver, 0)[1]) in (0, -9)
"""


def drive(folder: Path, kills: int, seconds: float) -> tuple[list[Calculation], str]:
    slow = Slow(folder)
    environment = f'{{SLOW_SECONDS = {seconds}, SLOW_COUNTER = "./counter"}}'
    text = f'[label]\ncalculator = "slow_module:Slow"\nstress = false\nworkers = 2\nattempts = 20\nenvironment = {environment}\n'
    (folder / "config.toml").write_text(text + "poll_seconds = 0.05\n")
    config = load_label_config(folder / "config.toml")
    assert config.fingerprint == slow.config().fingerprint
    with Ledger(folder / "ledger.sqlite", settings=config.fingerprint) as ledger:
        for k in range(5):
            ledger.add(chain("Ne", 3 + k, seed=k), iteration=k // 2, origin={"k": k})
    command = [sys.executable, "-c", DRIVER, str(folder), str(kills), str(Path(__file__).parent)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    with Ledger(folder / "ledger.sqlite", settings=config.fingerprint) as ledger:
        return ledger.rows(), run.stdout


def test_kills(tmp_path: Path) -> None:
    """Drivers and workers die at random moments: no label is lost, none is computed twice, the ledger is that of a quiet run."""
    (tmp_path / "killed run").mkdir()
    (tmp_path / "quiet run").mkdir()
    rows, output = drive(tmp_path / "killed run", 10, 0.7)
    quiet, _ = drive(tmp_path / "quiet run", 0, 0.0)
    assert [c.state for c in rows] == ["done"] * 5, output
    by_hash = {c.hash: c for c in rows}
    assert set(by_hash) == {c.hash for c in quiet}
    for c in quiet:
        same = by_hash[c.hash]
        assert (same.energy, same.free_energy, same.iteration, same.origin) == (c.energy, c.free_energy, c.iteration, c.origin)
        np.testing.assert_array_equal(same.forces, c.forces)
    record = tmp_path / "killed run" / "killed"
    killed = set(record.read_text().split()) if record.exists() else set()
    finished = Slow(tmp_path / "killed run").finished()
    results = [p.parent.name for p in (tmp_path / "killed run" / "jobs").glob("*/result.json")]
    assert len(results) == len({name.partition("-")[0] for name in results}) == 5, "one result for each label"
    assert set(finished.values()) == {1}, "no attempt ran twice"
    assert set(finished) - set(results) <= killed, "only a killed worker's work is done again"
    assert {f"{c.hash[:12]}-{n}" for c in rows for n in range(1, c.attempt)} <= killed, "only killed workers cost an attempt"


def test_a_second_worker_leaves(slow: Slow, tmp_path: Path) -> None:
    """By path, in any interpreter: a folder whose lock is held, and one that is finished, are left alone."""
    job = slow.config().job() | {"hash": "h", "attempt": 1}
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "job.json").write_text(json.dumps(job))
    chain("Ne").write(tmp_path / "job" / "structure.extxyz")
    command = [sys.executable, label_worker.__file__, str(tmp_path / "job")]
    with open(tmp_path / "job" / "lock", "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert not slow.finished()
    for _ in range(2):
        assert subprocess.run(command, timeout=60, check=False).returncode == 0
    assert slow.finished() == {"job": 1}
    assert json.loads((tmp_path / "job" / "result.json").read_text())["hash"] == "h"


def test_checks() -> None:
    checks = ChecksConfig()
    atoms = from_atoms(bulk("Cu", cubic=True))
    good = {"energy": -14.0, "free_energy": None, "forces": np.zeros((4, 3)), "stress": None, "converged": None}
    crowd = [-3.5 + 0.01 * k for k in range(20)]
    assert check_structure(atoms, checks) == ""
    assert check_structure(from_atoms(bulk("Cu", a=1.8)), checks).startswith("atoms Cu 0 and Cu 0 are 1.273 Å apart")
    assert check_label(good, atoms, checks, crowd) == ""
    assert "robust deviations" in check_label(good | {"energy": -4.0 * 6.0}, atoms, checks, crowd)
    assert check_label(good | {"energy": -4.0 * 6.0}, atoms, checks, crowd[:5]) == ""
    assert check_label(good | {"free_energy": np.nan}, atoms, checks, crowd) == "energy: NaN or infinite"
    assert check_label(good | {"stress": np.full((3, 3), np.inf)}, atoms, checks, crowd) == "stress: NaN or infinite"


def test_config(tmp_path: Path) -> None:
    """Unknown keys and bad values in one line; what does not change a label does not change its fingerprint."""
    for given, message in (
        ({"calculator": "gpw"}, r"unknown calculator 'gpw' in \[label\]: did you mean 'gpaw'\?"),
        ({"calculator": "???"}, r"unknown calculator '\?\?\?' in \[label\]: known are abinit, .*, or write module:Class"),
        ({}, r"'calculator' in \[label\] is missing"),
        ({"calculator": "emt", "worker": 2}, r"unknown key 'worker' in \[label\]: did you mean 'workers'\?"),
        ({"calculator": "emt", "slurm": {"setups": "x"}}, r"unknown key 'setups' in \[label.slurm\]: did you mean 'setup'\?"),
        ({"calculator": "emt", "checks": {"max_force_eV_A": -1}}, r"'max_force_eV_A' in \[label.checks\]: .* 0, got -1"),
        ({"calculator": "emt", "workers": 0}, r"'workers' in \[label\]: .*greater than or equal to 1, got 0"),
        ({"calculator": "emt", "executor": "pbs"}, r"'executor' in \[label\]: .*'local' or 'slurm', got 'pbs'"),
        ({"calculator": "emt", "arguments": {"x": {1, 2}}}, r"'arguments' in \[label\]: only numbers, strings"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message) as error:
            label_config(given)
        assert "\n" not in str(error.value)
    a = label_config({"calculator": "gpaw", "arguments": {"mode": {"name": "pw", "ecut": 400}}})
    b = label_config(
        {"calculator": "gpaw.new.ase_interface:GPAW", "arguments": {"mode": {"ecut": 400.0, "name": "pw"}}, "workers": 8}
    )
    assert a.fingerprint == b.fingerprint
    assert a.fingerprint != label_config({"calculator": "gpaw", "arguments": {"mode": {"name": "pw", "ecut": 401}}}).fingerprint
    assert a.fingerprint != label_config(a.model_dump() | {"stress": False}).fingerprint
    (tmp_path / "c.toml").write_text('[label]\ncalculator = "eam"\narguments.potential = "./Al.alloy"\nenvironment.N = 3\n')
    job = load_label_config(tmp_path / "c.toml").job()
    assert job["arguments"] == {"potential": str(tmp_path / "Al.alloy")}
    assert job["environment"] == {"N": "3"}
    (tmp_path / "c.toml").write_text(label_template())
    assert load_label_config(tmp_path / "c.toml").model_copy(update={"root": ""}) == LabelConfig(calculator="emt")
    for text, message in (("[lable]", r"there is no section \[label\]"), ("[label", "not valid TOML")):
        (tmp_path / "c.toml").write_text(text)
        with pytest.raises(ValueError, match=message):
            load_label_config(tmp_path / "c.toml")


def test_gpaw(tmp_path: Path) -> None:
    """A real DFT label, by another interpreter."""
    python = os.environ.get("ADATOM_GPAW_PYTHON") or (sys.executable if importlib.util.find_spec("gpaw") else "")
    if not python:
        pytest.skip("GPAW cannot be imported here, and ADATOM_GPAW_PYTHON names no interpreter that has it")
    arguments = {
        "mode": {"name": "pw", "ecut": 200}, "xc": "PBE", "kpts": {"size": [2, 2, 2], "gamma": False},
        "occupations": {"name": "fermi-dirac", "width": 0.1},
    }  # fmt: skip
    config = label_config({"calculator": "gpaw", "python": python, "arguments": arguments, "timeout_minutes": 5})
    silicon = bulk("Si", a=5.47)
    silicon.rattle(0.05, seed=2)
    said: list[str] = []
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        c = ledger.add(silicon, iteration=0, origin={})
        assert label(ledger, config, tmp_path / "jobs", say=said.append) == Labelled(done=1), said
        c = ledger[c.hash]
    assert c.code.startswith("gpaw ")
    assert c.free_energy is not None
    assert c.energy is not None
    assert -11.5 < c.free_energy < c.energy < -10.0
    assert 0.1 < np.abs(c.forces).max() < 3.0
    assert c.stress is not None
    assert "Si" in (tmp_path / "jobs" / f"{c.hash[:12]}-1" / "stdout.txt").read_text()
