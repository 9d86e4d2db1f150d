"""Size of the live page, the time that it takes to open, and that from a click to the picture, in Chromium.

A model of GPT-2 small's heads (12 layers of 12), 32 prompts of 20 tokens, random weights: what is drawn is of
the size of the real thing, and none of its numbers means anything.

    python benchmarks/live_page.py [--out page.html]
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

import interp

LAYERS, HEADS, TOKENS, PROMPTS, CLICKS = 12, 12, 20, 32, 24

# From the click to the second frame after the new head's attention is in the page.
CLICK = """async ([row, column]) => {
  const frame = () => new Promise((done) => requestAnimationFrame(done));
  const wanted = `L${row}H${column}`;
  const cell = document.querySelector(`section[aria-label="Map of effects"] td[data-at="${row},${column}"]`);
  const begun = performance.now();
  cell.click();
  const drawn = () => document.querySelector("[data-panel=cell] h2")?.textContent === wanted;
  while (!drawn()) await new Promise((done) => setTimeout(done));
  await frame(); await frame();
  return performance.now() - begun;
}"""


def model() -> Any:
    """A HookedTransformer where there is one, with a head for each of GPT-2 small's."""
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    config = HookedTransformerConfig(
        n_layers=LAYERS, n_heads=HEADS, d_model=96, d_head=8, n_ctx=TOKENS, d_vocab=200, act_fn="gelu",
        normalization_type="LN", init_weights=True, initializer_range=0.15, seed=0,
    )  # fmt: skip
    return HookedTransformer(config).eval()


def task() -> interp.Task:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(0, 200, (2, PROMPTS, TOKENS), generator=generator)
    answer, wrong = (
        torch.randint(0, 100, (PROMPTS,), generator=generator),
        torch.randint(100, 200, (PROMPTS,), generator=generator),
    )
    return interp.Task.from_tokens(clean=clean, corrupt=corrupt, answer=answer, wrong=wrong, name="random")


def measured(path: Path) -> dict[str, float]:
    """Seconds to open the page, milliseconds from click to picture, and the main thread's own time of both.

    The clock counts whatever else the machine does; the thread's time does not.
    """
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    with sync_playwright() as playwright:
        tab = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"]).new_page()
        tools = tab.context.new_cdp_session(tab)
        tools.send("Performance.enable", {"timeDomain": "threadTicks"})

        def thread() -> float:
            """Seconds of the main thread, without those of the tools that measure."""
            known = {each["name"]: each["value"] for each in tools.send("Performance.getMetrics")["metrics"]}
            return known["TaskDuration"] - known["DevToolsCommandDuration"]

        begun = time.perf_counter()
        tab.goto(path.resolve().as_uri())
        tab.wait_for_selector('#interp[data-ready="true"]')
        opened, busy = time.perf_counter() - begun, thread()
        places = [((7 * i) % LAYERS, (5 * i) % HEADS) for i in range(CLICKS)]
        clicks = [tab.evaluate(CLICK, place) for place in places]
        each = 1000 * (thread() - busy) / CLICKS
    return {
        "open, s": opened, "open, thread s": busy, "click, median ms": statistics.median(clicks),
        "click, slowest ms": max(clicks), "click, thread ms": each,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args().out
    path = given or Path(tempfile.mkdtemp()) / "page.html"
    own, prompts = model(), task()
    heads = interp.patch(own, prompts, "z", progress=False)
    begun = time.perf_counter()
    interp.explore([heads], own, prompts, prompts=PROMPTS).save(path)
    print(f"{'write, s':<18} {time.perf_counter() - begun:.2f}")
    print(f"{'size, MB':<18} {path.stat().st_size / 1e6:.2f}")
    for name, value in measured(path).items():
        print(f"{name:<18} {value:.2f}")


if __name__ == "__main__":
    main()
