"""`interp explore`: the live page of some results as one file; `interp serve`: with the model behind it.

Without results heads and stream are patched exactly first.
"""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from interp.cli._inputs import check_measure, clean_name, load, make_task, run_options, say_task
from interp.cli._output import Output, require_file
from interp.cli._summary import repeated
from interp.plot._export import require_page

if TYPE_CHECKING:
    from interp.live import Page

_STREAM = ["resid_pre", "attn_out", "mlp_out"]


def explore(args: argparse.Namespace, out: Output) -> None:
    """The page; its path last."""
    path = (
        args.out
        or Path("out") / f"{clean_name(Path(args.model).name)}-{clean_name(Path(args.task).stem)}.html"
    )
    require_page(path)
    require_file(path)
    if repeated(args, path.parent, out):
        return
    page = _page(args, out, path)
    out.wrote("page", page.save(path))


def serve(args: argparse.Namespace, out: Output) -> None:
    """The page with the model behind it, until it is interrupted; the address first."""
    from interp.live import serve as serve_page

    if not 0 <= args.port < 65_536:
        raise ValueError(f"--port is {args.port}; give 0 (any that is free) to 65535.")
    with serve_page(_page(args, out, Path(gettempdir(), "page.html")), port=args.port) as server:
        out.tell(url=server.url)
        out.say("open this address; whoever has it can ask the model, on this machine only. Ctrl-C ends it.")
        print(server.url, file=sys.stderr if args.json else sys.stdout, flush=True)
        with suppress(KeyboardInterrupt):
            server.wait()


def _page(args: argparse.Namespace, out: Output, path: Path) -> Page:
    """The page of the files that were given, or of the exact effects of heads and of the stream."""
    import interp

    check_measure(args, path.parent)
    items = [_read(file) for file in args.results]
    if args.n is None:
        args.n = next((each.sizes.get("prompt") for each in items if hasattr(each, "sizes")), None)
    model = load(args)
    task = make_task(model, args)
    say_task(task, out)
    options = run_options(args)
    if not items:
        items = [interp.patch(model, task, site, **options) for site in ("z", _STREAM) if _has(model, site)]
    return interp.explore(
        items, model, task, title=args.title, prompts=args.prompts, level=args.level, **options
    )


def _read(path: Path) -> Any:
    """A circuit or a result."""
    from interp.circuits import Circuit
    from interp.report._run import read_result

    return Circuit.load(path) if path.suffix == ".json" else read_result(path)


def _has(model: Any, site: str | list[str]) -> bool:
    from interp.models import anatomy

    wanted = [site] if isinstance(site, str) else site
    return set(wanted) <= set(anatomy(model).sites())
