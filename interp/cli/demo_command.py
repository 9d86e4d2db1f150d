"""`interp demo`: the main job on the bundled model, from prompts to a report.

Task ioi on tiny-ioi. One exact sweep by layer and position over the residual stream, the attention output and
the MLP output, on prompts of one template, so that a position means the same in each. One sweep over the
heads, on prompts of all templates. Heatmaps and bars with bootstrap intervals.
"""

from __future__ import annotations

import argparse

MODEL = "tiny-ioi"
STREAM = ("resid_pre", "attn_out", "mlp_out")
TEMPLATE = 1  # "When Mary and John got a bag at the hospital, John gave it to"
OPENING = """\
The model completes "When Mary and John went to the store, John gave a book to" with "Mary". In the \
corrupt prompt the other name is repeated, so that the answer is the other name. Every cell below is one \
run of the corrupt prompt with one activation copied from the clean run. Its effect is the change of the \
metric, the logit of the right name minus that of the wrong one: blue cells bring the answer back, white \
ones do not matter.

The first figure is by position, for prompts of one template: resid_pre shows where the information is \
before each layer, attn_out where attention moves it, mlp_out what is computed in place. The heads \
figure says which heads do it, for all templates. Hover over a cell for its value, token and 95 % \
bootstrap interval."""


def run(args: argparse.Namespace) -> None:
    """Run both sweeps, write results and report, print their paths; the report's is the last line."""
    import interp
    from interp.cli.files import save, write_page

    model = interp.load(MODEL)
    task = interp.tasks.ioi(model, n=args.n, seed=args.seed)
    aligned = interp.tasks.ioi(model, n=args.n, seed=args.seed, template=TEMPLATE)
    print(f"{MODEL}: {len(task)} prompts such as", *(task.labels or ((),))[0])
    print(task.check(model))
    results = []
    for name, site, prompts in (("positions", STREAM, aligned), ("heads", "z", task)):
        print(f"\n{name}: {site if isinstance(site, str) else ', '.join(site)}")
        print(interp.plan(model, prompts, site))
        results.append(interp.patch(model, prompts, site))
        print(save(results[-1], args.out / f"{name}.nc"))
    print(write_page(results, args.out / "report.html", f"Indirect objects in {MODEL}", OPENING))
