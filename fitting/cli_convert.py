"""`adatom convert`: models of other programs to `.adatom` files, and back."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

FAMILIES = ("deepmd", "n2p2", "nep")


def add_convert(verbs: Any) -> None:
    p = verbs.add_parser("convert", help="read a model of DeePMD-kit, n2p2 or NEP, or write one for them")
    p.add_argument("source", nargs="+", metavar="SOURCE", help="a file or folder; several models of a kind become a committee")
    p.add_argument("-o", "--out", required=True, metavar="MODEL", help="MODEL.adatom, or with --to what that program reads")
    p.add_argument("--from", choices=FAMILIES, dest="family", help="default: recognised by content")
    p.add_argument("--to", choices=FAMILIES, help="write SOURCE, an .adatom file, for that program")
    p.add_argument("--length-unit", choices=("angstrom", "bohr"), help="of n2p2's files, which do not say it")
    p.add_argument("--energy-unit", choices=("eV", "hartree"), help="of n2p2's files, which do not say it")
    p.set_defaults(run=_convert)


def _convert(a: argparse.Namespace) -> int:
    from adatom.potential.interop.convert import describe, read, write
    from adatom.potential.model_file import load, save

    if a.to is None:
        potential = read(a.source, a.family, length_unit=a.length_unit, energy_unit=a.energy_unit)
        save(potential, a.out)
    elif len(a.source) > 1 or a.family or a.length_unit or a.energy_unit:
        raise ValueError("--to takes one .adatom file, and no --from or units: Å and eV are written")
    else:
        potential = load(a.source[0])
        write(potential, a.to, Path(a.out))
    print(f"{describe(potential)}; written to {a.out}")
    return 0
