"""The language of tiny-world: its behaviours, what was held out of training, and the texts of training.

`behaviours()` are what it can do, each with documents and pairs; `World().document(rng)` draws a text. Task
families of them are in `interp.tasks`: `sentiment`, `pronouns`, `languages`, `register`, `requests`,
`conflict`, and `facts`; `mirrored` makes a task of any behaviour.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from interp._lazy import lazy

if TYPE_CHECKING:
    from interp.tasks.world._classics import Agreement as Agreement
    from interp.tasks.world._classics import Arguments as Arguments
    from interp.tasks.world._classics import ColouredObjects as ColouredObjects
    from interp.tasks.world._classics import IndirectObject as IndirectObject
    from interp.tasks.world._classics import Years as Years
    from interp.tasks.world._families import mirrored as mirrored
    from interp.tasks.world._grammar import HELD_OUT_ONE_IN as HELD_OUT_ONE_IN
    from interp.tasks.world._grammar import SPECIAL as SPECIAL
    from interp.tasks.world._grammar import Behaviour as Behaviour
    from interp.tasks.world._grammar import Cast as Cast
    from interp.tasks.world._grammar import Pair as Pair
    from interp.tasks.world._grammar import cast as cast
    from interp.tasks.world._grammar import fixed_words as fixed_words
    from interp.tasks.world._grammar import held_out as held_out
    from interp.tasks.world._grammar import split as split
    from interp.tasks.world._grammar import split_marked as split_marked
    from interp.tasks.world._knowledge import CITIES as CITIES
    from interp.tasks.world._knowledge import Conflict as Conflict
    from interp.tasks.world._knowledge import Facts as Facts
    from interp.tasks.world._knowledge import TwoHop as TwoHop
    from interp.tasks.world._knowledge import birthplaces as birthplaces
    from interp.tasks.world._knowledge import born as born
    from interp.tasks.world._knowledge import capital as capital
    from interp.tasks.world._knowledge import capitals as capitals
    from interp.tasks.world._knowledge import country as country
    from interp.tasks.world._knowledge import two_hop as two_hop
    from interp.tasks.world._language import SHARES as SHARES
    from interp.tasks.world._language import Stories as Stories
    from interp.tasks.world._language import World as World
    from interp.tasks.world._language import behaviours as behaviours
    from interp.tasks.world._language import vocabulary as vocabulary
    from interp.tasks.world._requests import REQUEST_KINDS as REQUEST_KINDS
    from interp.tasks.world._requests import Requests as Requests
    from interp.tasks.world._styles import CASES as CASES
    from interp.tasks.world._styles import WORD_KINDS as WORD_KINDS
    from interp.tasks.world._styles import Languages as Languages
    from interp.tasks.world._styles import Pronouns as Pronouns
    from interp.tasks.world._styles import Register as Register
    from interp.tasks.world._styles import Sentiment as Sentiment

_EXPORTS = {
    "interp.tasks.world._classics": ("Agreement", "Arguments", "ColouredObjects", "IndirectObject", "Years"),
    "interp.tasks.world._families": ("mirrored",),
    "interp.tasks.world._grammar": (
        "HELD_OUT_ONE_IN",
        "SPECIAL",
        "Behaviour",
        "Cast",
        "Pair",
        "cast",
        "fixed_words",
        "held_out",
        "split",
        "split_marked",
    ),
    "interp.tasks.world._knowledge": (
        "CITIES",
        "Conflict",
        "Facts",
        "TwoHop",
        "birthplaces",
        "born",
        "capital",
        "capitals",
        "country",
        "two_hop",
    ),
    "interp.tasks.world._language": ("SHARES", "Stories", "World", "behaviours", "vocabulary"),
    "interp.tasks.world._requests": ("REQUEST_KINDS", "Requests"),
    "interp.tasks.world._styles": ("CASES", "WORD_KINDS", "Languages", "Pronouns", "Register", "Sentiment"),
}
__getattr__, __dir__ = lazy(__name__, _EXPORTS)
