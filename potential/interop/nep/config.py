"""Everything that is static in a NEP model: what the header of `nep.txt` says."""

from __future__ import annotations

from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

Kind = Literal["radial", "angular"]
Invariant = Literal["222", "1111", "112", "123", "233", "134"]
INVARIANTS: tuple[Invariant, ...] = ("222", "1111", "112", "123", "233", "134")
"""Products of more than two A, by the l of their factors, in the order of the descriptor and of the line `l_max`."""

# Å, as GPUMD has them (4/3 of the single-bond radii of Pyykkö and Atsumi, Chem. Eur. J. 15, 186 (2009)); H to Pu
RADII = np.array([
    0.426667, 0.613333, 1.6, 1.25333, 1.02667, 1.0, 0.946667, 0.84, 0.853333, 0.893333, 1.86667, 1.66667, 1.50667, 1.38667,
    1.46667, 1.36, 1.32, 1.28, 2.34667, 2.05333, 1.77333, 1.62667, 1.61333, 1.46667, 1.42667, 1.38667, 1.33333, 1.32, 1.34667,
    1.45333, 1.49333, 1.45333, 1.53333, 1.46667, 1.52, 1.56, 2.52, 2.22667, 1.96, 1.85333, 1.76, 1.65333, 1.53333, 1.50667,
    1.50667, 1.44, 1.53333, 1.64, 1.70667, 1.68, 1.68, 1.64, 1.76, 1.74667, 2.78667, 2.34667, 2.16, 1.96, 2.10667, 2.09333,
    2.08, 2.06667, 2.01333, 2.02667, 2.01333, 2.0, 1.98667, 1.98667, 1.97333, 2.04, 1.94667, 1.82667, 1.74667, 1.64, 1.57333,
    1.54667, 1.48, 1.49333, 1.50667, 1.76, 1.73333, 1.73333, 1.81333, 1.74667, 1.84, 1.89333, 2.68, 2.41333, 2.22667, 2.10667,
    2.02667, 2.04, 2.05333, 2.06667,
])  # fmt: skip

Length = Annotated[float, Field(gt=0.0, le=30.0, allow_inf_nan=False)]
Factor = Annotated[float, Field(gt=0.0, le=10.0, allow_inf_nan=False)]
Size = Annotated[int, Field(ge=0, le=24)]


class ZblConfig(BaseModel):
    """Screened nuclear repulsion. Flexible: its cutoffs and constants are per pair of elements, among the arrays.

    factor: the outer cutoff is min(factor · (R_i + R_j), outer), the inner one 0, or half of it where `halved`.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flexible: bool = False
    inner: Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Å")] = 0.0
    outer: Annotated[float, Field(ge=0.0, le=30.0, allow_inf_nan=False, description="Å")] = 0.0
    factor: Factor | None = None
    halved: Annotated[bool, Field(description="as in files of 2024 and early 2025")] = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.flexible and not self.inner < self.outer:
            raise ValueError(f"the inner cutoff of zbl, {self.inner:g}, must be smaller than the outer, {self.outer:g}")
        return self


class NepConfig(BaseModel):
    """Sizes and hyper-parameters; one cutoff [Å] per element and kind, of a pair the mean of both.

    factors: radial and angular cutoffs of a pair are at most this times the sum of the covalent radii.
    max_neighbours: what GPUMD allocates, only kept to be written again.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    family: Literal["nep"] = "nep"
    version: Literal[3, 4, 5] = 4
    elements: tuple[Annotated[int, Field(ge=1, le=94)], ...] = Field(min_length=1)
    radial_cutoffs: tuple[Length, ...]
    angular_cutoffs: tuple[Length, ...]
    factors: tuple[Factor, Factor] | None = None
    n_max: tuple[Size, Size] = (4, 4)
    basis_size: tuple[Size, Size] = (8, 8)
    l_max: Annotated[int, Field(ge=0, le=8)] = 4
    invariants: tuple[Invariant, ...] = ("222", "1111")
    neurons: Annotated[int, Field(ge=1, le=1000)] = 30
    zbl: ZblConfig | None = None
    max_neighbours: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (200, 100)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        t = len(self.elements)
        if len(set(self.elements)) < t:
            raise ValueError("an element is named twice")
        if {len(self.radial_cutoffs), len(self.angular_cutoffs)} != {t}:
            raise ValueError(f"{t} elements need {t} radial and {t} angular cutoffs")
        if self.invariants != tuple(x for x in INVARIANTS if x in self.invariants):
            raise ValueError(f"invariants must be different ones of {', '.join(INVARIANTS)}, in this order")
        needed = max((int(c) for x in self.invariants for c in x), default=0)
        if needed > self.l_max:
            raise ValueError(f"{', '.join(self.invariants)} need l_max {needed}, it is {self.l_max}")
        outer, angular = self.zbl_cutoffs()[1], self.pair_cutoffs("angular")
        if self.zbl and (outer > angular).any():
            raise ValueError(f"the outer cutoff of zbl, {outer.max():g}, is beyond the angular cutoff, {angular.min():g}")
        return self

    @property
    def cutoff(self) -> float:
        """Å, the largest of any pair."""
        return float(max(self.pair_cutoffs(kind).max() for kind in ("radial", "angular")))  # type: ignore[arg-type]

    @property
    def n_features(self) -> int:
        return self.n_max[0] + 1 + (self.n_max[1] + 1) * (self.l_max + len(self.invariants))

    @property
    def n_networks(self) -> int:
        """NEP3 has one network for all elements."""
        return 1 if self.version == 3 else len(self.elements)

    def pair_cutoffs(self, kind: Kind) -> np.ndarray:
        """Å, (t, t)."""
        own = np.array(self.radial_cutoffs if kind == "radial" else self.angular_cutoffs)
        pair = 0.5 * (own[:, None] + own[None, :])
        if self.factors is None:
            return pair
        return np.minimum(self.factors[0 if kind == "radial" else 1] * self.radii, pair)

    @property
    def radii(self) -> np.ndarray:
        """Sums of covalent radii, Å, (t, t)."""
        own = RADII[np.array(self.elements) - 1]
        return own[:, None] + own[None, :]

    def zbl_cutoffs(self) -> tuple[np.ndarray, np.ndarray]:
        """Inner and outer of the universal ZBL, Å, (t, t); zero without one."""
        zbl, zero = self.zbl, np.zeros(self.radii.shape)
        if zbl is None or zbl.flexible:
            return zero, zero
        inner, outer = zero + zbl.inner, zero + zbl.outer
        if zbl.factor is None:
            return inner, outer
        outer = np.minimum(zbl.factor * self.radii, outer)
        return (0.5 if zbl.halved else 0.0) * outer, outer
