"""Labels through a real SLURM of one machine: sbatch, squeue, no accounting. Skipped where SLURM is not installed.

Needs: apt-get install -y --no-install-recommends slurmctld slurmd slurm-client munge, and root.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from test_labelling import Slow, chain, wait_for

from adatom.fitting.active.jobs import job_of, prepare
from adatom.fitting.active.label_config import LabelConfig
from adatom.fitting.active.labelling import LabelError, Labelled, label
from adatom.fitting.active.ledger import Ledger
from adatom.fitting.active.slurm import SlurmExecutor

CONFIG = """
ClusterName=adatomtest
SlurmctldHost=localhost(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
CryptoType=crypto/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmctldLogFile={root}/slurmctld.log
SlurmdLogFile={root}/slurmd.log
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
CommunicationParameters=NoAddrCache
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
ReturnToService=2
SwitchType=switch/none
KillWait=5
SlurmdParameters=config_overrides
NodeName=localhost NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 Sockets=1 CoresPerSocket=4 ThreadsPerCore=1 State=UNKNOWN
PartitionName=debug Nodes=localhost Default=YES MaxTime=INFINITE State=UP OverSubscribe=NO
"""


def ask(*command: str) -> str:
    """What a program prints; one that does not come back fails the test."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, stdin=subprocess.DEVNULL).stdout


def free_ports() -> list[int]:
    sockets = [socket.socket() for _ in range(2)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A SLURM on loopback: its own munge, controller and node, with all their files in one folder."""
    missing = [x for x in ("sbatch", "squeue", "srun", "slurmctld", "slurmd", "munged", "mungekey") if shutil.which(x) is None]
    if missing:
        pytest.skip(f"no SLURM on this machine: {', '.join(missing)} not found (see the head of this file)")
    if os.geteuid() != 0:
        pytest.skip("starting a SLURM needs root")
    pytest.importorskip("submitit", reason="submitit is not installed")
    root = tmp_path_factory.mktemp("slurm")
    for parent in (root, *root.parents[:2]):
        parent.chmod(0o755)
    for name in ("state", "spool"):
        (root / name).mkdir()
    text = CONFIG.format(root=root, ports=free_ports(), host=socket.gethostname().partition(".")[0])
    (root / "slurm.conf").write_text(text)
    patch = pytest.MonkeyPatch()
    patch.setenv("SLURM_CONF", str(root / "slurm.conf"))
    subprocess.run(["mungekey", "--create", f"--keyfile={root}/munge.key"], check=True, timeout=60)
    files = [f"--{k}={root}/munge.{k.removesuffix('-file').removeprefix('key')}" for k in ("pid-file", "log-file", "seed-file")]
    daemons = [
        ["munged", "--foreground", "--force", f"--socket={root}/munge.socket", f"--key-file={root}/munge.key", *files],
        ["slurmctld", "-D"],
        ["slurmd", "-D", "-N", "localhost"],
    ]
    running = []
    try:
        for command in daemons:
            with open(root / f"{command[0]}.out", "w") as out:
                running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out))
            time.sleep(0.5)
        end = time.monotonic() + 30.0
        while "idle" not in ask("sinfo", "-h", "-o", "%T"):
            if time.monotonic() > end or any(p.poll() is not None for p in running):
                text = "".join(p.read_text(errors="replace")[-600:] for p in sorted(root.glob("*.out")))
                pytest.fail(f"SLURM is installed but does not start here: {' '.join(text.split())}")
            time.sleep(0.3)
        yield root
        ask("scancel", "--user", str(os.getuid()))
    finally:
        for p in reversed(running):
            p.send_signal(signal.SIGCONT)
            p.terminate()
            try:
                p.wait(timeout=10)
            except subprocess.TimeoutExpired:
                p.kill()
                p.wait(timeout=10)
        patch.undo()


def on_slurm(slow: Slow, *, seconds: float = 0.0, **more: object) -> LabelConfig:
    given = {"executor": "slurm", "poll_seconds": 0.5, "workers": 3, "attempts": 1, "timeout_minutes": 0.1}
    given["patience_minutes"] = 1.0
    return slow.config(seconds=seconds, **given | more)


@pytest.mark.usefixtures("slurm")
def test_good_dead_and_late(tmp_path: Path) -> None:
    """One label is made, one dies, one takes too long; job numbers are in the ledger, reasons in one line."""
    slow = Slow(tmp_path)
    config = on_slurm(slow)
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        rows = {s: ledger.add(chain(s), iteration=0, origin={}).hash for s in ("Ne", "He", "Li")}
        assert label(ledger, config, tmp_path / "jobs", say=lambda _: None) == Labelled(done=1, failed=2)
        c = {name: ledger[h] for name, h in rows.items()}
    assert c["Ne"].state == "done"
    assert c["He"].reason.startswith("died of SIGABRT")
    assert c["Li"].reason.startswith("ran longer than timeout_minutes = 0.1; output in ")
    assert all(x.job.isdigit() for x in c.values())
    assert set(slow.finished().values()) == {1}


@pytest.mark.usefixtures("slurm")
def test_cancelled_and_forgotten(tmp_path: Path) -> None:
    """scancel becomes a reason; a job whose number was never stored is found by its name and not submitted again."""
    slow = Slow(tmp_path)
    config = on_slurm(slow, seconds=2.0)
    folder = tmp_path / "jobs"
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        lost, killed = (ledger.add(chain("Ne", seed=k), iteration=0, origin={}).hash for k in range(2))
        c = ledger.start(lost, cores=1)  # a driver that dies between sbatch and the ledger
        job = job_of(c, folder, ledger.identity)
        prepare(job, c, config)
        number = SlurmExecutor(config).submit(job)
        assert ledger[lost].job == ""
        assert label(ledger, config, folder, say=lambda _: None, stop=lambda: True) == Labelled(left=2)
        wait_for(lambda: (folder / f"{killed[:12]}-1" / "stderr.txt").exists())
        ask("scancel", ledger[killed].job)
        assert label(ledger, config, folder, say=lambda _: None) == Labelled(done=1, failed=1)
        assert "stopped by SIG" in ledger[killed].reason or "CANCELLED" in ledger[killed].reason
        assert (ledger[lost].state, ledger[lost].attempt, ledger[lost].job) == ("done", 1, number)
    names = ask("squeue", "-h", "--states=all", "-o", "%j %i")
    assert [x.split()[1] for x in names.splitlines() if x.startswith(job.name)] == [number]
    assert set(slow.finished().values()) == {1}


@pytest.mark.usefixtures("slurm")
def test_refused(tmp_path: Path) -> None:
    """What sbatch says about a wrong partition reaches the user in one line, and nothing is counted as an attempt."""
    config = on_slurm(Slow(tmp_path), slurm={"partition": "nowhere"})
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        c = ledger.add(chain("Ne"), iteration=0, origin={})
        with pytest.raises(
            LabelError, match=r"^labels cannot be started: sbatch: .*invalid partition specified: nowhere"
        ) as error:
            label(ledger, config, tmp_path / "jobs", say=lambda _: None)
        assert "\n" not in str(error.value)
        assert (ledger[c.hash].state, ledger[c.hash].attempt) == ("queued", 0)


def test_nothing_is_waited_for_for_ever(slurm: Path, tmp_path: Path) -> None:
    """A drained node, a job held, a controller that does not answer: said, given up with the reason, and gone on with later."""
    config = on_slurm(Slow(tmp_path), patience_minutes=0.05)
    folder, said = tmp_path / "jobs", list[str]()
    with Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger:
        c = ledger.add(chain("Ne"), iteration=0, origin={})
        ask("scontrol", "update", "nodename=localhost", "state=drain", "reason=test")
        with pytest.raises(LabelError, match=r"no label was computed for 0.05 min .*: SLURM job \d+ is PENDING .*DRAINED"):
            label(ledger, config, folder, say=said.append)
        assert said[-1].startswith("no label is computed: SLURM job ")
        number = ledger[c.hash].job
        ask("scontrol", "hold", number)
        ask("scontrol", "update", "nodename=localhost", "state=resume")
        with pytest.raises(LabelError, match=f"SLURM job {number} is PENDING .*[Hh]eld"):
            label(ledger, config, folder, say=said.append)
        pid = int((slurm / "slurmctld.pid").read_text())
        os.kill(pid, signal.SIGSTOP)
        with pytest.raises(LabelError, match=r"no label was computed .*: squeue: .*; 1 labels are left: jobs stay"):
            label(ledger, config, folder, say=said.append)
        os.kill(pid, signal.SIGCONT)
        ask("scontrol", "release", number)
        assert label(ledger, on_slurm(Slow(tmp_path)), folder, say=said.append) == Labelled(done=1)
        assert (ledger[c.hash].attempt, ledger[c.hash].job) == (1, number)


def test_no_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = on_slurm(Slow(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    with (
        Ledger(tmp_path / "ledger.sqlite", settings=config.fingerprint) as ledger,
        pytest.raises(LabelError, match="there is no sbatch on this machine|needs submitit: pip install submitit"),
    ):
        label(ledger, config, tmp_path / "jobs", say=lambda _: None)
