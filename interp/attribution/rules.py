"""Relevance rules on an unmodified model: gradients through it become relevance coefficients.

Inside `relevance_rules` every value of a forward pass stays as it is, and the slopes are those of the rules.
Gradient times input is then the relevance of the input for whatever was differentiated, positive where the
input raises it.

| family      | rule                                                | where                                  |
|-------------|-----------------------------------------------------|----------------------------------------|
| ln          | a norm's scale is constant; its centring stays      | every hook_scale, those of q and k too |
| identity    | an activation is the linear gate act(x) / x         | MLPs, experts, soft cap of the logits  |
| ah          | an attention pattern is constant                    | every hook_pattern                     |
| half        | both factors of a product get half of the relevance | gated MLPs; routers' weights constant  |
| qkv         | the same for the two products of attention:         | q, k, v, pattern                       |
|             | 1/4 for q and k, 1/2 for v                          |                                        |
| temperature | softmax's slope at a higher temperature             | every hook_pattern                     |

With ln, identity, ah and half all on, the model is linear around a prompt: for a metric that is linear in
the logits, the relevance of the stream at any depth, plus that of the biases downstream, is the metric.

With ah nothing flows through queries and keys: what acts by moving the attention of later heads gets little
relevance, however large its effect (ah=False lets it through).

What is left with its true slope: the clamp of clip_qkv and the soft cap on attention scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from interp.attribution.checks import check_model
from interp.attribution.rule_places import Report, place
from interp.attribution.rule_scope import attached
from interp.methods import Method, Rules, rules_of
from interp.models import Model, anatomy


@contextmanager
def relevance_rules(model: Model, rules: Rules | Method | str = "relp") -> Iterator[Report]:
    """Rules on a model for the duration of a `with` block; yields a report of the modules they touch.

    rules: a relevance method by name or value ("relp", `Relp(ah=False)`, `AttnLRP()`), or `methods.Rules`.

    Within the block, differentiate any quantity of a forward pass. Forward values do not change (on a bridge,
    by rounding). Rules come before other hooks wherever they replace a tensor, and behind them wherever they
    read one, so hooks of your own may stand inside or outside the block. Blocks on one model can be nested:
    the innermost set of rules holds alone. The model is left as it was, errors included.

    Raises ValueError before any pass: for a family that was asked for and matches no module, an activation
    whose gate is not known, a model that is compiled or checkpoints activations; and at the first pass, for a
    model that does not compute what its config says or bypasses a rule's hook point.
    """
    chosen = rules_of(rules)
    anatomy(model)
    check_model(model)
    if getattr(model, "compatibility_mode", True) is False:
        raise ValueError(
            "the bridge is not in compatibility mode, and its hook points are not those of the rules. "
            "Call model.enable_compatibility_mode() first."
        )
    places, report = place(model, chosen)
    with attached(model, places):
        yield report
