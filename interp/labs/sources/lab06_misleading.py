# %% [markdown]
# # Lab 06 · When patching misleads
#
# **Every number below is computed correctly. Why should you believe none of them?**
#
# Four ways to be fooled: a direction that acts through a door that was never open, an ablation that takes away what nobody
# uses, noise that no model has ever seen, and the largest of many numbers. Each has a check of a few lines.
#
# You need PyTorch, lab 01, and 50 minutes. No network.

# %% [teacher]
# **Minutes**: reading and first prediction 5 · `patch_along` 8 · `mean_ablate` 6 · `strangeness` 8 · `max_t` 13 · pairs 6 ·
# closing 4.
#
# **Common mistakes**: adding the projection without taking the old one out; the mean over tokens as well as prompts; the
# variance for the standard deviation; a p-value of one cell for the largest of many; prompts that share a text counted as
# two. The last one is in many papers.

# %%
import torch

import interp
from interp.labs import check

SEED = 0  # your own draws
draw = torch.Generator().manual_seed(SEED)

# %% [markdown]
# ## 1. A door that was never open
#
# A model of three numbers: from an input x it makes h = (x, 0, x) and answers y = 2 · h₂ + h₃. So h₁ is read by nobody, and h₂
# is always 0. All of the answer goes through h₃.
#
# *Patching along a direction* v exchanges only the part of h that lies along v: take out h's part, put in the source's.

# %% [exercise] patch_along
def patch_along(h, source, v):
    """h, with its part along v replaced by source's part along v. h, source [prompt, d]; v [d], of any length → [prompt, d]"""
    raise NotImplementedError("unit = v / v.norm(); the part of x along it is (x @ unit)[:, None] * unit")


# %% [solution] patch_along
def patch_along(h, source, v):
    unit = v / v.norm()
    return h + ((source - h) @ unit)[:, None] * unit


# %%
check.patch_along(patch_along)

# %% [predict] open_door
# Patch h of x = 1 from h of x = 5 along v = (1, 1, 0): a number that nobody reads, and one that never changes.
# y goes from 1 to
# "a": 1, nothing happens   "b": 3   "c": 5, as if the whole of h were patched
open_door = None

# %% [answer] open_door
open_door = "c"
# The part along v is (x / 2, x / 2, 0). Patching pushes h₂ to 2, where it never is, and y reads twice that: 1 + 4 = 5.

# %%
make = lambda x: torch.stack([x, torch.zeros_like(x), x], -1)
answer = lambda h: 2 * h[:, 1] + h[:, 2]
one, five = make(torch.tensor([1.0])), make(torch.tensor([5.0]))
moved = {}
for v in ([1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]):
    moved[tuple(v)] = float(answer(patch_along(one, five, torch.tensor(v))))
    print(f"along {v}: y = {moved[tuple(v)]:.1f}")

# %% [markdown]
# **The check**: patch the two halves of v one by one. Neither does anything; together they do everything. Then look at h₂: it
# has a value that no input gives it. (`interp.subspaces.illusion` does this for a real model.)
#
# ## 2. Taking away what nobody uses
#
# Zero ablation sets a head's output to 0. But a head may write the same thing on every prompt, as a constant that later parts
# rely on. Mean ablation keeps the constant and takes away what differs between prompts.

# %% [exercise] mean_ablate
def mean_ablate(value, reference):
    """The mean over the reference prompts at each token, for every prompt of value.

    value [prompt, token, d]; reference [other prompt, token, d] → [prompt, token, d]
    """
    raise NotImplementedError("reference.mean over prompts only; expand_as(value)")


# %% [solution] mean_ablate
def mean_ablate(value, reference):
    return reference.mean(0).expand_as(value)


# %%
check.mean_ablate(mean_ablate)

# %%
from interp import circuits

for name in ("reverse", "and-gate"):
    sizes = {ablation: circuits.known(name, ablation=ablation).n_edges for ablation in ("zero", "mean", "resample")}
    print(f"{name}: edges that matter", sizes)
world = interp.load("tiny-world")
task = interp.tasks.ioi(world, n=32, seed=SEED, template=SEED % 12)
damage = {}
for ablation in ("zero", "mean", "resample"):
    result = interp.patch(world, task, "z", ablation=ablation, direction="noise", progress=False)
    damage[ablation] = result["value"].mean("prompt").stack(cell=("layer", "head"))
    order = damage[ablation].argsort().values[::-1][:4]
    heads = [f"L{layer}H{head} {float(damage[ablation][i]):.1f}" for i in order for layer, head in [damage[ablation]["cell"].values[i]]]
    print(f"{ablation:9} most damage:", ", ".join(heads))

# %% [markdown]
# **The check**: say which ablation, and try another. What only zero ablation finds is a constant.
#
# ## 3. What no model has ever seen
#
# Noise on the embeddings is a common way to corrupt a run. Is it still a place where the model knows its way? Measure how far
# an activation is from the usual ones: in each number, its distance from the mean in standard deviations; over all numbers,
# the root of the mean square. A usual activation has about 1.

# %% [exercise] strangeness
def strangeness(x, usual):
    """How unusual each activation is: root mean square over d of (x − mean) / std, both over the usual ones.

    x [prompt, d]; usual [n, d] → [prompt]
    """
    raise NotImplementedError("z = (x - usual.mean(0)) / usual.std(0); then square, mean over the last dimension, root")


# %% [solution] strangeness
def strangeness(x, usual):
    z = (x - usual.mean(0)) / usual.std(0)
    return z.pow(2).mean(-1).sqrt()


# %%
check.strangeness(strangeness)

# %%
site = "blocks.0.hook_resid_mid"
many, others = (interp.tasks.ioi(world, n=96, seed=SEED + extra) for extra in (0, 1000))
last = lambda tokens, t, hooks=(): _last(tokens, t, hooks)


def _last(tokens, t, hooks):
    kept = []
    with torch.no_grad():
        world.run_with_hooks(tokens, fwd_hooks=[*hooks, (site, lambda value, hook: kept.append(value.clone()))])
    return kept[0][torch.arange(len(tokens)), t.positions]


usual = last(many.clean, many)
spread = world.W_E.detach().std()
noisy = lambda value, hook: value + 3 * spread * torch.randn(value.shape, generator=draw)
away = {
    "other prompts": strangeness(last(others.clean, others), usual),
    "corrupt prompts": strangeness(last(others.corrupt, others), usual),
    "noise of 3 sd": strangeness(last(others.clean, others, [("hook_embed", noisy)]), usual),
}
for what, values in away.items():
    print(f"{what:16} {values.mean():.2f} standard deviations")

# %% [markdown]
# **The check**: compare with prompts of the same kind. A corrupt prompt is a place where the model has been.
#
# ## 4. The largest of many
#
# Here are 96 cells and 16 prompts of pure noise: no cell has an effect. Somebody picks the largest and tests it. To be honest,
# ask how large the *largest* is by chance: turn the signs of the prompts at random, take the largest |t| over all cells again,
# and see how often it reaches the one that was picked. t = mean / (std / √n).

# %% [exercise] max_t
def max_t(effects, signs):
    """The chance of so large a largest |t|: (1 + draws whose largest |t| is at least as large) / (1 + draws).

    effects [cell, prompt]; signs [draw, prompt], 1 or −1 → a number
    """
    raise NotImplementedError("t = x.mean(-1) / (x.std(-1) / n ** 0.5); for each row of signs: t of effects * row, abs, max")


# %% [solution] max_t
def max_t(effects, signs):
    def largest(x):
        return (x.mean(-1) / (x.std(-1) / x.shape[-1] ** 0.5)).abs().max()

    draws = torch.stack([largest(effects * row) for row in signs])
    return float((1 + (draws >= largest(effects)).sum()) / (1 + len(signs)))


# %%
check.max_t(max_t)

# %% [predict] false_alarms
# In how many of 100 such experiments without any effect will the largest cell, tested alone, be "significant" at 5 %?
# "a": about 5   "b": about 50   "c": nearly all
false_alarms = None

# %% [answer] false_alarms
false_alarms = "c"
# 96 tries at 5 %: the chance that none comes out is 0.95 ** 96, less than one in a hundred.

# %%
flips = lambda n, draws: torch.randint(2, (draws, n), generator=draw) * 2.0 - 1.0
alone, corrected = 0, 0
for _ in range(40):
    effects = torch.randn(96, 16, generator=draw)
    t = effects.mean(-1) / (effects.std(-1) / 4)
    picked = effects[t.abs().argmax()][None]
    alone += max_t(picked, flips(16, 99)) <= 0.05
    corrected += max_t(effects, flips(16, 99)) <= 0.05
print(f"of 40 experiments without an effect: alone {alone} significant, corrected {corrected}")

# %% [markdown]
# > **p is 0?** Count the experiment itself: add 1 above and below. **p is above 1?** You count cells; count draws.
#
# ## Something is wrong here
#
# A friend corrects as you do, and still finds effects in noise. Her prompts come in mirrored pairs: the clean prompt of one is
# the corrupt prompt of the other, so that both have nearly the same effect.

# %%
friends, by_pair = 0, 0
for _ in range(40):
    pairs = torch.randn(96, 8, generator=draw)  # 8 pairs, and no effect
    effects = pairs.repeat_interleave(2, 1) + 0.1 * torch.randn(96, 16, generator=draw)
    friends += max_t(effects, flips(16, 99)) <= 0.05
    by_pair += max_t(effects.view(96, 8, 2).mean(-1), flips(8, 99)) <= 0.05
print(f"of 40 experiments without an effect: her prompts one by one {friends}, pair by pair {by_pair}")

# %% [predict] bug
# "a": two prompts of a pair are one draw, she counts them as two   "b": she needs more sign flips
# "c": her cells are too many
bug = None

# %% [answer] bug
bug = "a"
# With pairs taken for independent prompts, the flips make a too narrow null. Flip signs of whole pairs, or average them first.
# `interp.stats.test` takes the unit from the prompts.

# %% [markdown]
# ## What you found
#
# In one sentence: which four checks would you ask of somebody else's map?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "Patch the parts of a direction apart, name the ablation and try another, stay near real prompts, and test the largest cell as the largest of many independent draws."
