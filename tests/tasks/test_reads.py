"""What a metric reads: several positions, answers of several tokens, vocabularies of two sizes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from architectures import has_hooked_transformer

import interp
from interp import tasks
from interp.tasks import KL, Custom, LogitDiff, LogProb, Loss, SeqLogProb, Task

QUIET = {"progress": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return interp.load("tiny-ioi")


def pair(**changes: Any) -> dict[str, Any]:
    return {"clean": [[1, 5, 6, 7], [1, 8, 9, 10]], "corrupt": [[1, 15, 6, 7], [1, 18, 9, 10]], **changes}


def test_several_read_outs_are_the_mean_of_single_ones(model: Any) -> None:
    """By the metric itself, over patched runs too; a row with fewer reads counts those that it has."""
    both = Task.from_tokens(
        **pair(), positions=[[1, 3], [2]], answer=[[20, 21], [22]], wrong=[[30, 31], [32]]
    )
    single = [
        Task.from_tokens(**pair(), positions=p, answer=a, wrong=w)
        for p, a, w in (([1, 2], [20, 22], [30, 32]), ([3, 2], [21, 22], [31, 32]))
    ]
    for metric in (LogitDiff(), LogProb(), KL()):
        for engine in ("fast", "reference"):
            found = interp.patch(model, both, "z", metric=metric, engine=engine, **QUIET)
            parts = [interp.patch(model, task, "z", metric=metric, engine=engine, **QUIET) for task in single]
            for name in ("value", "clean", "corrupt"):
                expected = (parts[0][name].values + parts[1][name].values) / 2
                assert abs(found[name].values - expected).max() < 1e-4
            assert abs(found["value"]).max() > 1e-3
    slopes = interp.attribute(model, both, "z", **QUIET)["value"].values
    each = [interp.attribute(model, task, "z", **QUIET)["value"].values for task in single]
    assert abs(slopes - (each[0] + each[1]) / 2).max() < 1e-4


def test_a_prompt_of_several_reads_is_right_where_each_is(model: Any) -> None:
    with torch.no_grad():
        best = model(torch.tensor(pair()["clean"])).argmax(-1)
        worst = model(torch.tensor(pair()["clean"])).argmin(-1)
    answer, wrong = best[:, [1, 3]].clone(), worst[:, [1, 3]]
    answer[1, 0], wrong[1, 0] = worst[1, 1], best[1, 1]
    task = Task.from_tokens(**pair(), positions=[[1, 3], [1, 3]], answer=answer, wrong=wrong)
    assert interp.patch(model, task, "z", **QUIET)["clean_right"].values.tolist() == [1.0, 0.0]
    with pytest.warns(UserWarning, match=r"right in|shift"):
        assert task.check(model, floor=0.9).clean_right.tolist() == [True, False]


def test_an_answer_of_several_tokens_is_teacher_forced(model: Any) -> None:
    text, other = "When Mary and John went to the", "When Anna and John went to the"
    task = Task.from_prompts(
        model, clean=[text, text], corrupt=[other, other], answer=[" store , John", " park"],
        metric="seq_log_prob",
    )  # fmt: skip
    assert isinstance(task.metric, SeqLogProb)
    result = interp.patch(model, task, "resid_pre", **QUIET)
    for i, answer in enumerate((" store , John", " park")):
        start = len(tasks.vocabulary.encode(model, text))
        tokens = torch.tensor(
            [[*tasks.vocabulary.encode(model, text), *tasks.vocabulary.pieces(model, answer)]]
        )
        with torch.no_grad():
            log = model(tokens)[0].log_softmax(-1)
        expected = sum(float(log[t - 1, tokens[0, t]]) for t in range(start, tokens.shape[1]))
        assert float(result["clean"][i]) == pytest.approx(expected, abs=1e-4)


def test_answers_that_no_metric_reads_may_be_left_out(model: Any) -> None:
    task = Task.from_tokens(**pair(), metric=KL())
    assert float(interp.patch(model, task, "z", **QUIET)["clean"].max()) == 0.0
    assert len(Task.from_tokens(**pair(), answer=[20, 21], metric=LogProb())) == 2
    with pytest.raises(ValueError, match="the metric 'logit_diff' reads wrong, which is not given"):
        Task.from_tokens(**pair(), answer=[20, 21])
    with pytest.raises(ValueError, match="the metric 'log_prob' reads answer, which the task 'custom' does"):
        interp.patch(model, task, "z", metric="log_prob", **QUIET)
    with pytest.raises(ValueError, match="no wrong answers, which would be the answers when exchanged"):
        task.swap()


@pytest.mark.parametrize("engine", ["fast", "reference"])
def test_equal_rows_are_patched_by_what_takes_away_and_refused_else(model: Any, engine: str) -> None:
    rows = pair(corrupt=pair()["clean"])
    task = Task.from_tokens(**rows, answer=[20, 21], wrong=[30, 31])
    alone = Task.from_tokens(clean=rows["clean"], answer=[20, 21], wrong=[30, 31])
    for ablation in ("zero", "mean"):
        options = {"ablation": ablation, "engine": engine, **QUIET}
        values = interp.patch(model, task, "z", **options)["value"].values
        assert abs(values).max() > 1e-3
        assert abs(values - interp.patch(model, alone, "z", **options)["value"].values).max() < 1e-6
    with pytest.raises(ValueError, match="prompt 0: clean and corrupt are the same 4 tokens"):
        interp.patch(model, task, "z", engine=engine, **QUIET)


def classifier(d_vocab: int, d_vocab_out: int) -> Any:
    if not has_hooked_transformer():
        pytest.skip("no HookedTransformer in this release")
    from transformer_lens import HookedTransformer, HookedTransformerConfig

    return HookedTransformer(
        HookedTransformerConfig(
            n_layers=1, d_model=16, d_head=8, n_heads=2, n_ctx=6, d_vocab=d_vocab, d_vocab_out=d_vocab_out,
            act_fn="relu", seed=0,
        )
    ).eval()  # fmt: skip


def test_prompts_belong_to_the_input_vocabulary_and_answers_to_the_output_one() -> None:
    few, many = classifier(20, 2), classifier(5, 20)
    task = Task.from_tokens(clean=[[1, 12, 3]], corrupt=[[1, 19, 3]], answer=[0], wrong=[1])
    assert abs(interp.patch(few, task, "z", **QUIET)["value"]).max() > 0
    assert abs(interp.attribute(few, task, "z", **QUIET)["value"]).max() > 0
    with pytest.raises(ValueError, match="token id 19 is outside the model's vocabulary of 5"):
        interp.patch(many, task, "z", **QUIET)
    wide = Task.from_tokens(clean=[[1, 2, 3]], corrupt=[[1, 4, 3]], answer=[12], wrong=[1])
    assert interp.patch(many, wide, "z", **QUIET)["value"].notnull().all()
    with pytest.raises(ValueError, match="answer id 12 is outside the model's vocabulary of 2"):
        interp.patch(few, wide, "z", **QUIET)
    with pytest.raises(ValueError, match="reads 20 tokens and gives logits for 2"):
        interp.patch(few, task, "z", metric=Loss(), **QUIET)


def test_padding_is_masked_or_refused(model: Any) -> None:
    rows = pair()
    ids = torch.tensor([[0, 0, *row] for row in rows["clean"][:1]] + [[1, 4, *rows["clean"][1]]])
    other = torch.tensor([[0, 0, *row] for row in rows["corrupt"][:1]] + [[1, 4, *rows["corrupt"][1]]])
    answers = {"answer": [20, 21], "wrong": [30, 31]}
    with pytest.raises(ValueError, match=r"prompt 0: clean begins in tokens 0, as padding does.*Give mask="):
        Task.from_tokens(clean=ids, corrupt=other, **answers)
    with pytest.raises(ValueError, match=r"prompt 0: clean ends in tokens 0"):
        Task.from_tokens(clean=ids.flip(1), corrupt=other.flip(1), **answers)
    mask = torch.tensor([[0, 0, 1, 1, 1, 1], [1] * 6])
    task = Task.from_tokens(clean=ids, corrupt=other, mask=mask, positions=[5, 5], **answers)
    assert task.clean[0].tolist() == [*rows["clean"][0], 0, 0]
    assert task.lengths.tolist() == [4, 6]
    assert task.positions.tolist() == [3, 5]
    with pytest.raises(ValueError, match="prompt 0: its mask has a gap inside"):
        Task.from_tokens(clean=ids, corrupt=other, mask=[[1, 0, 1, 1, 1, 1], [1] * 6], **answers)


def test_ids_padded_by_the_tokenizers_own_pad_are_refused_by_verbs(model: Any) -> None:
    pad = model.tokenizer.pad_token_id
    bad = {key: [[pad, *row] for row in rows] for key, rows in pair().items()}
    task = Task.from_tokens(**bad, answer=[20, 21], wrong=[30, 31], pad=3)
    with pytest.raises(ValueError, match=r"prompt 0: it begins with the padding token .* Give mask="):
        interp.patch(model, task, "z", **QUIET)


@pytest.mark.parametrize("pad", ["bos", "other"])
def test_ids_that_a_tokenizer_padded_are_refused_by_verbs(pad: str) -> None:
    """On either side, with a padding token of its own or with that which begins texts (GPT-2)."""
    model, rows = interp.load("tiny-ioi"), pair()
    if pad == "bos":
        model.tokenizer.pad_token = model.tokenizer.bos_token
    token = model.tokenizer.pad_token_id
    answers = {"answer": [20, 21], "wrong": [30, 31]}
    for n, front, message in (
        (2, True, "begins with the padding token"),
        (2, False, "read after its last token"),
    ):
        fill = [token] * n
        both = {
            key: [[*fill, *first] if front else [*first, *fill], [*second, 4, 5][: 4 + n]]
            for key, (first, second) in rows.items()
        }
        task = Task.from_tokens(**both, **answers, pad=3)
        with pytest.raises(ValueError, match=rf"prompt 0: .*{message}.* Give mask="):
            interp.patch(model, task, "z", **QUIET)
        masked = Task.from_tokens(**both, **answers, mask=torch.tensor(both["clean"]) != token)
        if pad == "other":
            assert len(interp.patch(model, masked, "resid_pre", **QUIET).prompt) == 2
    once = {key: [[*first, token], [*second, 4]] for key, (first, second) in rows.items()}
    task = Task.from_tokens(**once, **answers, pad=3)
    assert len(interp.patch(model, task, "resid_pre", **QUIET).prompt) == 2  # a token drawn at random
    ragged = {key: [first, [*second, token]] for key, (first, second) in rows.items()}
    interp.patch(model, Task.from_tokens(**ragged, **answers), "resid_pre", **QUIET)  # its length is known


MISTAKES = {
    "complex": (lambda r: r.logits[:, 0] * 1j, "returned complex numbers"),
    "mixes": (lambda r: r.logits[:, 0] - r.logits[:, 0].mean(), "mixes prompts"),
    "writes": (lambda r: r.logits.mul_(2)[:, 0], "writes into the logits"),
}


@pytest.mark.parametrize("case", sorted(MISTAKES))
def test_metrics_that_touch_other_prompts_or_the_logits_are_refused(model: Any, case: str) -> None:
    fn, message = MISTAKES[case]
    task = Task.from_tokens(**pair(), answer=[20, 21], wrong=[30, 31])
    if case == "writes":
        sound = interp.patch(model, task, "z", metric=Custom(lambda r: 2 * r.logits[:, 0]), **QUIET)
        found = interp.patch(model, task, "z", metric=Custom(fn), **QUIET)  # it is given copies there
        assert abs(found["value"].values - sound["value"].values).max() < 1e-5
        with pytest.raises(ValueError, match=message):
            interp.attribute(model, task, "z", metric=Custom(fn), **QUIET)
        return
    with pytest.raises(ValueError, match=message):
        interp.patch(model, task, "z", metric=Custom(fn), **QUIET)


def test_a_metric_is_named_wherever_one_is_taken(model: Any) -> None:
    task = Task.from_tokens(**pair(), answer=[20, 21], wrong=[30, 31], metric="kl")
    assert task.metric == KL()
    assert tasks.ioi(model, n=2, metric="log_prob").metric == LogProb()
    for bad, message in (
        (KL, "the class KL; give KL()"),
        ("k", "metric 'k' is not one of"),
        (len, "the function len is not a metric"),
    ):
        with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
            tasks.metrics.as_metric(bad)


def test_dummy_answers_and_random_tokens_bring_no_warning(
    model: Any, recwarn: pytest.WarningsRecorder
) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, corrupt = torch.randint(1, 12, (2, 40, 12), generator=generator)
    task = Task.from_tokens(clean=clean, corrupt=corrupt, answer=[20] * 40, wrong=[30] * 40, metric=KL())
    task.check(model)
    interp.patch(model, task[:4], "z", **QUIET)
    assert [
        str(w.message) for w in recwarn if "shift" in str(w.message) or "right in" in str(w.message)
    ] == []
