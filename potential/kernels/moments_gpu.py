"""The moments model on a GPU, for inference: as the descriptor says, but for two of its steps.

Contractions: a thread has all tensors of one channel of one atom in its registers. XLA would keep every product in memory, or
find all gradients for each of them. Written in Pallas, for Triton.
Monomials: from tables of powers, not degree after degree.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from adatom.potential.descriptors import MomentsConfig
from adatom.potential.descriptors.moments import Moments, terms
from adatom.potential.descriptors.symmetry_functions import monomials
from adatom.potential.model import EnergyModel, Faster, Model, Params

Array = jax.Array
Contractions = tuple[tuple[int, int, int], ...]
Sums = list[list[tuple[float, tuple[int, ...]]]]
"""For every result its terms: a factor and the rows that are multiplied."""
THREADS = 128


@dataclass(frozen=True)
class GpuMoments(Faster):
    """An EnergyModel equal to `model` to rounding, with the same params; can be differentiated once."""

    model: Model
    interpret: bool = False
    shortest: ClassVar[float] = 0.0

    def atomic_energies(self, params: Params, vectors: Array, slots: Sequence[int], atoms: Sequence[int]) -> Array:
        """As `Model.atomic_energies`."""
        config = self.model.config.descriptor
        assert isinstance(config, MomentsConfig)
        descriptor = Moments(config, by_powers, partial(contracted, interpret=self.interpret))
        features = descriptor.apply({"params": params["network"]["descriptor"]}, vectors, slots, atoms)
        return self.model.energies(params, jnp.asarray(features), vectors, slots, atoms)


def on_gpu(model: EnergyModel, params: Params) -> tuple[GpuMoments, Params] | None:
    """The model as GPUs like it; None for other models and on other devices."""
    if not isinstance(model, Model) or not isinstance(model.config.descriptor, MomentsConfig) or jax.default_backend() != "gpu":
        return None
    return GpuMoments(model), params


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def by_powers(u: Array, order: int) -> Array:
    """As `unit_monomials`."""
    powers = [jnp.ones_like(u)]
    for _ in range(order):
        powers.append(powers[-1] * u)
    table, (a, b, c) = jnp.stack(powers), np.array(monomials(order)).T
    return table[a, 0] * table[b, 1] * table[c, 2]


@by_powers.defjvp
def _by_powers_jvp(order: int, primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    """The derivative of a monomial is a monomial."""
    (u,), (change,) = primals, tangents
    all_powers = np.array(monomials(order))
    place = {powers: n for n, powers in enumerate(monomials(order))}
    low = by_powers(u, max(order - 1, 0))
    out = jnp.zeros((len(all_powers), *u.shape[1:]), dtype=u.dtype)
    for axis, step in enumerate(np.eye(3, dtype=int)):
        below = np.array([place.get(tuple((powers - step).tolist()), 0) for powers in all_powers])
        factor = jnp.asarray(all_powers[:, axis], dtype=u.dtype)[:, None, None]
        out += factor * low[below] * change[axis][None]
    return by_powers(u, order), out


@partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def contracted(tensors: Array, contractions: Contractions, interpret: bool = False) -> Array:
    """(n, monomials, channels) -> (n, contractions, channels), as `descriptors.moments.contracted`; can be differentiated once.

    interpret: without a GPU, for tests.
    """
    values, _ = _sums(contractions)
    return _call(values, _flat(tensors), tensors.shape, interpret)


def _forward(tensors: Array, contractions: Contractions, interpret: bool) -> tuple[Array, Array]:
    return contracted(tensors, contractions, interpret), tensors


def _backward(contractions: Contractions, interpret: bool, tensors: Array, bar: Array) -> tuple[Array]:
    _, gradients = _sums(contractions)
    rows = jnp.concatenate([_flat(tensors), _flat(bar)])
    return (_call(gradients, rows, tensors.shape, interpret),)


contracted.defvjp(_forward, _backward)


@cache
def _sums(contractions: Contractions) -> tuple[Sums, Sums]:
    """The contractions as sums of products of rows: tensors; and their gradients: rows of the tensors, then of the results'."""
    which, factors = terms(contractions)
    n_rows, values = int(which.max()) + 1, []
    found: list[dict[tuple[int, ...], float]] = [defaultdict(float) for _ in range(n_rows)]
    for x in range(len(contractions)):
        used = [(float(factors[k, x]), tuple(which[:, k].tolist())) for k in np.flatnonzero(factors[:, x])]
        values.append(used)
        for factor, rows in used:
            for at, row in enumerate(rows):
                found[row][*sorted(rows[:at] + rows[at + 1 :]), n_rows + x] += factor
    gradients = [[(factor, rows) for rows, factor in each.items()] for each in found]
    return values, gradients


def _flat(x: Array) -> Array:
    """(n, rows, channels) -> (rows, n·channels and what makes it a multiple of THREADS)."""
    flat = x.transpose(1, 0, 2).reshape(x.shape[1], -1)
    return jnp.pad(flat, ((0, 0), (0, -flat.shape[1] % THREADS)))


def _call(sums: Sums, rows: Array, shape: Sequence[int], interpret: bool) -> Array:
    """Rows (rows, points) -> the sums of their products (n, sums, channels)."""
    from jax.experimental import pallas as pl  # a quarter of what importing this package would take
    from jax.experimental.pallas import triton

    n, _, channels = shape
    chosen: dict[str, Any] = {"interpret": True}
    if not interpret:
        chosen = {"compiler_params": triton.CompilerParams(num_warps=THREADS // 32)}
    blocks = [pl.BlockSpec((height, THREADS), lambda i: (0, i)) for height in (len(rows), len(sums))]
    out = pl.pallas_call(
        partial(_products, sums), jax.ShapeDtypeStruct((len(sums), rows.shape[1]), rows.dtype),
        grid=(rows.shape[1] // THREADS,), in_specs=blocks[:1], out_specs=blocks[1], **chosen,
    )(rows)  # fmt: skip
    return out[:, : n * channels].reshape(len(sums), n, channels).transpose(1, 0, 2)


def _products(sums: Sums, rows: Any, out: Any) -> None:
    known: dict[tuple[int, ...], Array] = {}

    def product(of: tuple[int, ...]) -> Array:
        if of not in known:
            known[of] = rows[of[0], :] if len(of) == 1 else product(of[:-1]) * product(of[-1:])
        return known[of]

    for n, terms_of_one in enumerate(sums):
        total = jnp.zeros_like(rows[0, :])
        for factor, which in terms_of_one:
            total += factor * product(which)
        out[n, :] = total
