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
# # A real model, taken apart
#
# `SmolLM2-135M-Instruct` answers *When Mary and John went to the store, John gave a book to* with *Mary*. Which heads
# do that, what do they look at, and who tells them where to look? Wang et al. (2022, arXiv:2211.00593) asked this of
# GPT-2 small and found *name movers*, which look at the right name and copy it. Here the same questions take a few
# minutes on a laptop's processor.
#
# This is the walk, with eight prompts. The figures with intervals, and tests on prompts that chose nothing, are in
# [docs/smollm2-ioi.md](../docs/smollm2-ioi.md).
#
# The model is fetched once: `interp models get smollm2-135m` (93 MB).

# %%
import interp
from interp import circuits, heads, stats

model = interp.load("smollm2-135m")
task = interp.tasks.ioi(model, n=8, seed=1, template=0)
print(task.check(model))

# %% [markdown]
# Prompts come in mirrored pairs: the corrupt prompt of one is the clean prompt of the other. Eight prompts are four
# independent ones.
#
# ## Which heads?
#
# Every head's output from the clean prompt, put into the run on the corrupt one: 270 exact runs a prompt.
#
# **Predict:** how many of 270 heads matter? In which layers?

# %%
effects = interp.patch(model, task, "z", progress=False)
interp.plot.bars(effects, top=14)

# %% [markdown]
# **What to see.** A handful, nearly all above layer 16, and not all of them help: negative heads make up a good
# part of it, as in GPT-2. With four independent prompts nothing can be significant: p is at least 1/8, however large an
# effect looks. The page has twelve in each half.

# %%
print(stats.summary(effects))

# %% [markdown]
# ## What do they look at?
#
# From the last token, where the answer is read: attention to the right name `io`, to the other name's two mentions
# `s1` and `s2`. A name mover looks at `io` and copies.
#
# **Predict:** does the head with the largest effect look at `io`?

# %%
roles = heads.roles(model, task)
interp.plot.bars(roles.sel(score="name_mover"), top=10)

# %%
subject = heads.roles(model, task, io="s2", s1="io", s2="s1")  # what is done with the other name
seen = heads.attention(model, task, dst="end", src=["io", "s1", "s2"])["value"].mean("prompt").squeeze("dst")
direct = roles["direct"].mean("prompt")
print("head    direct   io   s1   s2   copies io, lowers io, lowers s")
for name in heads.top(abs(direct).rename("value").to_dataset(), 8):
    layer, head = (int(part) for part in name[1:].split("H"))
    at = {"layer": layer, "head": head}
    looks = " ".join(f"{float(v):4.2f}" for v in seen.sel(at))
    signs = (roles["copies"], roles["suppresses"], subject["suppresses"])
    shares = "  ".join(f"{float(each.sel(at).mean()):9.0%}" for each in signs)
    print(f"{name:<7}{float(direct.sel(at)):+7.2f}  {looks} {shares}")

# %% [markdown]
# **What to see.** The largest head is no name mover. It looks at the *second mention of the subject* and lowers that
# name, which is as good as raising the other one: a logit difference has two ends. A search by attention to `io`
# would miss it. The name movers are there too, smaller, in the same layer.
#
# ## Who tells them where to look?
#
# Path patching: a head's output is exchanged, and only the *query* of the receiver sees it.
#
# **Predict:** are the senders in the same layer, just below, or far below?

# %%
receivers = ["L23H3.q", "L23H0.q"]
paths = interp.path_patch(model, task, "heads", receivers, receiver_positions="end", progress=False)
interp.plot.bars(paths, top=10)

# %%
for receiver in receivers:
    feeders = heads.top(paths.sel(receiver=receiver), 3)
    print(receiver, "hears", feeders, paths["value"].sel(receiver=receiver).mean("prompt").max().values.round(2))

# %% [markdown]
# **What to see.** L20H0, which looks at `s2`, tells the name mover where to look, as S-inhibition heads do in GPT-2. Nobody
# tells the suppressor's query: what makes it look at `s2` comes by other ways.
#
# ## Who steps in?

# %%
out = heads.backup(model, task, ["L23H3", "L23H0", "L23H2"], progress=False)
print(f"direct effect {float(out['direct_effect'].mean()):.2f}, total effect {float(out['total_effect'].mean()):.2f}")
interp.plot.bars(out.sel(norm="frozen"), top=10)

# %% [markdown]
# ## Together: a circuit
#
# Scores of all 70,651 edges from a few gradients, the best 200 of them, and what they do alone on prompts that did not
# choose them.

# %%
scores = circuits.score_edges(model, task, method="eap", progress=False)
circuit = circuits.prune(circuits.top(scores, 200))
fresh = interp.tasks.ioi(model, n=8, seed=2, template=0)
judged = circuits.evaluate(model, fresh, circuit, progress=False)
print(circuit.n_edges, "edges; faithfulness", judged["faithfulness"].values.round(2))
interp.plot.circuit(circuits.prune(circuits.top(scores, 40)))

# %% [markdown]
# **What to see.** A hundred and fifty edges of seventy thousand, by the cheapest of scores and from eight prompts, do a third of
# the task. How far better scores and more edges get, beside random circuits of the same size, and what three tests of hypotheses say, is on [the page](../docs/smollm2-ioi.md).
