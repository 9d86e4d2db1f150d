"""`interp steer` on chat models: files of chats, system prompts, the chat itself, baking for transformers."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
import torch

import interp
from interp import positions, steering
from interp.cli import main
from interp.models import logits

MODEL = "tiny-world"
TEMPLATE = (
    "{% for m in messages %}{{ '<' + m['role'] + '> ' + m['content'] + ' . ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@pytest.fixture(scope="module")
def world():
    return interp.load(MODEL)


@pytest.fixture(autouse=True)
def chatty(world, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command runs in an empty folder, on one model with a chat template."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(world.tokenizer, "chat_template", TEMPLATE, raising=False)
    load = interp.load
    monkeypatch.setattr(interp, "load", lambda name, **o: world if name == MODEL else load(name, **o))


def chats(side: str) -> list[list[dict[str, str]]]:
    return [
        [
            {"role": "user", "content": f"how was the {noun}"},
            {"role": "assistant", "content": f"the {noun} was {side}"},
        ]
        for noun in ("film", "song", "cast")
    ]


@pytest.fixture
def files() -> tuple[str, str]:
    for name, side in (("up", "great"), ("down", "bad")):
        rows = [json.dumps({"messages": chat}) for chat in chats(side)]
        Path(f"{name}.jsonl").write_text("\n".join(rows) + "\n")
    return "up.jsonl", "down.jsonl"


@pytest.fixture
def fitted(world) -> str:
    up, down = (
        ["The film was " + word for word in words] for words in (("great", "superb"), ("bad", "dreadful"))
    )
    d = steering.mean_difference(world, up, down, layer=2)
    return str(d.save(Path("d/direction.safetensors")))


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], list[str]]:
    status = main(["steer", *arguments])
    captured = capsys.readouterr()
    return status, captured.out.splitlines(), captured.err.splitlines()


def test_fit_reads_files_of_chats_at_the_words_of_the_answer(capsys, world, files) -> None:
    up, down = files
    options = ("--positive", up, "--negative", down, "--pos", "response", "--layer", "2")
    status, out, err = run(capsys, "fit", MODEL, *options, "--out", "own")
    assert status == 0, err
    assert "3 positive and 3 negative prompts" in out[0]
    expected = steering.mean_difference(world, chats("great"), chats("bad"), layer=2, pos="response")
    written = steering.Direction.load(out[-1], world)
    torch.testing.assert_close(written.vector, expected.vector)
    last = steering.mean_difference(world, chats("great"), chats("bad"), layer=2)
    assert not torch.allclose(last.vector, expected.vector, atol=1e-3)


def test_fit_takes_a_pair_of_system_prompts(capsys, world) -> None:
    Path("asked.txt").write_text("how was the film\nhow was the song\n")
    options = ("--system", "the story was great", "--against", "the story was bad", "--prompts", "asked.txt")
    status, out, err = run(capsys, "fit", MODEL, *options, "--layer", "2")
    assert status == 0, err
    assert out[-1] == "out/tiny-world-asked-mean_difference/direction.safetensors"
    sides = [
        [
            [
                {"role": "system", "content": f"the story was {word}"},
                {"role": "user", "content": f"how was the {noun}"},
            ]
            for noun in ("film", "song")
        ]
        for word in ("great", "bad")
    ]
    expected = steering.mean_difference(world, *sides, layer=2)
    torch.testing.assert_close(steering.Direction.load(out[-1], world).vector, expected.vector)


def test_sweep_takes_chats(capsys, world, fitted, files) -> None:
    status, out, err = run(capsys, "sweep", MODEL, fitted, "--prompts", files[0], "--coefficients=0,2")
    assert status == 0, err
    assert out[0].startswith("3 prompts")
    assert "These prompts have no answers" in out[1]
    d = steering.Direction.load(fitted, world)
    moved = (
        steering.sweep(world, d, chats("great"), [2.0], progress=False)["raw"].sel(metric="kl").mean().item()
    )
    for limit, said in ((0.99 * moved, "layer 2: 0. "), (1.01 * moved, "layer 2: 0, 2. ")):
        options = ("--prompts", files[0], "--coefficients=2,0", "--kl-limit", f"{limit}")
        assert said in run(capsys, "sweep", MODEL, fitted, *options)[1][1]


def answer(world, messages, *edits) -> str:
    whole = steering.generate(world, [messages], *edits, max_new_tokens=5)
    from interp.prompts import read

    start = int(read(world, [messages]).lengths[0])
    return world.tokenizer.decode(whole[0, start : start + 5].tolist()).split("<eos>")[0].strip()


def test_a_chat_is_steered_by_the_coefficient_of_the_turn(capsys, monkeypatch, world, fitted) -> None:
    lines = [
        "how was the film",
        "",
        "/coef 4",
        "how was the song",
        "/sing",
        "/coef x",
        "/reset",
        "how was the cast",
        "/quit",
        "no",
    ]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines) + "\n"))
    options = ("--coefficient", "0", "--tokens", "5")
    status, out, err = run(capsys, "chat", MODEL, fitted, *options)
    assert status == 0, err
    assert out[-1] == "d/chat.jsonl"
    turns = [json.loads(line) for line in Path("d/chat.jsonl").read_text().splitlines()]
    assert [turn["user"] for turn in turns] == ["how was the film", "how was the song", "how was the cast"]
    assert [turn["coefficient"] for turn in turns] == [0, 4, 4]
    first, second, third = turns
    assert (
        first["steered"]
        == first["plain"]
        == first["random"]
        == answer(world, [{"role": "user", "content": lines[0]}])
    )
    past = [{"role": "user", "content": lines[0]}, {"role": "assistant", "content": first["plain"]}]
    asked = [*past, {"role": "user", "content": lines[3]}]
    assert second["plain"] == answer(world, asked)
    d = steering.Direction.load(fitted, world)
    edit = steering.add(d, 4.0, when=positions.generated)
    assert second["steered"] == answer(world, asked, edit) != second["plain"]
    control = steering.controls([d], 0)["random"][0]
    assert second["random"] == answer(world, asked, steering.add(control, 4.0, when=positions.generated))
    assert third["plain"] == answer(world, [{"role": "user", "content": lines[7]}])
    assert any("/sing is no command" in line for line in out)
    assert any("/coef x: give a number" in line for line in out)


def test_what_does_not_fit_is_said_and_taken_back(capsys, monkeypatch, fitted) -> None:
    lines = ["how was the film", "the film " * 40, "how was the song"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    status, out, err = run(capsys, "chat", MODEL, fitted, "--tokens", "4", "--json")
    assert status == 0, err
    assert any("Generate fewer tokens. (or /reset)" in line or "(or /reset)" in line for line in err)
    told = json.loads(out[0])
    assert [turn["user"] for turn in told["turns"]] == [lines[0], lines[2]]


def test_an_interrupt_ends_the_talk_and_keeps_it(capsys, monkeypatch, fitted) -> None:
    def typed():
        yield "how was the film\n"
        raise KeyboardInterrupt

    monkeypatch.setattr("sys.stdin", Typed(typed()))
    status, out, err = run(capsys, "chat", MODEL, fitted, "--tokens", "2")
    assert status == 0, err
    kept = [json.loads(line) for line in Path(out[-1]).read_text(encoding="utf-8").split("\n") if line]
    assert [turn["user"] for turn in kept] == ["how was the film"]


def test_talks_do_not_overwrite_each_other_and_a_transcript_goes_on(capsys, monkeypatch, fitted) -> None:
    def talk(*lines: str, options: tuple[str, ...] = ()) -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
        return run(capsys, "chat", MODEL, fitted, "--tokens", "3", *options)

    def turns(path: str) -> list[dict]:
        return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]

    whole = talk(
        "how was the film", "/coef 3", "how was the song", "/reset", "how was the cast", "a great one"
    )
    assert whole[1][-1] == "d/chat.jsonl"
    assert [turn.get("begins", False) for turn in turns("d/chat.jsonl")] == [True, False, True, False]
    assert "you      > how was the song" in whole[1]
    first = talk("how was the film", "/coef 3", "how was the song", "/reset", "how was the cast")
    assert first[1][-1] == "d/chat-2.jsonl"
    rest = talk("/coef", "a great one", options=("--transcript", "d/chat-2.jsonl"))
    assert rest[1][-1] == "d/chat-2.jsonl"
    assert "coefficient 3 after 3 turns" in rest[1][0]
    assert "coefficient 3" in rest[1]
    assert turns("d/chat-2.jsonl") == turns("d/chat.jsonl")
    assert talk("/quit")[1][-1] == "you      > /quit"  # nothing was said: no file
    assert not Path("d/chat-3.jsonl").exists()
    Path("d/broken.jsonl").write_text('{"user": 3}\n')
    status, _, err = talk("a", options=("--transcript", "d/broken.jsonl"))
    assert (status, "line 1, is no turn of a chat" in err[-1]) == (2, True)


def test_what_cannot_be_is_said_before_the_model_loads(capsys, monkeypatch, fitted) -> None:
    monkeypatch.setattr(interp, "load", None)
    for options, words in (
        (("--top-k", "0"), "--top-k is 0"),
        (("--top-k", "5"), "--top-k is 5 at --temperature 0, which takes the likeliest token"),
        (("--temperature", "-1"), "--temperature is -1.0; it must be finite, 0 or more"),
        (("--coefficient", "inf"), "--coefficient is inf; it must be finite."),
        (("--out", "d", "--transcript", "d/c.jsonl"), "not both"),
    ):
        status, _, err = run(capsys, "chat", MODEL, fitted, *options)
        assert (status, words in err[-1]) == (2, True), err


def test_answers_stand_beside_their_voice() -> None:
    from interp.cli.steer._chat import _shown

    assert _shown("plain", "Buy:\n\n  * rice", False) == f"plain    > Buy:\n\n{' ' * 13}* rice"
    assert _shown("random", "and then", True) == "random   > and then ..."


class Typed:
    """A terminal's lines, which are none of a file."""

    def __init__(self, lines) -> None:
        self.lines = lines

    def isatty(self) -> bool:
        return False

    def __next__(self) -> str:
        return next(self.lines)


def test_separators_inside_a_text_do_not_break_a_line(tmp_path) -> None:
    from interp.cli.steer._prompts import read_lines

    path = tmp_path / "asked.txt"
    path.write_text("how was\u2028the film\r\n\nhow was\u0085the song\n", encoding="utf-8")
    assert read_lines(path) == ["how was\u2028the film", "how was\u0085the song"]


def test_bake_writes_what_transformers_loads(capsys, world, fitted) -> None:
    from transformers import AutoModelForCausalLM

    status, out, err = run(capsys, "bake", MODEL, fitted, "--coefficient", "2", "--format", "hub")
    assert status == 0, err
    assert out[-1] == "d/baked"
    assert "AutoModelForCausalLM" in out[-2]
    ids = torch.randint(4, 700, (2, 9), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        theirs = AutoModelForCausalLM.from_pretrained("d/baked").eval()(ids).logits
        with steering.steer(world, steering.add(steering.Direction.load(fitted), 2.0)):
            hooked = logits(world, ids)
    torch.testing.assert_close(theirs, hooked, rtol=0, atol=1e-5 * float(hooked.abs().max()))
    assert (hooked - logits(world, ids)).abs().max() > 0.1
    status, _, err = run(capsys, "bake", MODEL, fitted, "--coefficient", "2", "--format", "hub")
    assert status == 2
    assert "d/baked exists already" in err[-1]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("fit tiny-world --system great --prompts up.jsonl", "give --task, or --positive and --negative"),
        ("fit tiny-world --system great --against bad --task sentiment", "give --task, or --positive"),
        ("fit tiny-world --positive broken.jsonl --negative down.jsonl", "prompt 2: 'no' is no chat"),
        ("chat tiny-world {} --tokens 0", "--tokens is 0"),
        ("chat tiny-world missing.safetensors", "there is no file missing.safetensors"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(capsys, fitted, files, command: str, message: str) -> None:
    Path("broken.jsonl").write_text(Path(files[0]).read_text().splitlines()[0] + "\nno\n")
    before = sorted(Path().rglob("*"))
    status, _, err = run(capsys, *command.format(fitted).split())
    assert status == 2
    assert message in err[-1]
    assert sorted(Path().rglob("*")) == before


def test_a_model_without_a_template_is_told_before_the_first_turn(capsys, monkeypatch, world, fitted) -> None:
    monkeypatch.setattr(world.tokenizer, "chat_template", None)
    monkeypatch.setattr("sys.stdin", io.StringIO("hello\n"))
    status, _, err = run(capsys, "chat", MODEL, fitted)
    assert status == 2
    assert "no chat template" in err[-1]
