"""Each behaviour of the world: pairs of equal length with the right answers; nothing held out is taught."""

from __future__ import annotations

import random
import re

import pytest

from interp.tasks import world
from interp.tasks.world import (
    REQUEST_KINDS,
    Agreement,
    Behaviour,
    ColouredObjects,
    Conflict,
    IndirectObject,
    Languages,
    Pronouns,
    Requests,
    Sentiment,
    Years,
    behaviours,
    held_out,
    split,
    vocabulary,
)

NAMES = sorted(behaviours())


@pytest.fixture(params=NAMES)
def behaviour(request: pytest.FixtureRequest) -> Behaviour:
    return behaviours()[request.param]


@pytest.mark.parametrize("test", [False, True])
def test_pairs_differ_in_one_thing_and_have_two_answers(behaviour: Behaviour, test: bool) -> None:
    rng, words = random.Random(0), set(vocabulary())
    for _ in range(100):
        pair = behaviour.pair(rng, test)
        clean, corrupt = split(pair.clean), split(pair.corrupt)
        assert len(clean) == len(corrupt)
        assert clean != corrupt
        assert not set(pair.answer) & set(pair.wrong)
        assert pair.answer
        assert pair.wrong
        assert {*clean, *corrupt, *pair.answer, *pair.wrong} <= words


def test_pairs_and_documents_repeat_with_the_seed(behaviour: Behaviour) -> None:
    one, other = random.Random(3), random.Random(3)
    assert [behaviour.pair(one, True) for _ in range(5)] == [behaviour.pair(other, True) for _ in range(5)]
    assert behaviour.document(one) == behaviour.document(other)


def test_what_is_held_out_is_never_taught(behaviour: Behaviour) -> None:
    """No training document begins with a held-out prompt and goes on with its answer."""
    rng = random.Random(1)
    pairs = [behaviour.pair(rng, test=True) for _ in range(300)]
    asked = {(*split(pair.clean), word) for pair in pairs for word in pair.answer}
    lengths = {len(prompt) for prompt in asked}
    taught = [tuple(split(behaviour.document(rng))) for _ in range(2000)]
    begun = {text[:length] for text in taught for length in lengths}
    assert len(begun) > 500 or behaviour.name in ("capital", "born", "country", "two_hop")
    assert not asked & begun


def test_indirect_objects_answer_the_one_who_does_not_give() -> None:
    rng = random.Random(0)
    for _ in range(50):
        pair = IndirectObject().pair(rng, test=True)
        words = split(pair.clean)
        assert words.count(pair.wrong[0]) == 2
        assert words.count(pair.answer[0]) == 1
        assert held_out("ioi:" + ":".join(sorted((*pair.answer, *pair.wrong))))


def test_coloured_objects_answer_the_colour_after_the_object() -> None:
    rng = random.Random(0)
    for _ in range(50):
        pair = ColouredObjects().pair(rng, test=False)
        words = split(pair.clean)
        asked = [word for word in words if word in ColouredObjects().objects][-1]
        assert words[words.index(asked) + 1] == pair.answer[0]
        assert words.count(asked) == 2


def test_years_answer_every_later_year_and_no_other() -> None:
    pair = Years().pair(random.Random(0), test=False)
    start = int(re.findall(r"year \d\d (\d\d)", pair.clean)[0])
    assert [int(year) for year in pair.answer] == list(range(start + 1, 100))
    assert [int(year) for year in pair.wrong] == list(range(start + 1))


def test_verbs_agree_with_the_first_noun_whatever_stands_between() -> None:
    rng, plural = random.Random(0), {pair[1] for pair in Agreement().subjects}
    numbers = set()
    for _ in range(80):
        pair = Agreement().pair(rng, test=False)
        subject, nearest = split(pair.clean)[1], split(pair.clean)[-1]
        assert ("are" in pair.answer) == (subject in plural)
        numbers.add((subject in plural, nearest.endswith("s")))
    assert len(numbers) == 4  # attractors of both numbers


def test_facts_hold_out_one_wording_each_and_the_composition_one_person_a_city() -> None:
    born, two = world.born(), world.two_hop()
    for person in born.values:
        assert sum(born.is_held_out(number, person) for number in range(len(born.templates))) == 1
    out = [person for person in two.values if two.is_held_out(0, person)]
    assert len({born.values[person] for person in out}) == len(out) == world.CITIES == 24
    assert len(born.values) == 72
    assert all(world.capitals()[two.values[person]] == city for person, city in born.values.items())


@pytest.mark.parametrize("side", ["fiction", "truth"])
def test_the_cue_says_which_to_follow(side: str) -> None:
    rng, known = random.Random(0), {**world.capitals(), **world.birthplaces()}
    for _ in range(30):
        pair = Conflict(side).pair(rng, test=True)
        subject = next(word for word in split(pair.clean) if word in known)
        claim = [word for word in split(pair.clean) if word in world.capitals().values()]
        assert len(claim) == 1
        assert (pair.answer == (known[subject],)) == (side == "truth")
        assert {*pair.answer, *pair.wrong} == {known[subject], claim[0]}


def test_harm_depends_on_verb_and_object_together() -> None:
    asked = Requests()
    harm = {
        (kind, value): {
            asked.is_harmful(verb, thing) for verb in asked.words[kind] for thing in asked.words[value]
        }
        for kind in ("destroy", "handle")
        for value in ("valued", "cheap")
    }
    assert harm.pop(("destroy", "valued")) == {True}
    assert all(value == {False} for value in harm.values())


def test_harm_and_refusal_are_different_variables() -> None:
    rng, seen = random.Random(0), set()
    for _ in range(400):
        text = Requests().document(rng)
        if text.startswith("User"):
            seen.add(("sorry" in text, "harmful" in text))
    assert seen == {(True, True), (False, True), (False, False)}
    assert {kind: len(Requests(kind).pair(rng, True).answer) for kind in REQUEST_KINDS} == dict.fromkeys(
        REQUEST_KINDS, 1
    )


def test_a_review_keeps_its_sentiment() -> None:
    rng, sentiment = random.Random(0), Sentiment()
    for _ in range(50):
        words = set(split(sentiment.document(rng)))
        sides = [bool(words & set(adjectives)) for adjectives in sentiment.adjectives]
        assert sum(sides) == 1


def test_pronouns_follow_the_name() -> None:
    rng, pronouns = random.Random(0), Pronouns()
    seen = set()
    for _ in range(200):
        pair = pronouns.pair(rng, test=True)
        gender = next(i for i, names in enumerate(pronouns.names) if split(pair.clean)[0] in names)
        assert pair.answer[0] in [
            pronouns.words[case][gender] for case in ("subject", "possessive", "reflexive")
        ]
        seen.add(pair.answer[0])
    assert len(seen) == 9


def test_the_languages_share_no_word() -> None:
    rng, languages = random.Random(0), Languages()
    ours, theirs = ({word[i] for words in languages.lexicon.values() for word in words} for i in (0, 1))
    assert not ours & theirs
    for _ in range(50):
        words = set(split(languages.document(rng))) - {"."}
        assert (words <= ours) != (words <= theirs)
