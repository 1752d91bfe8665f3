"""Standing still is told from working, and given up in the end."""

from __future__ import annotations

from adatom.fitting.active.patience import Alive, Patience


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_job_that_waits_for_ever() -> None:
    clock, said = Clock(), list[str]()
    patience = Patience(3600.0, 600.0, said.append, clock=clock)
    held = {"a": Alive("7", "SLURM job 7 is PENDING (JobHeldAdmin)")}
    for clock.now in (0.0, 50.0, 100.0, 200.0, 3500.0):
        assert patience.lost(0, held, "") == ""
    assert said == ["no label is computed: SLURM job 7 is PENDING (JobHeldAdmin) (to be given up after patience_minutes = 60)"]
    clock.now = 3601.0
    lost = "no label was computed for 60 min (patience_minutes): SLURM job 7 is PENDING (JobHeldAdmin)"
    assert patience.lost(0, held, "") == lost
    assert patience.lost(1, held, "") == "", "something has ended"
    clock.now = 7200.0
    assert patience.lost(1, held | {"b": Alive("8")}, "") == "", "something is computed"
    clock.now = 10_790.0
    assert patience.lost(1, held, "") == ""
    clock.now = 10_801.0
    assert patience.lost(1, held, "")


def test_a_job_that_does_not_end() -> None:
    """Within its time limit a job is work, beyond it is not; a batch system that does not answer says nothing of its jobs."""
    clock, said = Clock(), list[str]()
    patience = Patience(300.0, 600.0, said.append, clock=clock)
    for clock.now in (0.0, 300.0, 600.0, 700.0, 890.0):
        assert patience.lost(0, {"a": Alive("7")}, "") == ""
    clock.now = 901.0
    assert patience.lost(0, {"a": Alive("7")}, "").endswith("job 7 goes on beyond its time limit of 10 min and does not end")
    patience = Patience(300.0, 600.0, said.append, clock=clock)
    patience.lost(0, {"a": Alive("7")}, "")
    clock.now += 301.0
    assert patience.lost(0, {"a": Alive("7")}, "squeue: no answer").endswith(": squeue: no answer")
