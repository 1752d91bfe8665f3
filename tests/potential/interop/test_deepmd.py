"""DeePMD-kit's models are what DeePMD-kit says they are. References: `deepmd_reference.py`."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from ase.data import atomic_numbers
from helpers import awkward_structures, deep_potential, evaluate_all, make_potential
from numpy.testing import assert_allclose

from adatom.fitting import cli
from adatom.md.field import make_field
from adatom.potential.calculator import AdatomCalculator
from adatom.potential.compression import compress
from adatom.potential.evaluator import Evaluator, NeighbourWarning
from adatom.potential.interop import convert
from adatom.potential.interop.deepmd import nets, read, write
from adatom.potential.interop.deepmd.standardised import StandardisedDeepmd, plain, rows_of_nets, standardise
from adatom.potential.interop.deepmd.tree import load_tree
from adatom.potential.interop.differences import NotTheSameWarning
from adatom.potential.model_file import ModelFileError, load
from adatom.potential.potential import Potential, flatten
from adatom.potential.structure import Structure

pytestmark = pytest.mark.usefixtures("quick_compilation")
HERE = Path(__file__).parent / "deepmd"
REFERENCES = json.loads((HERE / "references.json").read_text(encoding="utf-8"))["models"]


def structure(types, item):
    box = item.get("box")
    cell = np.zeros((3, 3)) if box is None else np.array(box, dtype=float).reshape(3, 3)
    numbers = np.array([atomic_numbers[types[t]] for t in item["types"]])
    return Structure(numbers, np.array(item["coord"], dtype=float).reshape(-1, 3), cell, np.full(3, box is not None))


@cache
def model(name):
    return read(HERE / name)


def results(potential, items):
    structures = [structure(potential.symbols, x) for x in items]
    return structures, evaluate_all(potential.model, potential.params, structures)


@pytest.mark.parametrize("name", REFERENCES)
def test_equal_to_deepmd_kit(name):
    """Energies of atoms to 1e-11, forces and virials to 1e-10 of the largest: references by differences are good to that."""
    items = REFERENCES[name]
    structures, got = results(model(name), items)
    for item, s, r in zip(items, structures, got, strict=True):
        forces, virial = np.array(item["forces"]), np.array(item["virial"])
        assert_allclose(r.energies, item["energies"], rtol=1e-11, atol=1e-11)
        assert_allclose(r.forces, forces, rtol=0, atol=1e-10 * max(np.abs(forces).max(), 1.0))
        if s.pbc.all():
            assert_allclose(-r.stress * s.volume, virial, rtol=0, atol=1e-10 * max(np.abs(virial).max(), 1.0))


def test_the_references_test_something():
    for name, items in REFERENCES.items():
        assert np.abs(items[0]["forces"]).max() > 1e-2, name


@pytest.mark.parametrize("case", ["deeppot", "deeppot-r"])
def test_published_models_equal_to_published_results(case, shared_data):
    """Of DeePMD-kit's own tests, made by its TensorFlow and PyTorch backends: relative 1e-10."""
    folder = shared_data / "models" / "deepmd"
    about = yaml.safe_load((folder / f"{case}-testcase.yaml").read_text(encoding="utf-8"))
    potential = read(folder / about["filename"])
    assert potential.symbols == tuple(about["type_map"])
    items = [{"coord": x["coord"], "types": x["atype"], "box": x.get("box")} for x in about["results"]]
    structures, got = results(potential, items)
    for x, s, r in zip(about["results"], structures, got, strict=True):
        forces = np.array(x["force"], dtype=float).reshape(-1, 3)
        assert_allclose(r.energies, np.array(x["atomic_energy"], dtype=float), rtol=1e-12)
        assert_allclose(r.forces, forces, rtol=0, atol=1e-10 * np.abs(forces).max())
        if s.pbc.all():
            virial = np.array(x["atomic_virial"], dtype=float).reshape(-1, 3, 3).sum(axis=0)
            assert_allclose(-r.stress * s.volume, virial, rtol=0, atol=1e-10 * np.abs(virial).max())


def test_dpa2_is_refused_by_name(shared_data):
    with pytest.raises(ModelFileError, match="descriptor type 'dpa2' is not supported"):
        read(shared_data / "models" / "deepmd" / "deeppot_dpa.yaml")


@pytest.mark.parametrize("ending", ["dp", "yaml"])
@pytest.mark.parametrize("name", REFERENCES)
def test_written_back_it_is_the_same_model(name, ending, tmp_path):
    """DeePMD-kit evaluates these files too: `benchmarks/interop.py deepmd`."""
    before, path = model(name), tmp_path / f"model.{ending}"
    write(before, path)
    for inner in load_tree(path)["model"].get("models", ()):
        assert not np.any(inner["@variables"]["out_bias"])  # which DeePMD-kit's backends do not treat alike
    after = read(path)
    assert after.model == before.model
    assert_allclose(after.statistics.e0, before.statistics.e0, rtol=0, atol=1e-15)
    old, new = flatten(before.params["network"]), flatten(after.params["network"])
    assert old.keys() == new.keys()
    assert all((old[k] == new[k]).all() for k in old)


@pytest.mark.parametrize("one_side", [True, False])
def test_our_own_written_for_deepmd_kit(one_side, tmp_path):
    """Without what DeePMD-kit has no place for (the limits of no neighbour and of very close ones), equal to 1e-12."""
    potential = make_potential((8, 1), deep_potential(one_side=one_side, activation="gelu"), min_distance=0.5)
    path = tmp_path / "model.dp"
    with pytest.warns(NotTheSameWarning, match=r"atoms without neighbours have not E0, and .* below \(Å\) O-O 0\.\d\d, O-H"):
        write(potential, path)
    bare = potential.model.config.model_copy(update={"isolated_limit": False, "repulsion": False})
    structures = awkward_structures((8, 1))
    want = evaluate_all(type(potential.model)(bare), potential.params, structures)
    again = read(path)
    for name, r in evaluate_all(again.model, again.params, structures).items():
        assert_allclose(r.energies, want[name].energies, rtol=1e-12)
        assert_allclose(r.forces, want[name].forces, rtol=0, atol=1e-11 * np.abs(want[name].forces).max())


def test_another_form_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no descriptor like symmetry_functions"):
        convert.write(make_potential(), "deepmd", tmp_path / "model.dp")
    with pytest.raises(ValueError, match=r"end it with \.dp or \.yaml"):
        write(model("se_e2_a.dp"), tmp_path / "model.pth")


@pytest.mark.parametrize(
    "name", ["tanh", "relu", "relu6", "softplus", "sigmoid", "silu", "gelu", "silut:2.5", "custom_silu", "linear"]
)
def test_activations(name):
    """Against their formulas; smooth ones have the right slope on both sides of a threshold."""
    x = np.linspace(-4.0, 7.0, 67)
    logistic = 1.0 / (1.0 + np.exp(-x))
    want = {
        "tanh": np.tanh(x), "relu": np.maximum(x, 0.0), "relu6": np.clip(x, 0.0, 6.0), "softplus": np.log1p(np.exp(x)),
        "sigmoid": logistic, "silu": x * logistic, "linear": x,
        "gelu": 0.5 * x * (1.0 + np.tanh(np.sqrt(2.0 / np.pi) * (x + 0.044715 * x**3))),
    }  # fmt: skip
    phi = nets.activation(name)
    if name in want:
        assert_allclose(phi(x), want[name], rtol=1e-13, atol=1e-15)
        return
    x0 = nets.threshold_of(name)
    assert_allclose(phi(x[x < x0]), (x * logistic)[x < x0], rtol=1e-14)
    slope = jax.grad(phi)
    assert_allclose(slope(x0 - 1e-9), slope(x0 + 1e-9), rtol=1e-7)
    with pytest.raises(ValueError, match="unknown activation_function"):
        nets.activation("swish")


@pytest.mark.parametrize("name", ["se_e2_a.dp", "se_e2_a_two_sided.dp", "hybrid.dp"])
def test_compressed_is_the_same(name):
    """Chebyshev series in place of embedding nets, padding and exclusions included; relu6 of `hybrid` has none."""
    potential = model(name)
    found = compress(potential.model, potential.params, "float32")
    if name == "hybrid.dp":
        assert found is None
        return
    quick, params = found
    assert 4 <= quick.degree <= 128
    structures = [structure(potential.symbols, x) for x in REFERENCES[name]]
    for got, want in zip(
        evaluate_all(quick, params, structures), evaluate_all(potential.model, potential.params, structures), strict=True
    ):
        assert_allclose(got.energies, want.energies, rtol=0, atol=1e-5 * max(np.abs(want.energies).max(), 1.0))
        assert_allclose(got.forces, want.forces, rtol=0, atol=2e-4 * max(np.abs(want.forces).max(), 1.0))


@pytest.mark.parametrize("name", ["se_e2_a.dp", "attention.dp", "zbl.dp"])
def test_standardised_is_the_same(name):
    """In other parameters, as it is trained: nets of species, of all, and beside a table."""
    potential, rng = model(name), np.random.default_rng(0)
    network, rows = potential.params["network"], rows_of_nets(potential.model.config)
    assert rows.keys() == network["fitting"].keys()
    sizes = {k: len(network["fitting"][k]["hidden"]["layer_0"]["kernel"]) for k in rows}
    features = {k: (rng.normal(size=n), rng.uniform(0.1, 2.0, n)) for k, n in sizes.items()}
    other = standardise(network, features, 0.3)
    structures = [structure(potential.symbols, x) for x in REFERENCES[name]]
    params = {**potential.params, "network": other}
    for got, want in zip(
        evaluate_all(StandardisedDeepmd(potential.model), params, structures),
        evaluate_all(potential.model, potential.params, structures), strict=True,
    ):  # fmt: skip
        assert_allclose(got.energies, want.energies, rtol=0, atol=1e-13 * max(np.abs(want.energies).max(), 1.0))
        assert_allclose(got.forces, want.forces, rtol=0, atol=1e-12 * max(np.abs(want.forces).max(), 1.0))
    first, changed = (next(iter(x["fitting"].values()))["hidden"]["layer_0"]["kernel"] for x in (network, other))
    assert_allclose(changed, first * next(iter(features.values()))[1][:, None], rtol=1e-15)
    old, new = flatten(network), flatten(jax.device_get(plain(other)))
    assert old.keys() == new.keys()
    for k in old:
        assert_allclose(new[k], old[k], rtol=1e-13, atol=1e-13)


def test_nets_that_are_not_standardised():
    """Of several networks, without layers, and where the features are added to what the first layer makes of them."""
    config = model("se_e2_a.dp").model.config
    (term,) = config.terms
    assert rows_of_nets(config)
    two = config.model_copy(update={"terms": (term, term), "weights": (0.5, 0.5)})
    assert rows_of_nets(two) == {}
    for widths in ((), (term.n_features(), 5), (2 * term.n_features(), 5)):
        assert rows_of_nets(config.model_copy(update={"terms": (term.model_copy(update={"widths": widths}),)})) == {}


def test_pairs_too_close_for_the_series_are_computed_by_the_nets():
    """In the calculator, and in MD."""
    potential, item = model("se_e2_a.dp"), REFERENCES["se_e2_a.dp"][2]
    close = structure(potential.symbols, {**item, "coord": [[0.0, 0.0, 0.0], [0.2, 0.0, 0.0], [1.5, 0.3, 0.2]]})
    quick, exact = (Evaluator(potential, precision="float64", compressed=c) for c in (True, False))
    with jax.enable_x64(True):
        packed = compress(potential.model, potential.params, "float32")
    assert packed is not None
    assert packed[0].shortest > 0.2
    assert_allclose(quick(close).forces, exact(close).forces, rtol=1e-12)
    float32 = Evaluator(potential, precision="float32")
    assert float32.compression is not None
    assert_allclose(float32(close).forces, exact(close).forces, rtol=0, atol=1e-4 * np.abs(exact(close).forces).max())
    assert make_field(potential, precision="float32").compressed_from == packed[0].shortest


def test_more_neighbours_than_sel_are_counted_once(tmp_path):
    """DeePMD-kit would drop the farthest; we keep them, and say so."""
    potential = model("se_e2_a.dp")
    dense = structure(potential.symbols, REFERENCES["se_e2_a.dp"][0])
    dense = Structure(dense.numbers, dense.positions * 0.75, dense.cell * 0.75, dense.pbc)
    evaluator = Evaluator(potential, precision="float64")
    with pytest.warns(NeighbourWarning, match=r"has \d+ neighbours of O within 4 Å, sel is 14"):
        evaluator(dense)
    evaluator(Structure(dense.numbers, dense.positions * 0.99, dense.cell * 0.99, dense.pbc))


def test_command_line(tmp_path, capsys):
    """Convert, look, calculate; two models become a committee; back again."""
    source, out = HERE / "se_e2_r.yaml", tmp_path / "model.adatom"
    assert cli.main(["convert", str(source), "-o", str(out)]) == 0
    assert "deepmd model for O, H, cutoff 4 Å" in capsys.readouterr().out
    potential = load(out)
    assert potential.golden is not None
    assert potential.info["source"] == ["se_e2_r.yaml"]
    assert cli.main(["info", str(out)]) == 0
    assert "of deepmd, from se_e2_r.yaml" in capsys.readouterr().out
    item = REFERENCES["se_e2_r.yaml"][1]
    atoms = structure(potential.symbols, item).to_atoms()
    atoms.calc = AdatomCalculator(out, dtype="float64")
    assert_allclose(atoms.get_potential_energy(), np.sum(item["energies"]), rtol=1e-11)
    assert cli.main(["convert", str(out), "--to", "deepmd", "-o", str(tmp_path / "again.dp")]) == 0
    again = read(tmp_path / "again.dp")
    assert (again.statistics.e0 == potential.statistics.e0).all()
    other = Potential(again.model, jax.tree.map(lambda x: 1.01 * x, again.params))
    write(other, tmp_path / "other.dp")
    both = [str(tmp_path / x) for x in ("again.dp", "other.dp")]
    assert cli.main(["convert", *both, "-o", str(tmp_path / "both.adatom")]) == 0
    atoms.calc = AdatomCalculator(tmp_path / "both.adatom", dtype="float64")
    first, second = (evaluate_all(x.model, x.params, [structure(x.symbols, item)])[0].energy for x in (again, other))
    assert_allclose(atoms.calc.get_property("energy_std", atoms), abs(first - second) / 2.0, rtol=1e-9)
    capsys.readouterr()
    assert cli.main(["convert", str(HERE / "references.json"), "-o", str(out)]) == 2
    assert "not recognised as a model of DeePMD-kit" in capsys.readouterr().err
