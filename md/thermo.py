"""The thermodynamic table: one row, the log it is written to, and reading it back."""

from __future__ import annotations

import csv
import math
import os
from pathlib import Path
from typing import NamedTuple

import numpy as np


class Thermo(NamedTuple):
    """One row of the log; nan where a quantity is not defined (volume, pressure, nothing conserved, no neighbours, no committee).

    rebuilds: neighbour lists made since the last start or resumption.
    """

    step: int
    time_ps: float
    temperature_K: float
    potential_eV: float
    kinetic_eV: float
    total_eV: float
    conserved_eV: float
    pressure_GPa: float
    volume_A3: float
    min_distance_A: float
    max_spread_eV_A: float = math.nan
    rebuilds: int = 0


class Log:
    """The table as a CSV file. A new one, or (position, in bytes) one to go on with after dropping what came later."""

    def __init__(self, path: Path, *, position: int | None = None) -> None:
        if position is not None and (not path.exists() or path.stat().st_size < position):
            raise ValueError(f"{path}: the run cannot go on with it: shorter than at the checkpoint; start again or restore it")
        self._file = open(path, "w" if position is None else "r+", newline="", encoding="utf-8")  # noqa: SIM115
        if position is None:
            csv.writer(self._file).writerow(Thermo._fields)
        else:
            self._file.seek(position)
            self._file.truncate()

    def add(self, row: Thermo) -> None:
        """One row, handed to the operating system."""
        fields = ("" if math.isnan(x) else f"{x:.10g}" if isinstance(x, float) else x for x in row)
        csv.writer(self._file).writerow(fields)
        self._file.flush()

    def position(self) -> int:
        """Bytes written."""
        self._file.flush()
        return os.fstat(self._file.fileno()).st_size

    def sync(self) -> None:
        """To the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_log(path: Path) -> dict[str, np.ndarray]:
    """The columns of a thermodynamic table, (rows,) each, nan where a field is empty. ValueError for any other file."""
    with open(path, newline="", encoding="utf-8") as f:
        header, *rows = list(csv.reader(f)) or [[]]
    if tuple(header) != Thermo._fields:
        raise ValueError(f"{path} is not a table written by adatom md: its first line is {','.join(header)[:80]!r}")
    whole = [r for r in rows if len(r) == len(header)]  # a killed run may leave half a line
    table = np.array([[float(x) if x else np.nan for x in r] for r in whole]).reshape(len(whole), len(header))
    return dict(zip(header, table.T, strict=True))
