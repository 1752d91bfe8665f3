"""Symmetry functions against loops over atoms and neighbours, written from the formulas with no shared code."""

import itertools
from functools import partial
from math import cos, exp, pi

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import FAST, rotation
from numpy.testing import assert_allclose
from pydantic import ValidationError

from adatom.potential.descriptors.symmetry_functions import (
    Angular,
    Radial,
    SymmetryFunctions,
    SymmetryFunctionsConfig,
    monomials,
)

CUTOFF = 4.0
RADIAL = (Radial(0.0, 0.0), Radial(0.8, 1.1), Radial(3.0, 2.4))
WIDE = (Angular(0.0, 0.0, 1.0, 1.0), Angular(0.3, 1.2, 2.0, -1.0), Angular(0.3, 1.2, 5.0, 1.0), Angular(0.1, 0.0, 3.0, -1.0))
OTHER = (Angular(0.2, 0.7, 1.3, 1.0), Angular(0.05, 0.0, 9.0, -1.0))
NARROW = (Angular(0.02, 0.0, 1.0, 1.0), Angular(0.05, 0.0, 2.5, -1.0), Angular(0.01, 0.0, 4.0, 1.0))
SLOTS = (3, 4, 2)


def cutoff_function(r, kind):
    if r >= CUTOFF:
        return 0.0
    x = r / CUTOFF
    return 0.5 * (cos(pi * x) + 1.0) if kind == "cosine" else 1.0 - 10.0 * x**3 + 15.0 * x**4 - 6.0 * x**5


def by_loops(vectors, config):
    """vectors (neighbours, 3) of one atom, grouped as in SLOTS -> features: G2 by element, angular by pair of elements."""
    kind, element = config.cutoff_function, np.repeat(np.arange(len(SLOTS)), SLOTS)
    r = [float(np.linalg.norm(v)) for v in vectors]
    features = []
    for t in range(len(SLOTS)):
        for f in config.radial:
            near = (x for x, e in zip(r, element, strict=True) if e == t)
            features.append(sum(exp(-f.eta * (x - f.shift) ** 2) * cutoff_function(x, kind) for x in near))
    for t, u in itertools.combinations_with_replacement(range(len(SLOTS)), 2):
        for f in config.angular:
            total = 0.0
            for j, k in itertools.combinations(range(len(r)), 2):
                if sorted((element[j], element[k])) != [t, u]:
                    continue
                angle = 1.0 + f.sign * float(vectors[j] @ vectors[k]) / (r[j] * r[k])
                term = 2.0 ** (1.0 - f.zeta) * angle**f.zeta * cutoff_function(r[j], kind) * cutoff_function(r[k], kind)
                if config.angular_kind == "narrow":
                    rjk = float(np.linalg.norm(vectors[j] - vectors[k]))
                    term *= exp(-f.eta * (r[j] ** 2 + r[k] ** 2 + rjk**2)) * cutoff_function(rjk, kind)
                else:
                    term *= exp(-f.eta * ((r[j] - f.shift) ** 2 + (r[k] - f.shift) ** 2))
                total += term
            features.append(total)
    return np.array(features)


def surroundings(seed=0, atoms=3):
    """(atoms, neighbours, 3): between 0.8 Å and beyond the cutoff."""
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(atoms, sum(SLOTS), 3))
    return u / np.linalg.norm(u, axis=-1, keepdims=True) * rng.uniform(0.8, 4.6, (atoms, sum(SLOTS), 1))


def evaluate(vectors, config, slots=SLOTS):
    of = partial(SymmetryFunctions(config).apply, {}, slots=slots, atoms=(len(vectors),))
    return np.asarray(jax.jit(of, compiler_options=FAST)(jnp.asarray(vectors.transpose(2, 0, 1))))


@pytest.mark.parametrize("function", ["polynomial", "cosine"])
@pytest.mark.parametrize(
    ("kind", "angular"), [("wide", WIDE), ("wide", OTHER), ("narrow", NARROW)], ids=["G5 moments", "G5 triplets", "G4"]
)
def test_symmetry_functions_are_those_of_the_formulas(kind, angular, function):
    config = SymmetryFunctionsConfig(
        cutoff=CUTOFF, radial=RADIAL, angular=angular, angular_kind=kind, cutoff_function=function
    )
    vectors = surroundings()
    want = np.array([by_loops(v, config) for v in vectors])
    assert config.n_features(len(SLOTS)) == want.shape[1]
    assert_allclose(evaluate(vectors, config), want, rtol=1e-11, atol=1e-13)


def test_moments_are_the_triplets():
    """The linear path (integer exponents) and the explicit one, which one function of another exponent switches on."""
    vectors = surroundings(3)
    short = SymmetryFunctionsConfig(cutoff=CUTOFF, radial=RADIAL, angular=WIDE)
    long = SymmetryFunctionsConfig(cutoff=CUTOFF, radial=RADIAL, angular=(*WIDE, OTHER[0]))
    n, m, pairs = len(WIDE), len(WIDE) + 1, len(SLOTS) * (len(SLOTS) + 1) // 2
    start = len(RADIAL) * len(SLOTS)
    want = evaluate(vectors, long)[:, start:].reshape(-1, pairs, m)[:, :, :n].reshape(len(vectors), -1)
    assert_allclose(evaluate(vectors, short)[:, start:], want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(("kind", "angular"), [("wide", WIDE), ("narrow", NARROW)])
def test_rotation_reflection_and_exchange_of_like_atoms(kind, angular):
    config = SymmetryFunctionsConfig(cutoff=CUTOFF, radial=RADIAL, angular=angular, angular_kind=kind)
    vectors = surroundings(1)
    order = np.concatenate([[2, 0, 1], [6, 4, 3, 5], [8, 7]])
    assert_allclose(evaluate(-(vectors @ rotation(0))[:, order], config), evaluate(vectors, config), rtol=1e-10, atol=1e-12)


def test_neighbours_beyond_the_cutoff_and_empty_slots_count_for_nothing():
    config = SymmetryFunctionsConfig(cutoff=CUTOFF, radial=RADIAL, angular=WIDE)
    vectors = surroundings(2)
    near = np.linalg.norm(vectors, axis=-1) < CUTOFF
    moved = np.where(near[:, :, None], vectors, np.array([2.0 * CUTOFF, 0.0, 0.0]))
    assert_allclose(evaluate(moved, config), evaluate(vectors, config), rtol=1e-12)


@pytest.mark.parametrize("angular", [(Angular(0.1, 0.0, 1.5, -1.0),), (Angular(0.1, 0.0, 2.0, -1.0),)])
def test_neighbours_in_line_have_finite_second_derivatives(angular):
    """1 + λ cos θ is zero there; so many angles of crystals are exactly 0 or 180 degrees."""
    config = SymmetryFunctionsConfig(cutoff=CUTOFF, radial=RADIAL, angular=(*angular, angular[0]._replace(sign=1.0)))
    line = jnp.asarray([[1.0, 0, 0], [2.0, 0, 0], [-1.5, 0, 0]])

    def total(x):
        return SymmetryFunctions(config).apply({}, x[None].transpose(2, 0, 1), (3,), (1,)).sum()

    assert np.isfinite(jax.jit(jax.hessian(total), compiler_options=FAST)(line)).all()


def test_monomials_count():
    assert [len(monomials(k)) for k in range(5)] == [1, 4, 10, 20, 35]
    assert len(set(monomials(6))) == 84


@pytest.mark.parametrize("n", [1, 2, 7, 50])
@pytest.mark.parametrize("kind", ["wide", "narrow"])
def test_automatic_sets_have_the_number_asked_for_and_cover_the_cutoff(n, kind):
    config = SymmetryFunctionsConfig(n_radial=n, n_angular=n, zetas=(1.0, 2.0), angular_kind=kind)
    radial, angular = config.radial_set(), config.angular_set()
    assert (len(radial), len(angular)) == (n, 4 * n)
    assert len(set(radial)) == n
    assert len(set(angular)) == 4 * n
    assert all(np.isfinite(f).all() and f.eta > 0 and f.shift < config.cutoff for f in (*radial, *angular))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"radial": [(-1.0, 0.0)]}, "eta must not be negative, got -1"),
        ({"angular": [(1.0, 0.0, 1.0, 0.5)]}, "sign ±1 and zeta ≥ 1, got sign 0.5"),
        ({"angular": [(1.0, 0.0, 0.5, 1.0)]}, "zeta 0.5"),
        ({"angular_kind": "narrow", "angular": [(1.0, 1.0, 1.0, 1.0)]}, "no shift"),
        ({"cutof": 5.0}, "cutof"),
        ({"cutoff": -5.0}, "greater than 0.5"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValidationError, match=message):
        SymmetryFunctionsConfig(**settings)
