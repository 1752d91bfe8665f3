"""What is static in a model of DeePMD-kit: descriptors, nets, exclusions, tables and how they are put together."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Count = Annotated[int, Field(ge=0, le=100_000)]
Width = Annotated[int, Field(ge=1, le=65_536)]
Length = Annotated[float, Field(gt=0.0, le=100.0, allow_inf_nan=False, description="Å")]
Pairs = tuple[tuple[int, int], ...]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Environment(_Part):
    """What all descriptors have. sel: slots of each species, or of all together; padded: whether an empty slot counts.

    An empty slot counts where the mean `davg` of the environment matrix is not zero: it enters as (0 − davg)/dstd. blank: a slot
    that is or could be of an excluded pair of species is zero even if it is empty, as in DeePMD-kit's TensorFlow backend only.
    """

    cutoff: Length
    smooth_cutoff: Annotated[float, Field(ge=0.0, le=100.0, description="Å")]
    protection: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    sel: tuple[Count, ...]
    exclude: Pairs = ()
    blank: bool = False
    neuron: tuple[Width, ...]
    activation: str = "tanh"
    resnet_dt: bool = False
    padded: bool = True
    precision: Literal["float32", "float64"] = "float64"

    @model_validator(mode="after")
    def _ordered(self) -> Environment:
        if not self.smooth_cutoff < self.cutoff:
            raise ValueError(f"rcut_smth {self.smooth_cutoff} must be smaller than rcut {self.cutoff}")
        if not self.neuron or not sum(self.sel):
            raise ValueError("neuron and sel must not be empty")
        return self


class SeA(Environment):
    """DeepPot-SE with angles."""

    type: Literal["se_e2_a"] = "se_e2_a"
    axis: Width
    one_side: bool

    def n_features(self) -> int:
        return self.neuron[-1] * self.axis


class SeR(Environment):
    """DeepPot-SE, radial only."""

    type: Literal["se_e2_r"] = "se_e2_r"
    one_side: bool = True

    def n_features(self) -> int:
        return self.neuron[-1]


class SeT(Environment):
    """DeepPot-SE with three-body embedding."""

    type: Literal["se_e3"] = "se_e3"

    def n_features(self) -> int:
        return self.neuron[-1]


class SeAtten(Environment):
    """DPA-1: type embedding, gated self-attention among the neighbours."""

    type: Literal["se_atten"] = "se_atten"
    axis: Width
    one_side: bool
    tebd_dim: Width
    strip: Annotated[bool, Field(description="type embedding in a net of its own")]
    smooth: bool
    concat: Annotated[bool, Field(description="the centre's type embedding is part of the descriptor")]
    attention_layers: Annotated[int, Field(ge=0, le=64)]
    attention_width: Width
    attention_dotr: bool
    attention_scale: Annotated[float, Field(description="of the product of query and key")]
    attention_normalize: bool
    layer_norm_eps: Annotated[float, Field(gt=0.0)]

    def n_features(self) -> int:
        return self.neuron[-1] * self.axis + (self.tebd_dim if self.concat else 0)


Descriptor = Annotated[SeA | SeR | SeT | SeAtten, Field(discriminator="type")]


class Standard(_Part):
    """Descriptors side by side and a fitting net: one for each species, or `mixed`, one for all.

    vacuum: species whose net is counted from its value at a descriptor of zeros; exclude: species whose net is not evaluated.
    """

    type: Literal["standard"] = "standard"
    descriptors: Annotated[tuple[Descriptor, ...], Field(min_length=1)]
    widths: tuple[Width, ...]
    activation: str = "tanh"
    resnet_dt: bool = True
    mixed: bool = False
    vacuum: tuple[int, ...] = ()
    exclude: tuple[int, ...] = ()
    precision: Literal["float32", "float64"] = "float64"

    @property
    def cutoff(self) -> float:
        return max(d.cutoff for d in self.descriptors)

    @property
    def sel(self) -> int:
        return max(sum(d.sel) for d in self.descriptors)

    def n_features(self) -> int:
        return sum(d.n_features() for d in self.descriptors)


class Table(_Part):
    """Pair energies as cubic splines on a grid from `start` in steps of `step`, zero from `cutoff` on."""

    type: Literal["table"] = "table"
    cutoff: Length
    start: Annotated[float, Field(ge=0.0, allow_inf_nan=False, description="Å")]
    step: Length
    splines: Annotated[int, Field(ge=1, le=10_000_000)]
    sel: Count


class Switch(_Part):
    """From the table, where the soft minimum of an atom's distances is below `inner`, to the network, above `outer`."""

    inner: Length
    outer: Length
    alpha: Annotated[float, Field(gt=0.0, allow_inf_nan=False, description="Å, width of the soft minimum")]

    @model_validator(mode="after")
    def _ordered(self) -> Switch:
        if not self.inner < self.outer:
            raise ValueError(f"sw_rmin {self.inner} must be smaller than sw_rmax {self.outer}")
        return self


Term = Annotated[Standard | Table, Field(discriminator="type")]


class DeepmdConfig(_Part):
    """A sum of terms with constant weights, or with `switch` a network and a table of which each takes over from the other.

    exclude_pairs: species that do not see each other in any term; exclude_atoms: species without energy.
    """

    family: Literal["deepmd"] = "deepmd"
    elements: Annotated[tuple[Annotated[int, Field(ge=1, le=118)], ...], Field(min_length=1)]
    terms: Annotated[tuple[Term, ...], Field(min_length=1)]
    weights: tuple[float, ...] = (1.0,)
    switch: Switch | None = None
    exclude_pairs: Pairs = ()
    exclude_atoms: tuple[int, ...] = ()

    @model_validator(mode="after")
    def _fitting(self) -> DeepmdConfig:
        t, kinds = len(self.elements), [x.type for x in self.terms]
        if len(set(self.elements)) != t:
            raise ValueError("an element is named twice in type_map")
        if len(self.weights) != len(self.terms):
            raise ValueError(f"{len(self.weights)} weights for {len(self.terms)} models")
        if self.switch and kinds != ["standard", "table"]:
            raise ValueError(f"zbl needs a network and a table, not {kinds}")
        pairs, atoms = list(self.exclude_pairs), list(self.exclude_atoms)
        for term in self.terms:
            if isinstance(term, Standard):
                atoms += [*term.exclude, *term.vacuum]
                for d in term.descriptors:
                    pairs += d.exclude
                    if len(d.sel) != (1 if isinstance(d, SeAtten) else t):
                        raise ValueError(f"sel {list(d.sel)} does not fit {t} types")
        if any(not 0 <= x < t for x in (*atoms, *(x for p in pairs for x in p))):
            raise ValueError("excluded types are outside type_map")
        return self

    @property
    def cutoff(self) -> float:
        return max(x.cutoff for x in self.terms)
