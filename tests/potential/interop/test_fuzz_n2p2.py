"""Whatever is wrong with a folder of n2p2, reading it is one clear line: never a trace of something inside, never silence."""

import contextlib
import re

import n2p2_reference as reference
import numpy as np
import pytest

from adatom.potential.interop.n2p2 import read, recognise
from adatom.potential.model_file import ModelFileError

FILES = ("input.nn", "scaling.data", "weights.001.data", "weights.008.data")
UNITS = {"length_unit": "bohr", "energy_unit": "hartree"}


@pytest.fixture
def folder(tmp_path):
    return reference.write(reference.make(5, kinds=(2, 3, 12, 21)), tmp_path / "model")


def refused(folder, **units):
    with pytest.raises(ModelFileError) as error:
        read(folder, **(UNITS | units))
    text = str(error.value)
    assert "\n" not in text
    assert str(folder) in text
    assert len(text) < 400 + len(str(folder))
    return text


def read_or_refused(folder):
    """A potential of finite numbers, or one line."""
    with contextlib.suppress(ModelFileError):
        network = read(folder, **UNITS).params["network"]
        assert all(np.isfinite(x).all() for x in network["constants"].values())


@pytest.mark.parametrize("name", FILES)
def test_truncated(folder, name):
    """At the end of any line; a number cut short is a number still."""
    path, lines = folder / name, (folder / name).read_text().splitlines(keepends=True)
    for k in range(0, len(lines) - 1, max(len(lines) // 12, 1)):
        path.write_text("".join(lines[:k]))
        if name == "input.nn" and k > 0:
            read_or_refused(folder)  # what has a default may be missing
        else:
            refused(folder)


@pytest.mark.parametrize("name", FILES)
def test_flipped_bits(folder, name):
    """A flip may fall on a comment or in a number's digits: a potential, or one line."""
    path, whole, rng = folder / name, (folder / name).read_bytes(), np.random.default_rng(0)
    for _ in range(60):
        broken = bytearray(whole)
        for place in rng.integers(0, len(whole), 3):
            broken[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(bytes(broken))
        read_or_refused(folder)


def test_lines_missing_or_twice(folder):
    """A row of scaling.data or a weight too few or too many is noticed always; of input.nn where it is not a comment."""
    rng = np.random.default_rng(1)
    for name in FILES:
        path, lines = folder / name, (folder / name).read_text().splitlines(keepends=True)
        for k in rng.choice(len(lines), min(len(lines), 12), replace=False):
            for broken in (lines[:k] + lines[k + 1 :], [*lines[: k + 1], *lines[k:]]):
                path.write_text("".join(broken))
                if name == "input.nn" or lines[k].startswith("#"):
                    read_or_refused(folder)
                else:
                    refused(folder)
        path.write_text("".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("elements O H", "elements O Xx", "should be an element"),
        ("elements O H", "elements O H C", "number_of_elements do not fit"),
        ("cutoff_type 1", "cutoff_type 9", "cutoff_type 9 is not supported"),
        ("cutoff_type 1", "cutoff_type 1 1.5", "cutoff_alpha"),
        ("elements O H", "elements O H\nnnp_type 4G-HDNNP", "nnp_type 4G-HDNNP is not supported"),
        ("elements O H", "elements O H\nuse_electrostatics", "use_electrostatics is not supported"),
        ("elements O H", "elements O H\nelements O H", "elements a second time"),
        ("global_activation_short t p l", "global_activation_short t q l", "activations"),
        ("global_nodes_short 5 4", "global_nodes_short 5", "do not fit"),
        ("global_nodes_short 5 4", "global_nodes_short 5 40", "weights; 9-5-40-1 neurons have 331"),
        ("conv_energy 24.2", "", "without conv_energy"),
        ("conv_energy 24.2", "conv_energy -1", "must be positive"),
        ("atom_energy H -0.45", "atom_energy H zero", "argument 2 of atom_energy should be a number"),
        ("symfunction_short H 2 H 0.9 0.0 4.1", "symfunction_short H 8 H 0.9 0.0 4.1", "type 8 is not supported"),
        ("symfunction_short H 2 H 0.9 0.0 4.1", "symfunction_short H 2 H 0.9 0.0", "argument 6 of symfunction_short"),
        ("symfunction_short H 2 H 0.9 0.0 4.1", "symfunction_short H 2 H 0.9 0.0 -4.1", "cutoff: Input should be greater than 0"),
        ("symfunction_short H 2 H 0.9 0.0 4.1", "symfunction_short H 2 C 0.9 0.0 4.1", "function of H has neighbours"),
        ("elements O H", "elements O H\nglobal_symfunction_short 4 0.1 5.0", "global_symfunction_short of type 4 is not"),
        ("elements O H", "elements O H\nelement_symfunction_short C 2 0.1 0.0 5.0", "of C, which is not among the elements"),
        ("elements O H", "elements O H\nelement_symfunction_short 2 0.1 0.0 5.0", "argument 1 of .* should be an element"),
        ("elements O H", "elements O H\nglobal_symfunction_short 9 0.1 1 5.0", "argument 8 of symfunction_short"),
        ("70 p1", "70 q1", "compact function 'q1'"),
        ("20 120 p2", "20 220 p2", "leave .0, 180."),
    ],
)
def test_what_is_wrong_is_said(folder, old, new, words):
    path = folder / "input.nn"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))
    assert re.search(words, refused(folder))


@pytest.mark.parametrize("name", FILES)
def test_lines_exchanged_numbers_out_of_bounds_and_no_text(folder, name):
    """Two lines, or two words of a line, in each other's place; a number too large for anything; random bytes, and nothing."""
    path, rng = folder / name, np.random.default_rng(4)
    lines = (folder / name).read_text().splitlines()
    for n in range(30):
        broken = list(lines)
        a, b = rng.choice(len(lines), 2, replace=False)
        words = broken[a].split()
        if n % 3 == 0:
            broken[a], broken[b] = broken[b], broken[a]
        elif n % 3 == 1:
            broken[a] = " ".join(rng.permutation(words))
        else:
            words[rng.integers(len(words))] = ["1e999", "nan", "-inf", "999999999999", "1" * 400][rng.integers(5)]
            broken[a] = " ".join(words)
        path.write_text("\n".join(broken) + "\n")
        read_or_refused(folder)
    for content in (b"", rng.bytes(3000), b"\x00" * 300):
        path.write_bytes(content)
        refused(folder)


@pytest.mark.parametrize("nodes", ["4096 4096", "999999999999 4", "99999999999999999999 4"])
def test_networks_that_would_fill_the_memory(folder, nodes):
    path = folder / "input.nn"
    path.write_text(path.read_text().replace("global_nodes_short 5 4", f"global_nodes_short {nodes}"))
    assert re.search("neurons have|less than or equal|Unable to parse", refused(folder))


def test_files_missing_and_units(folder):
    assert recognise(folder)
    assert recognise(folder / "input.nn")
    assert "length unit" in refused(folder, length_unit=None)
    assert "--energy-unit" in refused(folder, energy_unit=None)
    assert "length unit 'nm'" in refused(folder, length_unit="nm")
    rows = (folder / "scaling.data").read_text()
    (folder / "scaling.data").write_text(rows.replace("1 2 ", "1 3 ", 1))
    assert "should be 1 2 min max mean sigma of function 2 of H" in refused(folder)
    (folder / "scaling.data").write_bytes(b"\xff\xfe\x00")
    assert "not a text file" in refused(folder)
    (folder / "weights.008.data").unlink()
    (folder / "scaling.data").write_text(rows)
    assert "weights.008.data: no such file" in refused(folder)
    (folder / "input.nn").unlink()
    assert not recognise(folder)
    assert not recognise(folder / "nothing")
    refused(folder)
