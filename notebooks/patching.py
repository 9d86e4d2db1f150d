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
aligned = interp.tasks.ioi(model, n=64, seed=0, template=1)
sites = ("resid_pre", "attn_out", "mlp_out")
print(interp.plan("patch", model, aligned, sites))

# %% [markdown]
# **Predict first.** `resid_pre` at layer 0 is the token embedding. Which of its cells can have any effect? In the last
# layers, at which position must the information be? Where does it move from the one to the other, and is it attention
# or an MLP that moves it?

# %%
stream = interp.patch(model, aligned, sites, progress=False)
interp.plot.positions(stream, interval=0.95)

# %% [markdown]
# **What to see** (tiny-ioi). Before layer 0 only the repeated name differs, so only its cell can matter. After layer 0 the
# whole effect is at the last token: the information has moved, in one layer. `attn_out` of layer 0 at the last token
# shows who moved it; a position cannot send to another through an MLP. The MLP of layer 0 then works on it in place,
# and attention in layer 2 writes the answer. A cell of `resid_pre` with the whole effect is a place on the way, not
# a cause by itself: everything that is known there passes through it.

# %% [markdown]
# ## By head
#
# Now which heads. This sweep patches the output `z` of each head at all positions, so prompts of all templates can be
# used together.
#
# **Predict:** how many of the heads matter? Is one layer enough?

# %%
heads = interp.patch(model, task, "z", progress=False)
interp.plot.heads(heads, interval=0.95)

# %% [markdown]
# **What to see** (tiny-ioi). One head of layer 0 has by far the largest effect, all four heads of layer 2 share the rest,
# and layer 1 does next to nothing.
#
# ## Two directions
#
# *Denoising* (clean into corrupt, above) asks what is **sufficient** to bring the answer back. *Noising* (corrupt into
# clean) asks what is **necessary**. The effect is positive where the head helps, in both.

# %%
noised = interp.patch(model, task, "z", direction="noise", progress=False)
gap = noised["value"].mean("prompt") - heads["value"].mean("prompt")
print("largest difference between the two maps:", float(abs(gap).max()))

# %% [markdown]
# Not similar: the same. Prompts come in mirrored pairs here, the corrupt prompt of one is the clean prompt of the other,
# so noising one *is* denoising its twin. To tell the directions apart, the corrupt prompts must be of another kind:
# below, a third name takes the place of the repeated one, and neither of the two is the answer.

# %%
third = task.clean.clone()
third[range(len(task)), task.first_difference] = task.answer.roll(2)  # a name from two prompts earlier
unlike = interp.Task.from_tokens(
    clean=task.clean, corrupt=third, answer=task.answer, wrong=task.wrong,
    positions=task.positions, lengths=task.lengths, template=task.template, name="ioi, third name",
)
both = {way: interp.patch(model, unlike, "z", direction=way, progress=False) for way in ("denoise", "noise")}
print(*(f"{way}\n{result['value'].mean('prompt').values.round(2)}" for way, result in both.items()), sep="\n")

# %% [markdown]
# **What to see** (tiny-ioi). The two still agree: what is sufficient is also necessary, so the heads work one after the
# other, with nothing in reserve. In GPT-2 they differ. When its name movers are noised, other heads do their work (the
# *backup* name movers of the paper), and noising alone would call the name movers unimportant.

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
# **What to see** (tiny-ioi). The heads of layer 2 matter through `q`, and equally through `pattern`: they carry whatever
# name they look at, and patching makes them look at the other one. The head of layer 0 matters through `v`: it looks at
# the same place in both runs, where another name stands. So it tells the last token which name was repeated, and layer 2
# looks for the name that was not.
#
# Patching says *that* a head matters through its pattern. Looking at the pattern says what it is. The model is an
# ordinary TransformerLens model, so all of its own tools work on it.

# %%
means = interp.stats.mean(heads)["value"].stack(cell=("layer", "head"))
largest = means.isel(cell=abs(means).argsort().values[::-1][:3])
_, cache = model.run_with_cache(task.clean[:1])
for layer, head in largest["cell"].values:
    row = cache["pattern", layer][0, head, task.positions[0]]  # attention of the last token
    seen = [f"{task.labels[0][pos]!r} {row[pos]:.2f}" for pos in row.argsort(descending=True)[:3]]
    print(f"L{layer}H{head} looks at", ", ".join(seen))

# %% [markdown]
# ## Cells of your own
#
# Instead of a grid, `cells=` takes names; names in an inner list are patched together. Here the three heads with the
# largest effects, and two pairs of them.
#
# **Predict:** how large is the effect of two heads together, if they work side by side? If one of them reads what the
# other writes? If each can stand in for the other?

# %%
a, b, c = largest["head_name"].values
pairs = interp.patch(model, task, cells=[a, b, c, [a, b], [b, c]], progress=False)
interp.plot.bars(pairs)

# %% [markdown]
# **What to see** (tiny-ioi). The two heads of layer 2 add up: they work side by side. The head of layer 0 and one of
# layer 2 have no more effect together than the first alone: they are in series, and once the first is patched, the
# second already has its clean value. Under denoising, more than the sum means that both are needed (AND).

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
# 1. A head is blue under denoising and white under noising. What does that say of the other heads?
# 2. Why does the last token already hold the repeated name after layer 0, but the answer only after layer 2?
# 3. The corrupt prompts here are other sentences of the same kind. What would zero ablation
#    (`ablation="zero", direction="noise"`) measure that this does not, and what would it get wrong?
