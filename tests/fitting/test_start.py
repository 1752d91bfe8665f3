"""`--start-from`: training goes on from a potential of any family."""

from __future__ import annotations

import ase.io
import jax
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from helpers import deepmd_params, deepmd_small, make_potential, symmetry_functions
from numpy.testing import assert_allclose

from adatom.fitting import cli
from adatom.fitting.batches import make_buckets, neighbourhoods
from adatom.fitting.config import load_config
from adatom.fitting.dataset import read_frames
from adatom.fitting.metrics import compare
from adatom.fitting.start import conditioned, load_start, starting_statistics
from adatom.potential.geometry import pair_vectors
from adatom.potential.graph import batch
from adatom.potential.model_file import load, save
from adatom.potential.potential import Potential, flatten

SETTINGS = ["training.epochs=2", "training.batch_atoms=16", "training.max_buckets=1", "training.learning_rate=1e-3"]


@pytest.fixture(scope="module", autouse=True)
def _fast():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Ten copper cells labelled by EMT."""
    rng, frames = np.random.default_rng(0), []
    for _ in range(10):
        atoms = bulk("Cu", "fcc", cubic=True, a=3.65 * (1 + 0.02 * rng.normal()))
        atoms.positions += rng.normal(0, 0.08, (4, 3))
        atoms.calc = EMT()
        labels = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
        atoms.calc = SinglePointCalculator(atoms, **labels)
        frames.append(atoms)
    path = tmp_path_factory.mktemp("data") / "copper.xyz"
    ase.io.write(path, frames)
    return path


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A model of DeePMD-kit for copper, random weights."""
    model = deepmd_small((29,))
    path = tmp_path_factory.mktemp("model") / "model.adatom"
    save(Potential(model, deepmd_params(model)), path)
    return path


def test_a_model_of_deepmd_kit_is_trained_further(data, source, tmp_path, capsys):
    """All but its constants; its committee comes with it; the energy zero is that of the new data."""
    out = tmp_path / "out"
    settings = [x for s in SETTINGS for x in ("--set", s)]
    assert cli.main(["fit", "--train", str(data), "--start-from", str(source), "--out", str(out), *settings]) == 0
    assert "model: deepmd, cutoff 4.0 Å" in capsys.readouterr().out
    before, after = load(source), load(out / "model.adatom")
    assert after.model == before.model
    old, new = flatten(before.params["network"]), flatten(after.params["network"])
    for name in old:
        assert (np.array_equal(old[name], new[name])) == name.startswith("constants/"), name
    assert after.committee is not None
    assert after.committee.kind == "laplace"
    assert load_config(out / "config.toml").model.start_from == str(source)


def test_nets_of_deepmd_kit_are_trained_on_standardised_features(data, source):
    """Of the new data: the means that are kept are those of the features, and the way back is the network itself."""
    potential, (frames, _) = load(source), read_frames([str(data)])
    model, network = potential.model, potential.params["network"]
    items = neighbourhoods(frames, model.elements, model.cutoff)
    form, other, back = conditioned(model, network, frames, make_buckets(frames, items, 1))
    assert form.model == model
    graph, _ = batch(items)
    d = pair_vectors(*(getattr(graph, k) for k in ("positions", "cell", "structure")), np.arange(len(graph.positions)),
                     graph.neighbours, graph.shifts, graph.mask, 2.0 * model.cutoff)  # fmt: skip
    features = np.asarray(model.descriptors(network, d, graph.slot_capacity, graph.atom_capacity))
    kept = other["constants"]["standard"]["term_0_species_0"]
    assert_allclose(kept["mean"], features.mean(axis=0), rtol=1e-5)
    assert_allclose(kept["std"], np.sqrt(features.var(axis=0).mean()), rtol=1e-4)
    old, new = flatten(network), flatten(jax.device_get(back(other)))
    assert old.keys() == new.keys()
    assert all(np.allclose(new[k], old[k], rtol=1e-5, atol=1e-6) for k in old)


def test_e0_moves_to_the_zero_of_the_new_data(data, source):
    """Least squares on the errors of the energy: none is left on average. Given, it is what is given."""
    frames, _ = read_frames([str(data)])
    section = load_config(None, [f"model.start_from={source}"]).model
    potential = load_start(section, frames)
    statistics, how = starting_statistics(potential, section, frames, "float64")
    assert "moved to the zero" in how
    moved = Potential(potential.model, {**potential.params, "statistics": statistics})
    label, predicted, _ = compare(moved, frames, precision="float64").energy
    assert_allclose(np.mean(label - predicted), 0.0, atol=1e-10)
    given = load_config(None, [f"model.start_from={source}", "model.e0={Cu = -3.0}"]).model
    statistics, how = starting_statistics(potential, given, frames, "float64")
    assert (list(statistics.e0), how) == ([-3.0], "given")


def test_what_cannot_be_gone_on_from(data, source, tmp_path, capsys):
    """One line each."""
    silicon, broken = tmp_path / "si.adatom", tmp_path / "broken.adatom"
    save(make_potential((14,), symmetry_functions()), silicon)
    broken.write_bytes(source.read_bytes()[:500])
    for model, settings, words in (
        (silicon, [], "knows Si; "),
        (broken, [], "model.start_from: "),
        (tmp_path / "none.adatom", [], "no such model file"),
        (source, ["model.descriptor.type=moments", "model.descriptor.cutoff=4.0"], "start_from brings its own descriptor"),
        (source, ["model.elements=['Cu', 'Au']"], "leave it out"),
        (source, ["model.e0=isolated_atoms"], "cannot be isolated_atoms with model.start_from"),
    ):
        extra = [x for s in settings for x in ("--set", s)]
        code = cli.main(["fit", "--train", str(data), "--start-from", str(model), "--out", str(tmp_path / "out"), *extra])
        error = capsys.readouterr().err
        assert code == 2
        assert words in error
        assert len(error.strip().splitlines()) == 1
