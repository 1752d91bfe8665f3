"""Damaged nep.txt files: one line that says so, every time; never a model with numbers missing or not finite."""

import nep_reference as reference
import numpy as np
import pytest

from adatom.potential.interop.nep.reader import read, recognise
from adatom.potential.model_file import ModelFileError
from adatom.potential.potential import flatten

NAMES = list(reference.HEADERS)


def refused(path):
    """Whether reading ends in a ModelFileError of one line; anything else but a sound model is an error of the test."""
    recognise(path)
    try:
        network = read(path).params["network"]
    except ModelFileError as error:
        said = str(error)
    else:
        assert all(np.isfinite(x).all() for x in flatten(network).values())
        return False
    assert "\n" not in said
    assert str(path) in said
    return True


@pytest.mark.parametrize("name", NAMES)
def test_truncated_anywhere(name, tmp_path):
    whole, path, rng = reference.text_of(name).encode(), tmp_path / "nep.txt", np.random.default_rng(0)
    for cut in [*range(0, 150, 3), *rng.integers(150, len(whole) - 1, 60), *range(len(whole) - 20, len(whole))]:
        path.write_bytes(whole[:cut])
        assert refused(path), cut


@pytest.mark.parametrize("name", NAMES)
def test_bits_flipped(name, tmp_path):
    """A digit that became another digit cannot be known; anything else must be."""
    whole, path, rng = reference.text_of(name).encode(), tmp_path / "nep.txt", np.random.default_rng(1)
    found = 0
    for n in range(250):
        damaged = bytearray(whole)
        for at in rng.integers(0, 150 if n % 2 else len(whole), 1 + n % 3):
            damaged[at] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        found += refused(path)
    assert found > 100


@pytest.mark.parametrize("name", NAMES)
def test_wrong_counts_and_foreign_lines(name, tmp_path):
    lines, path, rng = reference.text_of(name).splitlines(), tmp_path / "nep.txt", np.random.default_rng(2)
    for n in range(120):
        damaged, at = list(lines), int(rng.integers(8 if n % 2 else len(lines)))
        kind = n % 4
        if kind == 0:
            del damaged[at]
        elif kind == 1:
            damaged.insert(at, damaged[at])
        elif kind == 2:
            damaged[at] = ["", "nan", "1e999", "0x1p3", "1_0,5", "\u00e9", "zbl 1", "-"][rng.integers(8)]
        else:
            damaged[at] += " " + ["7", "x", "-inf"][rng.integers(3)]
        path.write_text("\n".join(damaged) + "\n")
        assert refused(path), (n, damaged[at])


@pytest.mark.parametrize("name", NAMES)
def test_lines_of_the_header_exchanged_and_huge_counts(name, tmp_path):
    lines, path = reference.text_of(name).splitlines(), tmp_path / "nep.txt"
    n_header = 7 if "_zbl" in lines[0] else 6
    for a in range(n_header):
        for b in range(a + 1, n_header):
            damaged = list(lines)
            damaged[a], damaged[b] = damaged[b], damaged[a]
            path.write_text("\n".join(damaged) + "\n")
            assert refused(path), (a, b)
    for a in range(1, n_header):
        words = lines[a].split()
        for k in range(1, len(words)):
            for huge in ("999999999999", "9" * 400, "1e300", "-999999999999"):
                damaged = list(lines)
                damaged[a] = " ".join([*words[:k], huge, *words[k + 1 :]])
                path.write_text("\n".join(damaged) + "\n")
                refused(path)


def test_not_text_at_all(tmp_path):
    path = tmp_path / "nep.txt"
    for content in (b"", b"\n", b"\x00" * 300, np.random.default_rng(3).bytes(4000), b"nep4 1 Si", b"nep4 999999999999 Si\n"):
        path.write_bytes(content)
        assert refused(path)
    assert not recognise(tmp_path / "nothing.txt")
