"""`interp explore`: a page from files, or from a sweep of its own."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from interp.cli import main

COMMON = "--task ioi --quiet"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_page_of_files_and_one_without(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["patch", "tiny-ioi", "--task", "ioi", "--site", "z", "--n", "4", "--out", "heads", "--quiet"])
        == 0
    )
    capsys.readouterr()
    assert (
        main(
            [
                "explore",
                "tiny-ioi",
                "heads/result.nc",
                "--task",
                "ioi",
                "--out",
                "page.html",
                "--title",
                "Heads",
                "--quiet",
            ]
        )
        == 0
    )
    assert capsys.readouterr().out.splitlines()[-1] == "page.html"
    page = (folder / "page.html").read_text(encoding="utf-8")
    assert "<title>Heads</title>" in page
    assert '"by_prompt":true' in page, "as many prompts as the file has"
    assert main(f"explore tiny-ioi {COMMON} --n 2".split(" ")) == 0
    written = (folder / capsys.readouterr().out.splitlines()[-1]).read_text(encoding="utf-8")
    assert all(f'"site":"{site}"' in written for site in ("z", "resid_pre", "attn_out", "mlp_out"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("tiny-ioi --task ioi --out page.pdf", "'page.pdf' does not end in .html"),
        ("tiny-ioi missing.nc --task ioi", "missing.nc does not exist"),
        ("tiny-ioi --task ioi --level 2", "--level is 2"),
        ("tiny-ioi --task ioi --n 2 --prompts 3", "prompts is 3; give a number from 0 to 2"),
    ],
)
def test_a_mistake_is_one_line(arguments: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explore", *arguments.split()]) == 2
    assert words in capsys.readouterr().err


def test_serve_says_its_address_and_ends_when_interrupted(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from interp.live import Server

    def wait(server: Server) -> None:
        reply = urllib.request.urlopen(server.url, timeout=10)
        assert "<title>tiny-ioi on ioi</title>" in reply.read().decode()
        raise KeyboardInterrupt

    monkeypatch.setattr(Server, "wait", wait)
    assert main(f"serve tiny-ioi {COMMON} --n 2".split(" ")) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith("http://127.0.0.1:")
    assert not list(folder.iterdir())
    assert main(f"serve tiny-ioi {COMMON} --n 2 --port 99999".split(" ")) == 2
    assert "--port is 99999" in capsys.readouterr().err
