# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Estimates, and how far to trust them
#
# Patching measures the effect of one activation at the price of one forward pass. *Attribution* estimates the effects of
# all activations at once, from two forward passes and a backward. An estimate can be wrong, and it does not say when.
#
# This notebook estimates, compares with the exact effects, looks for the cells where the estimate errs, and ends
# with a way to work when measuring everything is too much. It takes under a minute on a laptop, without a network.

# %%
import interp
from interp.attribution import direct, relevance, relevance_rules, screen
from interp.methods import IG, Atp, AtpStar, Relp, Secant

model = interp.load("tiny-world")
task = interp.tasks.ioi(model, n=32, seed=0, template=0)
print(model.tokenizer.decode(task.clean[0]), "→", model.tokenizer.decode(task.answer[0]))
print(task.check(model))

# %% [markdown]
# ## An estimate of every position
#
# The effect of patching an activation is, to first order, its change times the gradient of the metric. `attribute` has the
# arguments of `patch` and returns the same dims, coordinates and sign.

# %%
sites = ("resid_pre", "attn_out", "mlp_out")
estimate = interp.attribute(model, task, sites, method="atp", progress=False)
interp.plot.positions(estimate)

# %% [markdown]
# **Predict:** the model has four layers, and the two prompts differ in one name. Below is what patching measures. Where
# can a gradient go wrong?

# %%
exact = interp.patch(model, task, sites, progress=False)
interp.plot.positions(exact)

# %% [markdown]
# ## The comparison
#
# The two maps have the same pattern and other colours. `plot.agreement` puts every cell in one figure: on the dotted line
# the estimate is right.

# %%
interp.plot.agreement(estimate, exact)

# %%
interp.stats.agreement(estimate, exact).drop_dims("k").to_dataframe()

# %% [markdown]
# **What to see.** The large cells stand out in both, so a ranking by `atp` is of use. But most of them lie far below the
# line: the estimate sees about half of their effect (*slope*), and Σ |estimate − exact| is nearly half of Σ |exact|
# (*relative L1*). The gradient is taken in the corrupt run and patching moves the model far away from there, so how steep
# the metric is at that point says little about the whole way.
#
# A correlation alone would hide this: Pearson does not see the scale.
#
# ## Other coefficients
#
# Each method puts something else in the place of the gradient:
#
# - `ig`: its mean along the path between the two inputs (8 points, so 8 backwards);
# - `relp`: relevance: norms, activations and attention patterns held at their values, so that the model is linear. `ah=False`
#   leaves the pattern its slope;
# - `secant`: slopes *between* the two runs, since both are at hand.

# %%
methods = {"atp": Atp(), "ig": IG(), "relp": Relp(), "relp, ah off": Relp(ah=False), "secant": Secant()}
print(f"{'':14}{'pearson':>9}{'slope':>9}{'relative L1':>13}")
for name, method in methods.items():
    found = interp.attribute(model, task, sites, method=method, progress=False)
    all_cells = interp.stats.agreement(found, exact).sel(cells="all")
    figures = (float(all_cells[key]) for key in ("pearson", "slope", "relative_l1"))
    print(f"{name:14}" + "{:9.3f}{:9.3f}{:13.3f}".format(*figures))

# %%
interp.plot.agreement(interp.attribute(model, task, sites, method="relp", progress=False), exact, worst=1)

# %% [markdown]
# **What to see.** All of them are nearer, mostly by their scale. In [docs/estimators.md](../docs/estimators.md) the same comparison is made on
# 25 tasks: this order is typical of the residual stream, and no method is the best at every site.
#
# **Predict:** single neurons. Which of the methods is right for a patch that hardly moves the model?

# %%
some = {"neurons": range(0, model.cfg.d_mlp, 8), "progress": False}
neurons = interp.patch(model, task, "post", **some)
for name, method in methods.items():
    found = interp.attribute(model, task, "post", method=method, **some)
    print(f"{name:14}{float(interp.stats.agreement(found, neurons)['relative_l1'].sel(cells='all')):9.3f}")

# %% [markdown]
# **What to see.** The order is turned round. One neuron changes little, so the model stays near the corrupt run, and there
# the gradient is the right slope. A slope that averages over the whole way to the clean run is not.
#
# The same holds for the queries and keys of heads, for another reason: where a softmax is saturated, its gradient is
# near zero however much a patch would move it. `atp*` with its *QK fix* computes the change of the pattern exactly.

# %%
queries = interp.patch(model, task, "q", progress=False)
for method in (Atp(), AtpStar(grad_drop=False)):
    found = interp.attribute(model, task, "q", method=method, progress=False)
    print(f"{method.name:14}{float(interp.stats.agreement(found, queries)['relative_l1'].sel(cells='all')):9.3f}")

# %% [markdown]
# ## Where the metric comes from
#
# Under RelP's rules the model is linear in its input, so the metric splits into shares of the tokens of one prompt, exactly
# (and of biases). No corrupt prompt is needed.

# %%
prompt = "When Mary and John went to the store, John gave a book to"
shares = relevance(model, prompt, ("Mary", "John"))
print({name: round(float(shares[name]), 4) for name in ("raw", "residual")})
interp.plot.tokens(shares["token"].values, shares["tokens"])

# %% [markdown]
# **What to see.** The name that was said once counts for the answer, the first mention of the other name against it, and
# its repetition for it.

# %%
interp.plot.bars(shares, top=10)

# %% [markdown]
# The bars are the relevance that passes through each component; it passes through one after the other, so they do not add up.
# What does add up is the last step: `direct` splits the logit difference by who wrote it into the stream, through the
# final norm.

# %%
written = direct(model, task)
interp.plot.bars(written.mean("prompt", keep_attrs=True), top=8)

# %% [markdown]
# The rules work with a forward pass and a loss of your own. The report says what they touched; a rule that finds nothing to
# touch raises an error.

# %%
with relevance_rules(model) as report:
    logits = model(task.clean[:1])
print(report)

# %% [markdown]
# ## When there is too much to measure
#
# `screen` estimates all cells, measures the largest exactly, and a random sample of the others too. The sample bounds how
# many cells above the threshold (5 % of the whole effect, unless you give another) can have been missed. Here: another
# behaviour, recall of capitals, each head at each position, and a budget of 48 measurements for 320 cells.

# %%
facts = interp.tasks.facts(model, n=32, seed=0)
axes = ("layer", "pos", "head")
found = screen(model, facts, "z", 48, by=axes, method=Relp(ah=False), progress=False)
names = ("threshold", "above", "above_in_sample", "sampled", "unverified", "missed_at_most")
print({name: found.attrs[name] for name in names})

# %% [markdown]
# **What to see.** `above` cells were found above the threshold, all of them among the largest estimates and none in the
# sample. `missed_at_most` is what the sample alone can promise, with 95 % confidence; it uses nothing of the estimate, and
# 12 cells cannot promise much. `sample=0.75` would spend three quarters of the budget on it.
#
# This model is small enough to measure everything:

# %%
everything = interp.patch(model, facts, "z", by=axes, progress=False)["value"].mean("prompt")
large = abs(everything.values) >= found.attrs["threshold"]
print(large.sum(), "cells are above the threshold;", (large & (found["group"].values == 0)).sum(), "were missed")

# %% [markdown]
# ## Questions to take away
#
# 1. An estimate has a Pearson of 0.98 with the exact effects. What can still be wrong with it?
# 2. In the residual stream `secant` is nearly exact here. What in the prompts makes that easy? (How many cells of a layer
#    differ between the two runs?)
# 3. RelP holds attention patterns constant. For which of your own questions would that hide the answer?
