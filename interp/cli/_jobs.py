"""`interp run jobs.toml`: commands one after the other in one process, each into a folder of its own.

    [[job]]
    name = "heads"
    run = "patch tiny-ioi --task ioi --site z"

Every job is parsed before the first is run. What a job says is in its `log.txt`; a job that fails is reported
at the end and stops nothing; a job that is finished is skipped. A model is kept for the next job.
"""

from __future__ import annotations

import argparse
import io
import re
import shlex
import sys
import time
import traceback
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from interp.cli._output import Output, require_folder
from interp.files import write_text

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_KEYS = ("name", "run")
_DONE, _SKIPPED, _FAILED = "done", "done before", "FAILED"


@dataclass(frozen=True)
class Job:
    """One command line of the file."""

    name: str
    words: list[str]
    args: argparse.Namespace
    folder: Path

    @property
    def log(self) -> Path:
        """Where what it says is kept."""
        return self.folder / "log.txt"


def run(args: argparse.Namespace, out: Output) -> None:
    """One line a job as it ends; those that failed again at the end."""
    require_folder(args.out)
    jobs, loaded, rows = _read(args), {}, []
    for number, job in enumerate(jobs, start=1):
        out.say(f"{number}/{len(jobs)} {job.name}: {shlex.join(['interp', *job.words])}")
        rows.append(_do(job, loaded))
        out.say(f"    {rows[-1]['outcome']} in {rows[-1]['seconds']:.1f} s, {job.log}")
    failed = [row for row in rows if row["outcome"] == _FAILED]
    out.say(f"{len(rows) - len(failed)} of {len(rows)} jobs are done")
    for row in failed:
        out.complain("failed", f"{row['name']}: {row['error']}")
    out.tell(jobs=rows)
    out.status = 1 if failed else 0


def _do(job: Job, loaded: dict[Any, Any]) -> dict[str, Any]:
    """Run a job; whatever it raises is written down and stops nothing but an interrupt of the user."""
    from interp.cli import execute

    said, start = io.StringIO(), time.monotonic()
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text(job.log, "")
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = execute(job.args, job.words, loaded)
    except Exception:
        status, trace = 1, traceback.format_exc()
        write_text(job.log, job.log.read_text(encoding="utf-8") + trace)
        said.write(trace)
    if status == 130:
        raise KeyboardInterrupt
    outcome = _FAILED if status else _SKIPPED if _was_skipped(job) else _DONE
    row = {"name": job.name, "outcome": outcome, "seconds": round(time.monotonic() - start, 2)}
    row |= {"folder": str(job.folder)}
    last = [line for line in said.getvalue().splitlines() if line.strip()][-1:]
    return row | (
        {"error": last[0].removeprefix("interp: error: ") if last else "no reason"} if status else {}
    )


def _was_skipped(job: Job) -> bool:
    return job.log.read_text(encoding="utf-8").startswith("done before")


def _read(args: argparse.Namespace) -> list[Job]:
    """Every job of the file, parsed. ValueError, naming the job, for what is none."""
    path = args.jobs
    if not path.is_file():
        raise ValueError(f"{path} does not exist. Give a .toml file of jobs; interp run --help shows one.")
    try:
        known = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not TOML: {error}.") from None
    entries = known.get("job")
    if set(known) != {"job"} or not isinstance(entries, list) or not entries:
        raise ValueError(
            f"{path}: it has {', '.join(known) or 'nothing'}; give [[job]] tables, and them only."
        )
    jobs = [_job(entry, number, args) for number, entry in enumerate(entries, start=1)]
    for number, job in enumerate(jobs, start=1):
        if job.name in {other.name for other in jobs[: number - 1]}:
            raise ValueError(f"{path}, job {number}: the name {job.name!r} is given twice.")
    return jobs


def _job(entry: Any, number: int, args: argparse.Namespace) -> Job:
    where = f"{args.jobs}, job {number}"
    if not isinstance(entry, dict) or set(entry) != set(_KEYS):
        has = ", ".join(entry) if isinstance(entry, dict) else type(entry).__name__
        raise ValueError(f"{where} has {has or 'nothing'}; give name and run.")
    name, line = entry["name"], entry["run"]
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{where}: the name {name!r} is no name of a folder: letters, digits, - and _.")
    if not isinstance(line, str) or not line.strip():
        raise ValueError(f"{where} ({name}): run is {line!r}; give a command, such as 'patch tiny-ioi ...'.")
    words = shlex.split(line)
    words = words[1:] if words[:1] == ["interp"] else words
    return Job(name, words, _parsed(words, f"{where} ({name})", args, args.out / name), args.out / name)


def _parsed(words: list[str], where: str, args: argparse.Namespace, folder: Path) -> argparse.Namespace:
    """The arguments of a job, with its folder and its log put in."""
    from interp.cli._parser import make_parser

    said = io.StringIO()
    try:
        with redirect_stderr(said), redirect_stdout(io.StringIO()):
            known = make_parser().parse_args(words)
    except SystemExit:
        reason = said.getvalue().strip().removeprefix("interp: error: ") or "it only shows help"
        raise ValueError(f"{where}: {reason}") from None
    if not hasattr(known, "resume"):
        raise ValueError(f"{where}: interp {known.command} is not a job; give a command that computes.")
    known.out = known.out or (folder / "page.html" if known.command == "explore" else folder)
    known.resume, known.json, known.traceback = not args.again, False, False
    known.log = folder / "log.txt"
    return known
