# %% [markdown]
# # Lab 02 · Attribution: a guess for the price of three passes
#
# **Can a gradient tell you what every patch would do, without doing it?**
#
# Patching runs the model once for every activation. A gradient says for all of them at once how the answer would change,
# if it changed in a straight line. You will make that guess, measure how wrong it is, and find out where it fails.
#
# You need PyTorch, lab 01 or an idea of patching, and 45 minutes. No network.

# %% [teacher]
# **Minutes**: reading and first prediction 5 · `first_order` 8 · the comparison 4 · `agreement` 8 · `guess` 6 ·
# `integrated` 8 · `screen` 4 · bug and closing 4.
#
# **Common mistakes**: the difference the wrong way round; a correlation taken for agreement (it does not see the scale);
# the gradient at the wrong end; the points of integrated gradients at the ends instead of the middles.

# %%
import torch

import interp
from interp.labs import check

SEED = 0  # your own sentences
model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n=32, seed=SEED, template=SEED % 12)
print(model.tokenizer.decode(task.clean[0]), "→", model.tokenizer.decode(task.answer[:1]))

# %% [markdown]
# Two runs: the clean one, which says the right name, and the corrupt one, which says the other. We patch clean activations
# into the corrupt run. This cell fetches what a guess needs: all activations of the stream, and the gradient of the
# logit difference there. Read what it returns; its lines are plumbing.

# %%
names = [f"blocks.{layer}.hook_resid_pre" for layer in range(model.cfg.n_layers)]


def stream(tokens):
    """The stream before every layer and the slope of the logit difference there, both [layer, prompt, token, d]."""
    values = []
    keep = lambda value, hook: values.append(value)
    logits = model.run_with_hooks(tokens, fwd_hooks=[(name, keep) for name in names])
    rows = torch.arange(len(tokens))
    metric = logits[rows, task.positions, task.answer] - logits[rows, task.positions, task.wrong]
    gradients = torch.autograd.grad(metric.sum(), values)
    return torch.stack(values).detach(), torch.stack(gradients)


clean, clean_gradient = stream(task.clean)
corrupt, corrupt_gradient = stream(task.corrupt)

# %% [markdown]
# ## 1. The guess
#
# A patch replaces the vector `base` by `other`. If the metric were a straight line from where we stand, how much would it
# change? The slope times the step, summed over the numbers of the vector.

# %% [exercise] first_order
def first_order(gradient, base, other):
    """The estimated change of the metric when each token's vector goes from base to other.

    gradient (taken in the base run), base, other [..., token, d] → [..., token]
    """
    raise NotImplementedError("slope times step, summed over the last dimension")


# %% [solution] first_order
def first_order(gradient, base, other):
    return (gradient * (other - base)).sum(-1)


# %%
check.first_order(first_order)

# %% [predict] scale
# The corrupt run gives the wrong name with all its confidence. Will the guess of the whole effect be
# "a": too small   "b": about right   "c": too large
scale = None

# %% [answer] scale
scale = "a"
# The model is saturated at the wrong answer: near it, the slope is flatter than on the whole way to the clean run.

# %%
estimate = first_order(corrupt_gradient, corrupt, clean).mean(1)  # [layer, token]
theirs = interp.attribute(model, task, "resid_pre", method="atp", progress=False)
exact = interp.patch(model, task, "resid_pre", progress=False)
truth = torch.tensor(exact["value"].mean("prompt").values).float()
apart = float((estimate - torch.tensor(theirs["value"].mean("prompt").values)).abs().max())
print(f"yours and interp.attribute differ by {apart:.1e} at most")
layer, pos = divmod(int(truth.abs().argmax()), truth.shape[1])
print(f"largest cell, layer {layer} token {pos}: guess {estimate[layer, pos]:.2f}, exact {truth[layer, pos]:.2f} logits")

# %% [markdown]
# ## 2. How wrong?
#
# Two numbers. *Pearson* asks whether large guesses go with large effects; it does not see the scale. *Relative L1* asks
# how much is missing: Σ |estimate − exact| / Σ |exact|. 0 is perfect, and 1 is what you get by guessing 0 everywhere.

# %% [exercise] agreement
def agreement(estimate, exact):
    """How good the estimates are, over all cells: (Pearson correlation, relative L1), two numbers.

    estimate, exact: tensors of one shape
    """
    raise NotImplementedError("Pearson: subtract both means, then sum of products over root of product of sums of squares")


# %% [solution] agreement
def agreement(estimate, exact):
    a, b = estimate - estimate.mean(), exact - exact.mean()
    pearson = (a * b).sum() / ((a * a).sum() * (b * b).sum()).sqrt()
    relative = (estimate - exact).abs().sum() / exact.abs().sum()
    return float(pearson), float(relative)


# %%
check.agreement(agreement)

# %%
pearson, relative = agreement(estimate, truth)
print(f"pearson {pearson:.3f}   relative L1 {relative:.3f}")
interp.plot.agreement(theirs, exact)

# %% [markdown]
# > **Pearson near 1 and relative L1 far from 0?** That is no mistake of yours. The large guesses are all too small, and a
# > correlation cannot see that.
#
# ## 3. Where a gradient is blind
#
# The smallest thing that bends: y = relu(x − 1), with x going from 0 to 3. Guess the change of y from the slope at 0.

# %% [exercise] guess
def guess(f, x0, x1):
    """The first-order estimate of f(x1) − f(x0), from the slope of f at x0.

    f: a function of one tensor; x0, x1: tensors with one number → a number
    """
    raise NotImplementedError("x = x0.clone().requires_grad_(); torch.autograd.grad(f(x), x)")


# %% [solution] guess
def guess(f, x0, x1):
    x = x0.clone().requires_grad_()
    (slope,) = torch.autograd.grad(f(x), x)
    return float(slope * (x1 - x0))


# %%
check.guess(guess)

# %%
bent = lambda x: torch.relu(x - 1)
zero, three = torch.tensor(0.0), torch.tensor(3.0)
print("guess", guess(bent, zero, three), "  exact", float(bent(three) - bent(zero)))

# %% [predict] blind
# The same unit, patched the other way: from 3 to 0. What will the guess say, where the truth is −2?
# "a": 0   "b": −2   "c": −3
blind = None

# %% [answer] blind
blind = "c"
# At 3 the slope is 1, and the step is −3. A guess from the other end errs the other way.

# %% [markdown]
# ## 4. Look along the way
#
# *Integrated gradients* take the slope at several points between x0 and x1, and use its mean. Take the middles of `steps`
# equal parts: with 3 steps, one sixth, one half and five sixths of the way.

# %% [exercise] integrated
def integrated(f, x0, x1, steps):
    """The estimate of f(x1) − f(x0) from the mean slope at the middles of `steps` equal parts of the way → a number"""
    raise NotImplementedError("share = (i + 0.5) / steps; x = x0 + share * (x1 - x0); mean of the slopes, times the step")


# %% [solution] integrated
def integrated(f, x0, x1, steps):
    slopes = []
    for i in range(steps):
        x = (x0 + (i + 0.5) / steps * (x1 - x0)).requires_grad_()
        slopes.append(torch.autograd.grad(f(x), x)[0])
    return float(sum(slopes) / steps * (x1 - x0))


# %%
check.integrated(integrated)

# %%
for method in ("atp", "ig"):
    result = interp.attribute(model, task, "resid_pre", method=method, progress=False)
    pair = agreement(torch.tensor(result["value"].mean("prompt").values).float(), truth)
    print(f"{method:4} pearson {pair[0]:.3f}   relative L1 {pair[1]:.3f}")

# %% [markdown]
# ## When there is too much to measure
#
# Guess everything, measure what looks large, and measure a random sample of the rest: the sample bounds what was missed.
# Here a larger model, a million parameters, and each head at each token of questions about capitals.

# %%
from interp.attribution import screen

world = interp.load("tiny-world")
facts = interp.tasks.facts(world, n=16, seed=SEED)
screened = screen(world, facts, "z", 48, by=("layer", "pos", "head"), method="atp", progress=False)
print({name: screened.attrs[name] for name in ("above", "above_in_sample", "sampled", "unverified", "missed_at_most")})

# %% [markdown]
# ## Something is wrong here
#
# A friend's map of the same effects. Nearly every important cell is negative: as if the right name did harm.

# %%
friends = first_order(clean_gradient, clean, corrupt).mean(1)
print(f"largest cell, layer {layer} token {pos}: hers {friends[layer, pos]:.2f}, exact {truth[layer, pos]:.2f}")

# %% [predict] bug
# "a": her gradient is of another layer   "b": she guesses what the clean run loses, and reads it as what the corrupt
# run gains   "c": nothing, guesses have no sign
bug = None

# %% [answer] bug
bug = "b"
# Base is clean, the step goes to corrupt: her number is the change of the clean run. Positive helps only after a minus.

# %% [markdown]
# ## What you found
#
# In one sentence: when is a first-order guess good, when is it not, and how would you know?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "First order fails where the function bends between the two runs; how wrong it is can be measured on cells that are patched exactly."
