"""Writing for other programs: what is damaged, not finite or in the way is one clear line, and nothing half written is left."""

import dataclasses

import jax
import numpy as np
import ours
import pytest

from adatom.fitting import cli
from adatom.potential import save
from adatom.potential.interop import convert

FAMILIES = list(ours.FILES)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """A model of ours in the form of each family, as a .adatom file."""
    folder = tmp_path_factory.mktemp("sources")
    for family in FAMILIES:
        save(ours.make(family, ours.NAMES[family][0]), folder / f"{family}.adatom")
    return folder


def refused(capsys, source, family, out):
    """What `adatom convert --to` says, in one line."""
    capsys.readouterr()
    assert cli.main(["convert", str(source), "--to", family, "-o", str(out)]) == 2
    said = capsys.readouterr().err.strip()
    assert said
    assert "\n" not in said
    assert "Traceback" not in said
    return said


@pytest.mark.parametrize("family", FAMILIES)
def test_damaged_models(family, sources, tmp_path, capsys):
    """Cut anywhere, bits flipped, words out of place, empty, or no model at all."""
    whole, path, out = (sources / f"{family}.adatom").read_bytes(), tmp_path / "x.adatom", tmp_path / ours.FILES[family]
    rng = np.random.default_rng(0)
    contents = [whole[: int(x * len(whole))] for x in np.linspace(0.0, 0.99, 7)] + [b"", rng.bytes(5000), b"{}"]
    for _ in range(8):
        broken = bytearray(whole)
        place = int(rng.integers(200, len(whole) - 200))
        broken[place : place + 64] = rng.bytes(64)
        contents.append(bytes(broken))
    for content in contents:
        path.write_bytes(content)
        assert "x.adatom" in refused(capsys, path, family, out)
        assert not out.exists()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_that_are_not_finite(family, value, tmp_path):
    potential = ours.make(family, ours.NAMES[family][0])
    leaves, tree = jax.tree.flatten(potential.params["network"])
    leaves = [np.array(x) for x in leaves]
    leaves[-1].flat[0] = value
    params = {**potential.params, "network": jax.tree.unflatten(tree, leaves)}
    with pytest.raises(ValueError, match="^1 numbers of .* in the potential are not finite: not written$"):
        convert.write(dataclasses.replace(potential, params=params), family, tmp_path / ours.FILES[family])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("family", FAMILIES)
def test_places_that_cannot_be_written(family, sources, tmp_path, capsys):
    source = sources / f"{family}.adatom"
    (tmp_path / "file").write_text("in the way")
    refused(capsys, source, family, tmp_path / "file" / ours.FILES[family])
    if family == "n2p2":
        assert "this is a file" in refused(capsys, source, family, tmp_path / "file")
    else:
        folder = tmp_path / ours.FILES[family]
        folder.mkdir()
        refused(capsys, source, family, folder)
        assert not list(folder.iterdir())
    assert (tmp_path / "file").read_text() == "in the way"
    assert sorted(x.name for x in tmp_path.iterdir() if x.suffix == ".tmp") == []


@pytest.mark.parametrize(("source", "family"), [("n2p2", "deepmd"), ("deepmd", "n2p2"), ("n2p2", "nep"), ("nep", "deepmd")])
def test_another_form(source, family, sources, tmp_path, capsys):
    refused(capsys, sources / f"{source}.adatom", family, tmp_path / ours.FILES[family])
