"""Errors against NumPy by hand, per config_type, with counts, and None where there is nothing to compare."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from helpers import awkward_structures, evaluate_all, make_potential, symmetry_functions

from adatom.fitting.dataset import Frame, Labels
from adatom.fitting.metrics import Comparison, compare, table
from adatom.potential.potential import Potential
from adatom.potential.units import GPA

VOIGT = ((0, 0), (0, 1), (0, 2), (1, 1), (1, 2), (2, 2))


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation() -> Iterator[None]:
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def potential() -> Potential:
    return make_potential((13, 29), symmetry_functions(n_radial=3, n_angular=1, zetas=(1.0,)))


@pytest.fixture(scope="module")
def frames() -> list[Frame]:
    """Two crystals, a molecule and an unlabelled stress, not in the order they are evaluated in."""
    rng = np.random.default_rng(3)
    s = awkward_structures((13, 29))
    picked = [
        s["triclinic"],
        s["molecule"],
        dataclasses.replace(s["triclinic"], positions=s["triclinic"].positions * 1.01),
    ]
    out = []
    for k, (structure, name) in enumerate(zip(picked, ("bulk", "gas", "bulk"), strict=True)):
        stress = rng.normal(size=(3, 3))
        labels = Labels(
            energy=None if k == 2 else float(rng.normal()) - 100.0,
            forces=rng.normal(size=(len(structure), 3)),
            stress=0.5 * (stress + stress.T) if k == 0 else None,
        )
        out.append(Frame(structure, labels, name, source=f"data.xyz:{k}"))
    return out


@pytest.fixture(scope="module")
def comparison(potential: Potential, frames: list[Frame]) -> Comparison:
    return compare(potential, frames, precision="float64")


def by_hand(difference: np.ndarray) -> dict[str, float]:
    return {"mae": np.abs(difference).mean(), "rmse": np.sqrt((difference**2).mean()), "count": difference.size}


def test_errors_by_hand(potential: Potential, frames: list[Frame], comparison: Comparison) -> None:
    predicted = evaluate_all(potential.model, potential.params, [f.structure for f in frames])
    errors = comparison.errors()

    def check(part: dict[str, dict[str, float]], which: list[int]) -> None:
        e = [(predicted[k].energy - frames[k].labels.energy) / len(frames[k].structure) for k in which if k != 2]  # type: ignore[operator]
        f = np.concatenate([(predicted[k].forces - frames[k].labels.forces).ravel() for k in which])
        assert part["energy"] == pytest.approx(by_hand(1e3 * np.array(e)), rel=1e-9)
        assert part["forces"] == pytest.approx(by_hand(1e3 * f), rel=1e-9)
        assert part["frames"] == len(which)
        if 0 in which:
            s = predicted[0].stress - frames[0].labels.stress
            six = np.array([s[a, b] for a, b in VOIGT]) / GPA
            assert part["stress"] == pytest.approx(by_hand(six), rel=1e-9)
        else:
            assert part["stress"] == {"mae": None, "rmse": None, "count": 0}

    check(errors, [0, 1, 2])
    check(errors["by_config_type"]["bulk"], [0, 2])
    check(errors["by_config_type"]["gas"], [1])
    assert errors["units"] == {"energy": "meV/atom", "forces": "meV/Å", "stress": "GPa"}
    assert list(errors["by_config_type"]) == ["bulk", "gas"]
    assert json.loads(json.dumps(errors, allow_nan=False)) == errors


def test_one_precision_is_near_the_other(potential: Potential, frames: list[Frame], comparison: Comparison) -> None:
    calls: list[tuple[int, int]] = []
    single = compare(potential, frames, progress=lambda done, total: calls.append((done, total))).errors()
    double = comparison.errors()
    assert calls[-1] == (3, 3)
    assert calls == sorted(set(calls))
    for term in ("energy", "forces", "stress"):
        assert single[term]["rmse"] == pytest.approx(double[term]["rmse"], rel=1e-4)
        assert single[term]["rmse"] != double[term]["rmse"]


def test_a_perfect_potential_has_no_errors(potential: Potential, frames: list[Frame]) -> None:
    predicted = evaluate_all(potential.model, potential.params, [f.structure for f in frames])
    perfect = [
        dataclasses.replace(f, labels=Labels(p.energy, p.forces, p.stress if f.structure.pbc.all() else None))
        for f, p in zip(frames, predicted, strict=True)
    ]
    errors = compare(potential, perfect, precision="float64").errors()
    assert errors["energy"]["rmse"] < 1e-8
    assert errors["forces"]["rmse"] < 1e-7
    assert errors["stress"]["rmse"] < 1e-8
    assert errors["stress"]["count"] == 12


def test_no_labels_of_a_kind(potential: Potential, frames: list[Frame]) -> None:
    only_forces = [dataclasses.replace(f, labels=Labels(forces=f.labels.forces)) for f in frames]
    errors = compare(potential, only_forces).errors()
    assert errors["energy"] == errors["stress"] == {"mae": None, "rmse": None, "count": 0}
    assert errors["forces"]["count"] == 3 * sum(len(f.structure) for f in frames)
    assert errors["by_config_type"]["gas"]["energy"]["mae"] is None
    assert "–" in table(errors)


def test_the_table(comparison: Comparison) -> None:
    errors = comparison.errors()
    lines = table(errors).splitlines()
    assert [line.split()[0] for line in lines[2:]] == ["bulk", "gas", "all"]
    cells = lines[-1].split()
    assert cells[1] == "3"
    assert float(cells[2]) == pytest.approx(errors["energy"]["mae"], abs=0.006)
    assert float(cells[5]) == pytest.approx(errors["forces"]["rmse"], abs=0.06)
    assert "–" in lines[3]


def test_an_unknown_element_names_the_frame(frames: list[Frame]) -> None:
    potential = make_potential((13,), symmetry_functions(n_radial=3, n_angular=0))
    with pytest.raises(ValueError, match=r"the model knows Al; data\.xyz:\d has Cu"):
        compare(potential, frames)


@pytest.mark.parametrize("term", ["energy", "forces", "stress"])
def test_nan_labels_are_refused(potential: Potential, frames: list[Frame], term: str) -> None:
    """One NaN would make every total NaN, which is not even JSON."""
    labels = dataclasses.replace(frames[0].labels, **{term: np.nan * np.asarray(getattr(frames[0].labels, term))})
    bad = [*frames[1:], dataclasses.replace(frames[0], labels=labels)]
    with pytest.raises(ValueError, match=rf"data\.xyz:0: {term} is NaN or infinite"):
        compare(potential, bad)
