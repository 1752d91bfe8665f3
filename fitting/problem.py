"""What is minimised over what, and the prediction of a batch of it.

The order of batches in an epoch follows from (seed, epoch) alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np

from adatom.fitting.batches import Bucket, Targets, assemble, chunks
from adatom.fitting.config import LossConfig, TrainingConfig, epochs_of
from adatom.fitting.sharing import together
from adatom.fitting.sizes import eighths, few
from adatom.potential.committee import merge
from adatom.potential.graph import Graph
from adatom.potential.kernels import kernel
from adatom.potential.model import EnergyModel, FittedModel, Params, Statistics
from adatom.potential.predict import Prediction, predict

Array = jax.Array


@dataclass(frozen=True)
class Problem:
    """What is minimised over what. Buckets hold all frames; `train` and `valid` say, per bucket, which are for what.

    resampling: of a committee, per bucket the weights (members, frames) of its frames; None for a single network. fixed: a whole
    network, of which the trained part replaces what it has.
    """

    model: FittedModel
    statistics: Statistics
    buckets: Sequence[Bucket]
    train: Sequence[np.ndarray]
    valid: Sequence[np.ndarray]
    loss: LossConfig
    training: TrainingConfig
    fixed: Params = field(default_factory=dict)
    resampling: Sequence[np.ndarray] | None = None

    @property
    def epochs(self) -> int:
        """As configured, or as many as the data ask for."""
        atoms = sum(int(np.asarray(b.targets.n_atoms)[i].sum()) for b, i in zip(self.buckets, self.train, strict=True))
        return epochs_of(self.training, atoms)

    def frames_per_batch(self) -> list[int]:
        """Of every bucket, for about `batch_atoms` atoms; every device gets as many. (Of alloys a frame has room for more than it
        has: `atom_capacity`.)"""
        sizes = [eighths(int(np.max(b.targets.n_atoms))) for b in self.buckets]
        most = [max(1, round(self.training.batch_atoms / n)) for n in sizes]
        devices = jax.device_count()
        return [-(-max(1, min(few(len(i)), n)) // devices) * devices for n, i in zip(most, self.train, strict=True)]

    def batches(self, epoch: int) -> list[tuple[int, np.ndarray, np.ndarray]]:
        """(bucket, frames, present) of one epoch, in its order."""
        rng = np.random.default_rng([self.training.seed, epoch])
        jobs = []
        for k, (index, n) in enumerate(zip(self.train, self.frames_per_batch(), strict=True)):
            jobs += [(k, *chunk) for chunk in chunks(rng.permutation(index), n)]
        return [jobs[q] for q in rng.permutation(len(jobs))]

    @property
    def steps_per_epoch(self) -> int:
        return sum(-(-len(i) // n) for i, n in zip(self.train, self.frames_per_batch(), strict=True))


def forward(
    model: FittedModel, trained: Params, fixed: Params, statistics: Statistics, bucket: Bucket, index: Array, present: Array,
    precision: str,
) -> tuple[Graph, Targets, Prediction]:  # fmt: skip
    """Assemble a batch and predict it, by the compiled kernel where there is one. trained: as `sharing.apart` gives it; fixed: of
    `Problem`."""
    graph, targets = assemble(bucket, index, present)
    network = together(model, trained)
    network = merge(fixed, network) if fixed else network
    params = {"network": network, "statistics": statistics}
    fast: tuple[EnergyModel, Params] = kernel(model, params, precision) or (model, params)
    out = predict(fast[0], fast[1], graph, e0=jnp.asarray(statistics.e0), dtype=jnp.dtype(precision))
    return graph, targets, out
