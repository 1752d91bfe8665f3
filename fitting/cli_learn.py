"""`adatom learn CONFIG.toml`, and `adatom learn status | retry | stop DIR`."""

from __future__ import annotations

import argparse
import atexit
import os
import sys
from pathlib import Path
from typing import Any

VERBS = ("status", "retry", "stop")


def add_learn(verbs: Any) -> None:
    p = verbs.add_parser("learn", help="active learning: explore, select, label with DFT, train; again to go on")
    p.add_argument("what", metavar="CONFIG.toml | DIR | status | retry | stop", help="see `adatom template learn`; DIR: go on")
    p.add_argument("directory", nargs="?", metavar="DIR", help="of the campaign (default: CONFIG's name without .toml)")
    p.add_argument("--dry-run", action="store_true", help="show what would be computed and roughly what it costs; nothing starts")
    p.set_defaults(run=_learn)


def _learn(a: argparse.Namespace) -> int:
    from adatom.fitting.config import ConfigError

    if a.what in VERBS:
        if a.directory is None:
            raise ConfigError(f"give the directory of the campaign: adatom learn {a.what} DIR")
        directory = Path(a.directory)
        if not (directory / "ledger.sqlite").exists():
            raise ConfigError(f"{directory}: no campaign there (no ledger.sqlite)")
        return {"status": _status, "retry": _retry, "stop": _stop}[a.what](directory)
    return _run(Path(a.what), a)


def _run(source: Path, a: argparse.Namespace) -> int:
    from adatom.fitting.active.campaign import learn
    from adatom.fitting.active.config import dump_config, load_config
    from adatom.fitting.active.report import UNITS, reports, table
    from adatom.fitting.config import ConfigError
    from adatom.fitting.train import Interrupted
    from adatom.potential.model_file import write_atomically

    if source.is_dir() and (source / "config.toml").exists():
        source = source / "config.toml"
    config = load_config(source)
    own = source.name == "config.toml" and (source.parent / "ledger.sqlite").exists()
    directory = Path(a.directory) if a.directory else source.parent if own else source.with_suffix("")
    if directory.exists() and not directory.is_dir():
        raise ConfigError(f"{directory}: not a folder; name another for the campaign: adatom learn {source} DIR")
    if a.dry_run:
        print(_plan(config, directory))
        return 0
    directory.mkdir(parents=True, exist_ok=True)
    if source.resolve() != (directory / "config.toml").resolve():
        write_atomically(directory / "config.toml", dump_config(config).encode())
    try:
        reason = learn(config, directory, say=lambda line: print(line, flush=True))
    except (KeyboardInterrupt, Interrupted):
        print(f"adatom: interrupted; go on with: adatom learn {directory}", file=sys.stderr)
        atexit.register(_leave)
        return 130
    print(f"\n{table(reports(directory))}\n{UNITS}\n\n{reason}; see {directory / 'model.adatom'} and {directory / 'report.html'}")
    return 0


def _leave() -> None:
    """At once: an interpreter that was interrupted while XLA compiled crashes when it takes jax down (jaxlib 0.10.1)."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(130)


def _plan(config: Any, directory: Path) -> str:
    """What the next step would compute; an estimate once a label is known."""
    from adatom.fitting.active.cost import estimate
    from adatom.fitting.active.explore import starting_structures
    from adatom.fitting.active.frames import first_structures
    from adatom.fitting.active.ledger import Ledger

    made = starting_structures(config.explore, config.seed)
    kinds: dict[str, list[int]] = {}
    for atoms in made:
        kinds.setdefault(atoms.info["config_type"], []).append(len(atoms))
    lines = [f"structures to explore from: {len(made)}"]
    lines += [f"  {name:<16} {len(n):>4} of {min(n)} to {max(n)} atoms" for name, n in kinds.items()]
    first = first_structures(made, config.start.labels)
    sizes = f", {min(len(x) for x in first)} to {max(len(x) for x in first)} atoms" if first else ""
    lines.append(f"labelled before anything is fitted: {len(first)}{sizes}")
    e, s = config.explore, config.stop
    lines.append(
        f"each iteration: {e.runs} runs of {e.duration_ps:g} ps (up to {e.max_duration_ps:g}) at {len(e.temperatures_K)} "
        f"temperatures and {len(e.pressures_GPa)} pressures, at most {config.select.labels} labels; in all at most "
        f"{s.iterations} iterations, {s.labels} labels"
    )
    if (directory / "ledger.sqlite").exists():
        with Ledger(directory / "ledger.sqlite", settings=config.label.fingerprint) as ledger:
            lines.append(ledger.table())
            cost = estimate(config.label, made[:1] * config.select.labels, ledger)
            hours = None if cost is None else estimate(config.label, first, ledger)
    else:
        cost = hours = None
    if cost is None:
        lines.append("cost: unknown until a first label is done")
    else:
        lines.append(f"cost: first labels still to do {hours:.2g} core h; an iteration at most {cost:.2g} core h")
    return "\n".join(lines)


def _status(directory: Path) -> int:
    from adatom.fitting.active.ledger import Ledger
    from adatom.fitting.active.report import UNITS, reports, table

    found = reports(directory)
    if found:
        print(f"{table(found)}\n{UNITS}\n")
    with Ledger(directory / "ledger.sqlite", settings="") as ledger:
        print(ledger.table())
        waiting = ledger.counts()["running"]
    at_work = _at_work(directory)
    if at_work:
        print(f"\nat work: {at_work}")
    else:
        jobs = f"; {waiting} labels may go on by themselves" if waiting else ""
        print(f"\nno loop is at work here{jobs}; go on with: adatom learn {directory}")
    return 0


def _at_work(directory: Path) -> str:
    """Who runs the campaign; "" for nobody."""
    from adatom.fitting.active.ledger import LedgerError, exclusive

    try:
        with exclusive(directory):
            return ""
    except LedgerError as error:
        return str(error).rpartition(": ")[2]


def _retry(directory: Path) -> int:
    """Failed calculations are queued again."""
    from adatom.fitting.active.ledger import Ledger, exclusive

    with exclusive(directory), Ledger(directory / "ledger.sqlite", settings="") as ledger:
        names = [c.hash for c in ledger.rows("failed")]
        ledger.again(names)
    print(f"{len(names)} failed calculations are queued again; go on with: adatom learn {directory}")
    return 0


def _stop(directory: Path) -> int:
    from adatom.fitting.active.stop import STOP_FILE

    if not _at_work(directory):
        print(f"{directory}: no loop is at work here, there is nothing to stop")
        return 0
    (directory / STOP_FILE).touch()
    print(f"{directory}: the campaign will end after the iteration it is in; adatom learn goes on with it")
    return 0
