"""Pictures of the README: `python docs/images/make.py`. Needs kaleido, a Chromium, and the real model."""

from __future__ import annotations

from pathlib import Path

import interp

HERE = Path(__file__).parent


def heads(name: str, file: str, width: int, height: int, **options: int) -> None:
    """The head map of one model on indirect objects."""
    model = interp.load(name)
    effects = interp.patch(model, interp.tasks.ioi(model, **options), "z")
    figure = interp.plot.heads(effects, interval=0.95)
    figure.write_image(HERE / file, width=width, height=height, scale=2)


if __name__ == "__main__":
    heads("tiny-ioi", "heads.png", 720, 320, n=64, seed=0)
    heads("smollm2-135m", "heads-smollm2.png", 720, 900, n=8, seed=1, template=0)
