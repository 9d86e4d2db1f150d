"""`interp labs list | copy | check | grade | bundle | doctor`: the teaching labs from a terminal."""

from __future__ import annotations

import argparse
from typing import Any

from interp.cli._output import Output, require_folder


def labs(args: argparse.Namespace, out: Output) -> None:
    """One of the commands of the labs."""
    _COMMANDS[args.of_labs](args, out)


def _list(args: argparse.Namespace, out: Output) -> None:
    from interp.labs import labs as all_labs

    rows = []
    for number, lab in all_labs().items():
        out.say(f"{lab.name}: {lab.question}", f"    exercises: {', '.join(lab.exercises)}")
        rows.append(
            {"number": number, "name": lab.name, "question": lab.question, "exercises": lab.exercises}
        )
    out.tell(labs=rows)


def _copy(args: argparse.Namespace, out: Output) -> None:
    from interp.labs import copy, research

    require_folder(args.folder, "DIR")
    if args.research:
        paths = research(args.folder, overwrite=args.overwrite)
    else:
        paths = copy(
            args.folder,
            args.lab,
            teacher=args.teacher,
            seed=args.seed,
            form=args.form,
            overwrite=args.overwrite,
        )
    for path in paths:
        out.wrote(path.stem, path)


def _check(args: argparse.Namespace, out: Output) -> None:
    """Run one copy here, in this process, and say what each check says."""
    from interp.labs._run import report

    said = report(args.file)
    for name, (passed, text) in said["passed"].items():
        out.say(text if passed or text.startswith(("✗", "…")) else f"✗ {name}: {text}")
    for error in said["errors"]:
        out.say(f"  a cell stopped: {error}")
    right = sum(passed for passed, _ in said["passed"].values())
    out.say(f"{right} of {len(said['passed'])} exercises")
    out.tell(**said)


def _grade(args: argparse.Namespace, out: Output) -> None:
    """Run a folder of copies, each in a process of its own, and write the table."""
    from interp.labs import _grade as grading

    folder = args.out or args.folder
    require_folder(folder)
    out.say(grading.RUNS_CODE)
    rows = grading.grade(
        args.folder, seconds=args.seconds, memory=int(args.memory * 2**30), at_once=args.at_once, tell=out.say
    )
    out.say("exercises that most got wrong:")
    for name, missed, have in grading.hardest(rows)[:5]:
        out.say(f"  {name}: {missed} of {have}")
    out.wrote("csv", grading.write_csv(rows, args.folder, folder / "grades.csv"))
    out.wrote("html", grading.write_html(rows, args.folder, folder / "grades.html"))
    out.tell(copies=grading.table(rows, args.folder))


def _bundle(args: argparse.Namespace, out: Output) -> None:
    from interp.labs import bundle
    from interp.labs._bundle import CPU

    require_folder(args.folder, "DIR")
    out.say("This downloads about 450 MB from the package index, once.")
    paths = bundle(
        args.folder,
        source=args.source,
        platform=args.platform,
        python=args.python,
        index=CPU if args.index is None else args.index or None,
        models=args.model or (),
    )
    for path in paths:
        out.wrote(path.name, path)


def _doctor(args: argparse.Namespace, out: Output) -> None:
    """Every finding in a line; status 1 where there is something to do."""
    from interp.labs import doctor

    findings = []
    for finding in doctor(picture=not args.no_picture):
        out.say(str(finding))
        findings.append({"what": finding.what, "seen": finding.seen, "todo": finding.todo})
    out.tell(findings=findings)
    todo = sum(bool(finding["todo"]) for finding in findings)
    out.say("This computer is ready for the labs." if not todo else f"Not ready: {todo} to do, see ✗ above.")
    out.status = 1 if todo else 0


_COMMANDS: dict[str, Any] = {
    "list": _list, "copy": _copy, "check": _check, "grade": _grade, "bundle": _bundle, "doctor": _doctor,
}  # fmt: skip
