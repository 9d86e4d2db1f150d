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
# # Activation patching, from two prompts to a finding
#
# The question: *which parts of a model cause a behaviour?* The method: run the model twice, on a clean and on a
# corrupt prompt, then run it again with a single activation exchanged between the two. If the answer changes, that
# activation matters.
#
# This notebook does a first analysis as you would at the start of a project: choose a task, check that the model can
# do it, predict, sweep, look at intervals, narrow down. It takes under a minute on a laptop, without a network.

# %%
import interp
MODEL = "tiny-ioi"  # or "gpt2": the same notebook on GPT-2 small (its weights come from the hub or its cache)
model = interp.load(MODEL)

# %% [markdown]
# ## The task
#
# Indirect object identification (Wang et al. 2022). `When Mary and John went to the store, John gave a book to` should
# go on with `Mary`: the name that was said once. The corrupt prompt says the *other* name twice, which makes the other
# name the answer. Clean and corrupt differ in one token, so whatever they do not share must come through that token.
#
# The metric is the logit of the right name minus the logit of the wrong one.

# %%
task = interp.tasks.ioi(model, n=64, seed=0)
task

# %%
for name, tokens in (("clean", task.clean), ("corrupt", task.corrupt)):
    length = int(task.lengths[0])
    print(f"{name:<8}", model.tokenizer.decode(tokens[0, :length]))
print("answer  ", model.tokenizer.decode(task.answer[0]), "  wrong", model.tokenizer.decode(task.wrong[0]))

# %% [markdown]
# Before explaining a behaviour, make sure that it is there. `check` counts the prompts that the model solves; an
# analysis of a model that guesses explains nothing.

# %%
print(task.check(model))

# %% [markdown]
# ## By position
#
# Positions can only be compared between prompts of the same form, so this sweep takes the prompts of one template.
# `plan` says what a sweep costs before it runs. Cells before the first token that differs are *no-ops*: nothing differs
# there, so patching them changes nothing, and they are not run.

# %%
drawn = interp.tasks.ioi(model, n=384, seed=0)
rows = [i for i, template in enumerate(drawn.template) if template == drawn.template[0]]
aligned = drawn[rows]
sites = ("resid_pre", "attn_out", "mlp_out")
print(interp.plan(model, aligned, sites))

# %% [markdown]
# **Predict first.** `resid_pre` at layer 0 is the token embedding. Which of its cells can have any effect? In the last
# layers, at which position must the information be? Where does it move from the one to the other, and is it attention
# or an MLP that moves it?

# %%
stream = interp.patch(model, aligned, sites, progress=False)
stream = stream.isel(pos=slice(int(aligned.lengths.max())))  # without the padding on the right
interp.plot.positions(stream, interval=0.95)

# %% [markdown]
# POSITIONS_TEXT

# %% [markdown]
# ## By head
#
# Now which heads. This sweep patches the output `z` of each head at all positions, so prompts of all templates can be
# used together. *Denoising* (clean into corrupt) asks whether a head is **sufficient** to bring the answer back;
# *noising* (corrupt into clean) whether it is **necessary**. In both maps blue means that the head helps.
#
# **Predict:** can a head be necessary but not sufficient? And the other way round?

# %%
heads = interp.patch(model, task, "z", progress=False)
interp.plot.heads(heads, interval=0.95)

# %%
noised = interp.patch(model, task, "z", direction="noise", progress=False)
interp.plot.heads(noised, interval=0.95)

# %% [markdown]
# HEADS_TEXT

# %% [markdown]
# ## How sure?
#
# The result keeps the effect on every prompt. `bootstrap` draws the prompts anew, whole templates at a time where there
# are enough of them, and gives an interval for the mean. Each interval holds for its cell alone: of many cells some will
# look large by chance, so a head found here should be tested on prompts that did not choose it (another `seed`).

# %%
interp.plot.bars(heads, top=8)

# %%
interp.stats.bootstrap(heads, n=1000, seed=0).to_dataframe()[["head_name", "estimate", "low", "high"]]

# %% [markdown]
# ## In units of the whole effect
#
# An effect in logits does not say whether it is much. The *normalised* effect divides it by the whole difference between
# clean and corrupt (ratio of means): 0 is no effect, 1 brings all of the answer back. Shares need not add up to 1.

# %%
interp.plot.heads(heads, normalise=True)

# %% [markdown]
# ## What about a head?
#
# A head can matter for what it looks for (`q`), what it is found by (`k`), what it carries (`v`), or where it looks in
# all (`pattern`). Patching these inputs one by one tells them apart.
#
# **Predict:** a head that copies a name to the last position. If `q` matters, the clean run asks for another name than
# the corrupt run does. If `v` matters, what is carried differs. Which one, when both prompts hold the same two names?

# %%
parts = interp.patch(model, task, ("q", "k", "v", "pattern"), progress=False)
interp.plot.heads(parts, interval=0.95)

# %% [markdown]
# PARTS_TEXT

# %% [markdown]
# ## Cells of your own
#
# Instead of a grid, `cells=` takes names; names in an inner list are patched together. Here the two heads with the
# largest effects, each alone and both at once. Both together larger than the sum of the two: they need one another
# (AND). Smaller: each can stand in for the other (OR).

# %%
means = interp.stats.mean(heads)["value"].stack(cell=("layer", "head"))
first, second = means["head_name"].values[abs(means).argsort().values[::-1][:2]]
pair = interp.patch(model, task, cells=[first, second, [first, second]], progress=False)
interp.plot.bars(pair)

# %% [markdown]
# ## Keep it
#
# A result is an `xarray.Dataset` with named dims, labelled coordinates and its own provenance. netCDF keeps all of it,
# and `interp report` makes the page below from such files.

# %%
heads.to_netcdf("heads.nc", engine="h5netcdf")
interp.report.write([interp.plot.heads(heads, interval=0.95), heads], "heads.html", title="Heads for IOI")
heads

# %% [markdown]
# ## GPT-2 small
#
# The same on a real model. Set `GPT2 = True`, or `MODEL = "gpt2"` at the top for the whole notebook. The name movers of
# the paper, L9H9, L9H6 and L10H0, stand out, and L10H7 and L11H10 are negative.

# %%
GPT2 = False  # True needs the weights of gpt2: a network, or the hub's cache
if GPT2:
    gpt2 = interp.load("gpt2")
    gpt2_heads = interp.patch(gpt2, interp.tasks.ioi(gpt2, n=16, seed=0), "z")
    interp.plot.heads(gpt2_heads, interval=0.95).show()

# %% [markdown]
# ## Questions to take away
#
# 1. In the position map a cell of `resid_pre` at the last position has a normalised effect near 1. Why is that no
#    finding about that layer?
# 2. A head is blue under denoising and white under noising. What does that say of the other heads?
# 3. The corrupt prompts here are other sentences of the same kind. What would zero ablation
#    (`corruption="zero", direction="noise"`) measure that this does not, and what would it get wrong?
