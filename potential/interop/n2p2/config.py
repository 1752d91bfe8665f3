"""What is static in a neural network potential of n2p2 or RuNNer: symmetry functions, their scaling, sizes of networks.

Lengths are Å, angles degrees, whatever unit the files had. Types have n2p2's numbers (Singraber, Behler, Dellago, J. Chem.
Theory Comput. 15, 1827 (2019); the compact ones Bircher, Singraber, Dellago, Mach. Learn. Sci. Technol. 2, 035026 (2021)):

    2 radial       3 narrow angular       9 wide angular       12 radial, weighted      13 narrow angular, weighted
    20 radial      21 narrow angular      22 wide angular      23, 24, 25 the same, weighted: compact support
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ase.data import chemical_symbols
from pydantic import BaseModel, ConfigDict, Field, model_validator

CutoffType = Literal["hard", "cos", "tanhu", "tanh", "poly1", "poly2", "poly3", "poly4", "exp"]
Core = Literal["poly1", "poly2", "poly3", "poly4", "exp"]
Scaling = Literal["none", "scale", "center", "scale_center", "scale_sigma"]
Activation = Literal["l", "t", "s", "p", "r", "g", "c", "S", "e", "h"]
Element = Annotated[int, Field(ge=1, le=118)]
Length = Annotated[float, Field(gt=0.0, le=1000.0)]
RADIAL, WEIGHTED, NARROW = (2, 12, 20, 23), (12, 13, 23, 24, 25), (3, 13, 21, 24)


class _Function(BaseModel):
    """neighbours: the element of j, or of j and k in ascending order; none for weighted types, which count all, times Z."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    neighbours: tuple[Element, ...] = ()
    cutoff: Length

    @model_validator(mode="after")
    def _as_many_neighbours_as_the_type_has(self) -> _Function:
        kind: int = self.kind  # type: ignore[attr-defined]
        wanted = 0 if kind in WEIGHTED else 1 if kind in RADIAL else 2
        if len(self.neighbours) != wanted or tuple(sorted(self.neighbours)) != self.neighbours:
            raise ValueError(f"type {kind} needs {wanted} elements of neighbours in ascending order, not {self.neighbours}")
        return self


class Gaussian(_Function):
    """Types with a cutoff function: exp(−η (r − r_s)²) f_c(r) of every side, and 2^(1−ζ) (1 + λ cos θ)^ζ of angular ones."""

    kind: Literal[2, 3, 9, 12, 13]
    eta: float
    shift: float = 0.0
    sign: Annotated[float, Field(ge=-1.0, le=1.0, description="lambda")] = 1.0
    zeta: Annotated[float, Field(gt=0.0, le=1024.0)] = 1.0

    @model_validator(mode="after")
    def _as_in_n2p2(self) -> Gaussian:
        if self.kind not in RADIAL and self.shift < 0.0:
            raise ValueError(f"an angular function with a negative shift, {self.shift} Å")
        return self


class Compact(_Function):
    """Types of compact support: a bump from `inner` to `cutoff` of every side and one from `left` to `right` of the angle."""

    kind: Literal[20, 21, 22, 23, 24, 25]
    inner: Annotated[float, Field(ge=-1000.0)]
    left: float = 0.0
    right: float = 180.0
    core: Core
    asymmetric: bool = False

    @property
    def core_name(self) -> str:
        """As in input.nn: p1, …, p4a, e."""
        return ("e" if self.core == "exp" else f"p{self.core[-1]}") + "a" * self.asymmetric

    @model_validator(mode="after")
    def _intervals(self) -> Compact:
        if self.inner >= self.cutoff:
            raise ValueError(f"the inner radius {self.inner} Å is not below the outer one {self.cutoff} Å")
        if self.kind in RADIAL:
            return self
        centre = 0.5 * (self.left + self.right)
        if not 0.0 < self.right - self.left <= 360.0:
            raise ValueError(f"angles from {self.left} to {self.right} are no interval of at most 360 degrees")
        if (self.left < 0.0 and centre != 0.0) or (self.right > 180.0 and centre != 180.0):
            raise ValueError(f"angles from {self.left} to {self.right} leave [0, 180] without being centred at 0 or 180")
        return self


def order(f: Gaussian | Compact) -> tuple[Any, ...]:
    """n2p2 sorts the functions of an element by this, and numbers them so in scaling.data."""
    if isinstance(f, Gaussian):
        return f.kind, f.cutoff, f.eta, f.shift, f.zeta, f.sign, f.neighbours
    return f.kind, f.core_name, f.neighbours, f.cutoff, f.inner, f.left, f.right


Function = Annotated[Gaussian | Compact, Field(discriminator="kind")]


class Network(BaseModel):
    """Hidden layers of one element's network; `activations` has one more, of the single output."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    widths: tuple[Annotated[int, Field(ge=1, le=4096)], ...]
    activations: tuple[Activation, ...]

    @model_validator(mode="after")
    def _one_activation_a_layer(self) -> Network:
        if len(self.activations) != len(self.widths) + 1:
            raise ValueError(f"{len(self.widths)} hidden layers need {len(self.widths) + 1} activations, not {self.activations}")
        return self


class N2p2Config(BaseModel):
    """One entry of `functions` and `networks` per element; functions stand in the order of n2p2's scaling.data."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    family: Literal["n2p2"] = "n2p2"
    elements: Annotated[tuple[Element, ...], Field(min_length=1)]
    functions: tuple[tuple[Function, ...], ...]
    networks: tuple[Network, ...]
    cutoff_type: CutoffType
    cutoff_alpha: Annotated[float, Field(ge=0.0, lt=1.0, description="inner cutoff as a fraction of the cutoff")] = 0.0
    scaling: Scaling = "none"
    scale_min: float = 0.0
    scale_max: float = 1.0
    normalize_nodes: bool = False

    @property
    def cutoff(self) -> float:
        """Å, the largest."""
        return max(f.cutoff for functions in self.functions for f in functions)

    @model_validator(mode="after")
    def _whole(self) -> N2p2Config:
        t = len(self.elements)
        if list(self.elements) != sorted(set(self.elements)):
            raise ValueError(f"elements {self.elements} are not in ascending order")
        if len(self.functions) != t or len(self.networks) != t:
            raise ValueError(f"{t} elements, but {len(self.functions)} sets of functions and {len(self.networks)} networks")
        for z, functions in zip(self.elements, self.functions, strict=True):
            if not functions:
                raise ValueError(f"{chemical_symbols[z]} has no symmetry function")
            for f in functions:
                if not set(f.neighbours) <= set(self.elements):
                    raise ValueError(f"a symmetry function of {chemical_symbols[z]} has neighbours {f.neighbours}")
            if list(functions) != sorted(functions, key=order):
                raise ValueError(f"the symmetry functions of {chemical_symbols[z]} are not in n2p2's order")
        return self
