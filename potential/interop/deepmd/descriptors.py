"""The descriptors of DeePMD-kit without attention: se_e2_a, se_e2_r, se_e3.

    s = w(r)/(r + p),   R = (s, w x/(r + p)², w y/(r + p)², w z/(r + p)²),   R̃ = (R − davg)/dstd
    se_e2_a   D = T Tᵀ_<,  T = Σ_j G(s̃_j) R̃_j / Σ sel          se_e2_r   D = Σ_j G(s̃_j) / (5 Σ sel)
    se_e3     D = Σ_tu Σ_jk e_jk G(e_jk) / (sel_t sel_u),  e_jk = x̃_j·x̃_k,  pairs of species t ≤ u

w switches from 1 at rcut_smth to 0 at rcut; davg and dstd (species of the centre, species of the neighbour, 4). DeePMD-kit's sums
run over all `sel` slots of a list. An empty slot is R̃ = −davg/dstd, and so is one beyond the cutoff: `sel` minus our number of
slots times that term makes the sums equal. It may be negative, for we drop no neighbour. Sources: Zhang et al., NeurIPS 31
(2018); Wang et al., Comput. Phys. Commun. 228, 178 (2018); Zeng et al., J. Chem. Phys. 159, 054801 (2023).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.cutoffs import smooth_step_down
from adatom.potential.geometry import distances
from adatom.potential.interop.deepmd.config import Environment, Pairs, SeA, SeR, SeT
from adatom.potential.interop.deepmd.nets import perceptron

Array = jax.Array
SectionSum = Callable[[str, Array, Array], Array]
"""(name of an embedding net, weights (c, n, k), s̃ (n, k)) -> Σ_k weights G(s̃): (n, c, M)."""


class Surroundings(NamedTuple):
    """Of n atoms with k slots. listed: what a neighbour list up to the cutoff of the whole model would hold."""

    vectors: Array
    r: Array
    listed: Array
    slots: tuple[int, ...]
    atoms: tuple[int, ...]

    @property
    def row(self) -> np.ndarray:
        """Species of each atom."""
        return np.repeat(np.arange(len(self.atoms)), self.atoms)

    @property
    def column(self) -> np.ndarray:
        """Species of each slot."""
        return np.repeat(np.arange(len(self.slots)), self.slots)

    def sections(self) -> Iterator[tuple[int, slice]]:
        """Columns of each species."""
        stops = np.cumsum(self.slots)
        yield from ((t, slice(int(b) - k, int(b))) for t, (k, b) in enumerate(zip(self.slots, stops, strict=True)))

    def groups(self) -> Iterator[tuple[int, slice]]:
        """Rows of each species that has any."""
        stops = np.cumsum(self.atoms)
        yield from ((u, slice(int(b) - n, int(b))) for u, (n, b) in enumerate(zip(self.atoms, stops, strict=True)) if n)


def surroundings(vectors: Array, cutoff: float, excluded: Pairs, slots: Sequence[int], atoms: Sequence[int]) -> Surroundings:
    """Pairs of excluded species are in no list."""
    r = distances(vectors)
    here = Surroundings(vectors, r, r < cutoff, tuple(slots), tuple(atoms))
    if excluded:
        here = here._replace(listed=here.listed & ~pair_mask(here, excluded))
    return here


def pair_mask(here: Surroundings, pairs: Pairs) -> np.ndarray:
    """Whether (atom, slot) is of one of the pairs of species, in either order: (n, k)."""
    t = len(here.atoms)
    table = np.zeros((t, t), dtype=bool)
    for a, b in pairs:
        table[a, b] = table[b, a] = True
    return table[here.row[:, None], here.column[None, :]]


def environment(here: Surroundings, c: Environment) -> tuple[Array, Array]:
    """w (n, k) and the environment matrix R (4, n, k), both zero where nothing is listed."""
    w = jnp.where(here.listed, smooth_step_down(here.r, c.smooth_cutoff, c.cutoff), jnp.zeros_like(here.r))
    inverse = 1.0 / (here.r + c.protection)
    return w, jnp.concatenate([(w * inverse)[None], here.vectors * (w * inverse * inverse)[None]])


def normalised(here: Surroundings, c: Environment, constants: dict[str, Array]) -> tuple[list[Array], Array]:
    """R̃ (4, n, k_t) of each section, and of an empty slot (4, n, species). A pair that the descriptor excludes is zero."""
    _, matrix = environment(here, c)
    dtype = here.r.dtype
    mean, std = (jnp.asarray(constants[k]).astype(dtype)[here.row].transpose(2, 0, 1) for k in ("davg", "dstd"))
    empty = -mean / std
    if c.exclude:
        nothing = pair_mask(here, c.exclude) & (c.blank | here.listed)
        if c.blank:
            alone = here._replace(slots=(1,) * len(here.slots))  # an empty slot of each species
            empty = jnp.where(pair_mask(alone, c.exclude)[None], jnp.zeros_like(empty), empty)
    parts = []
    for t, columns in here.sections():
        part = (matrix[:, :, columns] - mean[:, :, t : t + 1]) / std[:, :, t : t + 1]
        if c.exclude:
            part = jnp.where(nothing[None, :, columns], jnp.zeros_like(part), part)
        parts.append(part)
    return parts, empty


def by_section(here: Surroundings, c: SeA | SeR, constants: dict[str, Array], term: Callable[[str, Array], Array]) -> Array:
    """Σ over all `sel` slots of term(name of the net, R̃ (4, n, k)), which is summed over k."""
    parts, empty = normalised(here, c, constants)
    sums = []
    for t, part in enumerate(parts):
        if c.one_side:
            sums.append(_with_padding(c, t, f"embedding_{t}", part, empty[:, :, t : t + 1], term))
            continue
        rows = [
            _with_padding(c, t, f"embedding_{u}_{t}", part[:, here_], empty[:, here_, t : t + 1], term)
            for u, here_ in here.groups()
        ]
        sums.append(jnp.concatenate(rows))
    return sum(sums[1:], sums[0])


def _with_padding(c: SeA | SeR, t: int, name: str, part: Array, empty: Array, term: Callable[[str, Array], Array]) -> Array:
    """The term of the slots there are, and `sel` minus their number times that of an empty one."""
    total = term(name, part)
    missing = c.sel[t] - part.shape[2]
    if missing and (c.padded or isinstance(c, SeR)):
        total = total + float(missing) * term(name, empty)
    return total


def se_a(here: Surroundings, c: SeA, constants: dict[str, Array], section_sum: SectionSum) -> Array:
    """(n, M·M_<)."""

    def term(name: str, part: Array) -> Array:
        if part.shape[2] == 0:
            return jnp.zeros((part.shape[1], 4, c.neuron[-1]), dtype=part.dtype)
        return section_sum(name, part, part[0])

    return outer_product(by_section(here, c, constants, term) / float(sum(c.sel)), c.axis)


def outer_product(t4: Array, axis: int) -> Array:
    """D = T Tᵀ_< from T (n, 4, M): (n, M·axis)."""
    d = jnp.einsum("ncm,ncl->nml", t4, t4[:, :, :axis])
    return d.reshape(d.shape[0], -1)


def se_r(here: Surroundings, c: SeR, constants: dict[str, Array], section_sum: SectionSum) -> Array:
    """(n, M)."""

    def term(name: str, part: Array) -> Array:
        return section_sum(name, jnp.ones_like(part[:1]), part[0])[:, 0]

    return by_section(here, c, constants, term) / (5.0 * sum(c.sel))


def se_t(here: Surroundings, c: SeT, constants: dict[str, Array], nets: dict[str, Any]) -> Array:
    """(n, M). Empty slots have x̃ = 0, for `davg` has no direction."""
    parts, _ = normalised(here, c, constants)
    total = jnp.zeros((len(here.row), c.neuron[-1]), dtype=here.r.dtype)
    for t, a in enumerate(parts):
        for u, b in enumerate(parts[t:], start=t):
            if a.shape[2] and b.shape[2]:
                e = jnp.einsum("cnj,cnk->njk", a[1:], b[1:])
                g = perceptron(nets[f"embedding_{t}_{u}"], e[..., None], c.activation)
                total = total + jnp.einsum("njk,njkm->nm", e, g) / float(c.sel[t] * c.sel[u])
    return total


def embedding(params: dict[str, Any], c: Environment) -> SectionSum:
    """By the embedding nets themselves."""

    def section_sum(name: str, weights: Array, s: Array) -> Array:
        return jnp.einsum("cnk,nkm->ncm", weights, perceptron(params[name], s[..., None], c.activation))

    return section_sum
