"""A config of `adatom learn` to begin with."""

from __future__ import annotations

from adatom.fitting.active.label_config import label_template


def template() -> str:
    """A commented config: what is usually changed, and where the rest is described."""
    return TEMPLATE + "\n" + label_template()


TEMPLATE = """\
# adatom learn: from a crystal and a DFT code to a potential. Run: adatom learn THIS_FILE (again to go on).

seed = 1

[start]
data = []                        # labelled frames of the same calculator, if there are any
test = []                        # labelled frames to report errors on; never selected from

[explore]
temperatures_K = [300, 600, 1200]
pressures_GPa = [0.0]
runs = 24                        # an iteration
duration_ps = 1.0                # of a run in the first iteration; 1.5 times longer in each later one, up to max_duration_ps
max_duration_ps = 10.0
timestep_fs = 1.0
interval = 20                    # steps between frames that are judged
bias_ratio = 0.0                 # 0.1 to 0.3 drives runs towards what the committee does not know; steps cost more

[explore.prototypes]
silicon = "silicon.cif"          # any file ASE reads

[[explore.structures]]           # kinds: bulk strained rattled surfaces vacancies interstitials alloy close_pairs dimers melt
kind = "strained"
atoms = 16
count = 6

[[explore.structures]]
kind = "vacancies"
atoms = 32

[select]
rule = "weighted"                # weighted, determinant, farthest, highest, random
labels = 20                      # an iteration, at most
quiet = 0.0                      # part of them taken from accurate frames
# lower_eV_A = 0.1               # window of the force's σ; adaptive where not given
# upper_eV_A = 0.5

[fit.training]                   # any key of `adatom template fit`, below fit
epochs = 0

[fit.uncertainty]
kind = "deep"
members = 4

[stop]
accurate = 0.995                 # part of the explored frames
iterations = 20
labels = 1000
core_hours = 0.0                 # of labelling; 0: no limit
hours = 0.0                      # of the clock, while it runs; looked at after each iteration
"""
