# %% [markdown]
# # Lab 05 · Steering: a direction, and what else it moves
#
# **You push a model and its answer changes. Was it your direction, or would any push have done it?**
#
# You will find a direction in the stream of a model that writes reviews, push along it, and measure two things: how much
# the answer changed, and how much everything else did. Then you give random directions the same chance.
#
# You need PyTorch and 45 minutes. No network.

# %% [teacher]
# **Minutes**: reading and first prediction 5 · `mean_difference` 6 · `add_at` 10 · `kl` 7 · the ladder 4 · `effect_at` 8 ·
# text, bug and closing 5.
#
# **Common mistakes**: down minus up; the position counted within the running pass; the KL the wrong way round; effects of
# two directions compared at equal coefficient, which says nothing when one of them does nothing to the model at all.

# %%
import torch

import interp
from interp import steering
from interp.labs import check

SEED = 0  # your own reviews
LAYER = 3
model = interp.load("tiny-world")
train = interp.tasks.sentiment(model, n=96, seed=SEED, held_out=False)  # to find the direction
other = interp.tasks.sentiment(model, n=48, seed=SEED + 1)  # to steer
wonderful, terrible = (model.to_single_token(word) for word in ("wonderful", "terrible"))
is_good = lambda task: (task.answers == wonderful).any(1)
good, bad = (train[rows.nonzero().flatten()] for rows in (is_good(train), ~is_good(train)))
dull = other[(~is_good(other)).nonzero().flatten()]
print(model.tokenizer.decode(good.clean[0, : good.lengths[0]]), "|", model.tokenizer.decode(bad.clean[0, : bad.lengths[0]]))

# %% [markdown]
# This cell gives you the stream at the last word of every review, before layer 3.

# %%
name = f"blocks.{LAYER}.hook_resid_pre"


def stream(task, at=name):
    with torch.no_grad():
        value = model.run_with_cache(task.clean)[1][at]
    return value[torch.arange(len(task)), task.positions]


# %% [predict] layer_0
# Good and bad reviews end in the same words. How far apart are their means at the last word before layer 0?
# "a": not at all   "b": as far as before layer 3   "c": further
layer_0 = None

# %% [answer] layer_0
layer_0 = "a"
# Before layer 0 a token knows nothing of the others. Attention brings the sentiment to the last word.

# %% [markdown]
# ## 1. The direction
#
# The simplest one there is: the mean over good reviews minus the mean over bad ones.

# %% [exercise] mean_difference
def mean_difference(good, bad):
    """From the mean of the bad to the mean of the good. good [n, d]; bad [m, d], perhaps another number → [d]"""
    raise NotImplementedError("two means over the first dimension, and a minus")


# %% [solution] mean_difference
def mean_difference(good, bad):
    return good.mean(0) - bad.mean(0)


# %%
check.mean_difference(mean_difference)

# %%
direction = mean_difference(stream(good), stream(bad))
at_start = "blocks.0.hook_resid_pre"
nothing = mean_difference(stream(good, at_start), stream(bad, at_start))
print(f"length before layer {LAYER}: {direction.norm():.2f}   before layer 0: {nothing.norm():.2f}")

# %% [markdown]
# ## 2. Push at the right words
#
# A model that writes with a cache sees the prompt in one pass and then one word a pass. Your hook gets `value` of the
# words in *this* pass; `start` words were there before. Push every word whose place in the whole text is `first` or later.

# %% [exercise] add_at
def add_at(value, direction, coefficient, start, first):
    """value plus coefficient · direction at each word whose place in the text, start + its index here, is >= first.

    value [prompt, word, d]; direction [d]; coefficient, start: numbers; first [prompt] → [prompt, word, d]
    """
    raise NotImplementedError("place = start + torch.arange(value.shape[1]); compare with first[:, None]; then [:, :, None]")


# %% [solution] add_at
def add_at(value, direction, coefficient, start, first):
    place = start + torch.arange(value.shape[1])  # [word]
    on = place[None, :] >= first[:, None]  # [prompt, word]
    return value + coefficient * on[:, :, None] * direction


# %%
check.add_at(add_at)

# %% [markdown]
# ## 3. What did it cost?
#
# KL(before ‖ after) = Σ p (log p − log q) says how far the whole prediction moved, in nats. p is before, q after.

# %% [exercise] kl
def kl(before, after):
    """KL(before ‖ after) of the predictions, in nats. before, after: logits [prompt, word] → [prompt]"""
    raise NotImplementedError("log_softmax both; p is the exp of the first; sum over the vocabulary")


# %% [solution] kl
def kl(before, after):
    log_p, log_q = before.log_softmax(-1), after.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


# %%
check.kl(kl)

# %%
rows = torch.arange(len(dull))


def steered(vector, coefficient):
    """The logits of the next word after every dull review, [prompt, vocabulary]."""
    hook = lambda value, hook: add_at(value, vector, coefficient, 0, dull.positions)
    with torch.no_grad():
        return model.run_with_hooks(dull.clean, fwd_hooks=[(name, hook)])[rows, dull.positions]


def ladder(vector, coefficients):
    """Effect (logits, wonderful over terrible) and cost (nats), means over prompts, for every coefficient."""
    before = steered(vector, 0.0)
    all_after = [steered(vector, c) for c in coefficients]
    score = lambda logits: (logits[:, wonderful] - logits[:, terrible]).mean()
    return torch.stack([score(a) - score(before) for a in all_after]), torch.stack([kl(before, a).mean() for a in all_after])


coefficients = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0]
for c, effect, cost in zip(coefficients, *ladder(direction, coefficients)):
    print(f"coefficient {c:4.2f}   effect {effect:6.2f} logits   cost {cost:6.3f} nats")

# %% [predict] equal_length
# A random direction of the same length, at the same coefficients. What will it do?
# "a": as much, with the other sign   "b": little to the answer, and cost little too   "c": cost much more
equal_length = None

# %% [answer] equal_length
equal_length = "b"
# Most directions hardly matter to a model. So beating a random direction of equal length is easy, and shows little.

# %%
draw = torch.Generator().manual_seed(SEED)
randoms = [torch.randn(len(direction), generator=draw) for _ in range(9)]
randoms = [vector / vector.norm() * direction.norm() for vector in randoms]
# Half of each class on either side: a plain shuffle leaves some of the difference in, and that is all a model listens to.
labels = torch.cat([torch.randperm(len(rows), generator=draw) < len(rows) // 2 for rows in (good, bad)])
both = torch.cat([stream(good), stream(bad)])
shuffled = mean_difference(both[labels], both[~labels])
for what, vector in (("yours", direction), ("random", randoms[0]), ("shuffled", shuffled)):
    effect, cost = ladder(vector, [1.0])
    print(f"{what:9} at coefficient 1: effect {effect[0]:6.2f} logits   cost {cost[0]:.4f} nats")

# %% [markdown]
# > **No effect at all?** Print `add_at(...) - value` for one review: which words does it push?
#
# ## 4. At equal cost
#
# Give each direction the coefficient at which it costs the same. Between two rungs of the ladder, go in a straight line:
# find the first rung whose cost reaches the target, and how far between the rung before and this one the target lies.

# %% [exercise] effect_at
def effect_at(effects, costs, target):
    """The effect where the cost reaches the target, between two rungs in a straight line.

    effects, costs [rung], costs rising from 0; target: a number → a number
    """
    raise NotImplementedError("i = first rung with costs >= target; share = (target - costs[i-1]) / (costs[i] - costs[i-1])")


# %% [solution] effect_at
def effect_at(effects, costs, target):
    i = int((costs >= target).nonzero()[0])
    share = (target - costs[i - 1]) / (costs[i] - costs[i - 1])
    return float(effects[i - 1] + share * (effects[i] - effects[i - 1]))


# %%
check.effect_at(effect_at)

# %%
target = 0.2  # nats
rungs = torch.cat([torch.zeros(1), torch.logspace(-1, 2, 25)]).tolist()
at_equal_cost = {"yours": effect_at(*ladder(direction, rungs), target)}
at_equal_cost |= {f"random {i}": effect_at(*ladder(vector, rungs), target) for i, vector in enumerate(randoms)}
at_equal_cost["shuffled"] = effect_at(*ladder(shuffled, rungs), target)
for what, effect in at_equal_cost.items():
    print(f"{what:9} at {target} nats: effect {effect:6.2f} logits")

# %% [markdown]
# ## Where the text breaks
#
# The effect grows with the coefficient. So does something else.

# %%
along = steering.Direction.from_tensor(direction, layer=LAYER)
for c in (0.0, 1.0, 2.0, 8.0, 32.0):
    text = steering.generate(model, dull[:1], steering.add(along, c), max_new_tokens=12)
    print(f"{c:5.1f}", steering.texts(model, text)[0])

# %% [markdown]
# ## Something is wrong here
#
# A friend's `add_at` passes on the prompt. When the model writes with a cache, nothing is steered. Three passes of one text,
# the prompt of 5 words and then 2 words one by one, all to be pushed from word 4 on:

# %%
friends_add_at = lambda value, direction, coefficient, start, first: add_at(value, direction, coefficient, 0, first)
for who, fn in (("yours", add_at), ("hers", friends_add_at)):
    passes = [fn(torch.zeros(1, n, 1), torch.ones(1), 1.0, start, torch.tensor([4])) for start, n in ((0, 5), (5, 1), (6, 1))]
    print(f"{who:6} pushes words", torch.cat(passes, 1).flatten().nonzero().flatten().tolist())

# %% [predict] bug
# "a": her coefficient is too small   "b": with a cache the model cannot be steered
# "c": she counts places from the start of each pass, not of the text
bug = None

# %% [answer] bug
bug = "c"
# After the prompt each pass has one word, at index 0 of its pass: never 4 or more.

# %% [markdown]
# ## What you found
#
# In one sentence: how large is your effect, at which cost, and against what?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "An effect without a control and a KL is no effect: at 0.2 nats the difference of means does more than every control."
