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
# # Circuits: find one, draw it, and say how sure you are
#
# Patching asks which *nodes* matter. A circuit asks which *edges* do: who reads what from whom. Every head,
# every MLP and the input write into the residual stream; every query, key, value and MLP reads from it, and so
# do the logits. A circuit is a set of such edges. All others are **cut**: their reader sees what the writer
# writes in some other run (here the corrupt prompt: *resample ablation*).
#
# Four steps: score the edges, choose a circuit, measure it on prompts that did not choose it, look at it.

# %%
import interp
from interp import circuits

model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n=32, seed=0)  # to find the circuit
fresh = interp.tasks.ioi(model, n=32, seed=1)  # to measure it
circuits.Graph.of(model), circuits.Graph.of(model).n_edges

# %% [markdown]
# ## First where the answer is known
#
# `reverse` has weights that were written by hand, so its circuit is known edge by edge. A method that does not
# find it there need not be tried elsewhere.
#
# **Predict:** cutting every edge by itself (`exact`) finds all of them. Will one gradient (`eap`) do?

# %%
from interp.tasks.handmade import some_inputs

reverse = interp.load("reverse")
inputs = some_inputs(reverse, "reverse", n=32)
truth = circuits.known("reverse", ablation="resample")
interp.plot.circuit(truth)

# %%
for method in ("exact", "eap", "eap-ig", "secant"):
    scores = circuits.score_edges(reverse, inputs, method=method, progress=False)
    areas = circuits.roc(scores, truth)["auroc"]
    print(f"{method:<7}", *(f"{name} {float(area):.3f}" for name, area in zip(areas["area"].values, areas)))

# %% [markdown]
# **What to see.** `exact` finds them all (rank AUROC 1), and so do the methods that look at the whole way from
# the clean to the corrupt run. One gradient at the clean run does not: four of the six edges have a slope of
# 0 there, although cutting any of them ruins the answer. The three areas differ even for the same
# ranking, since they join the points of the curve in different ways: say which one you report.
#
# ## Scores of every edge
#
# Now a trained model. Positive: the edge helps the answer.

# %%
scores = circuits.score_edges(model, task, method="eap-ig", progress=False)
curve = circuits.curve(model, fresh, scores, progress=False)
random = circuits.random_baseline(model, fresh, [5, 13, 26, 52, 131], progress=False)
interp.plot.curve(curve, random=random)

# %% [markdown]
# **What to see.** *Faithfulness* is 1 where the circuit alone does what the model does, and 0 where it does what
# a model with every edge cut does. A fifth of the edges is enough. The band is what random circuits of the same
# size reach; without it, no faithfulness says much.
#
# ## A circuit
#
# The 40 best edges, less those that lie on no path from the input to the logits.

# %%
circuit = circuits.prune(circuits.top(scores, 40))
interp.plot.circuit(circuit)

# %% [markdown]
# **What to see.** The head of layer 0 copies the repeated name through its value to the last token, the MLP of
# layer 0 works on it, and both go into the *queries* of layer 2, whose heads write the answer. The notebook on
# patching found the same nodes; the edges say how they are joined.
#
# ## How good, and how sure?
#
# | measure | question | a perfect circuit |
# |---|---|---|
# | `faithfulness` | does the circuit alone do it? | 1 |
# | `without` | does the rest of the model do it too? | 0 |
# | `incompleteness` | does it break where the model breaks? | 0 |
# | `minimality` | is each of its nodes needed? | not 0 |
#
# **Predict:** can a circuit be faithful and not complete?

# %%
measures = ("faithfulness", "completeness", "minimality")
found = circuits.evaluate(model, fresh, circuit, measures=measures, progress=False)
names = ("faithfulness", "low", "high", "mean_of_ratios", "without")
print(*(f"{name} {float(found[name][0]):.3f}" for name in names), sep="\n")
print("incompleteness", found["incompleteness"].values.round(3).tolist())
least = found["minimality"][0].dropna("node")
print("least needed:", least.sortby(abs(least))[:3].node.values.tolist())
{name: found.attrs[name] for name in ("ablation", "granularity", "direction", "metric")}

# %% [markdown]
# The last line belongs to every number about a circuit. With zero ablation in place of resample ablation the same
# edges have another faithfulness; a circuit belongs to the ablation that it was found with.

# %%
for ablation in ("resample", "mean", "zero"):
    value = circuits.evaluate(model, fresh, circuit, ablation=ablation, progress=False)
    print(f"{ablation:<9} {float(value['faithfulness'][0]):.3f}")

# %% [markdown]
# ## ACDC: decide edge by edge
#
# Scores rate each edge with all others in place. ACDC goes from the logits back and cuts every edge whose loss it
# can bear, with those cut before it gone. The threshold is in nats of KL.

# %%
small = circuits.acdc(model, task, threshold=0.03, progress=False)
print(small)
print("tried by a run:", small.provenance["decided_by_a_run"], "of", small.graph.n_edges)
interp.plot.circuit(small)

# %%
best = circuits.prune(circuits.top(scores, small.n_edges))
both = circuits.evaluate(model, fresh, [small, best], progress=False)
print(both["edges"].values, both["faithfulness"].values.round(3), both["kl"].mean("prompt").values.round(3))
circuits.compare(small, circuit).to_dataframe()

# %% [markdown]
# **What to see.** At about equal size, ACDC's circuit stays nearer to the model, in faithfulness and in KL. All of
# its edges are among those of the larger circuit: `compare` also says how likely that is by chance.
#
# ## Can it be refuted?
#
# Three hypotheses of Shi et al. (2024): circuit and model outdo each other equally often; what the rest of the model
# does is independent of what the model does; every edge matters more than edges added at random. A small `p` speaks
# against the circuit.

# %%
tests = circuits.hypothesis_tests(model, fresh, circuit, progress=False)
tests[["statistic", "p", "rejected"]].to_dataframe()

# %% [markdown]
# **What to see.** Independence is rejected, although `without` was 0 to two digits: the rest of the model does nothing
# on average, but the little that it does varies with what the model does. With enough prompts every circuit short of
# the whole model is refuted; what counts is by how much, and that is in the measures above.

# %% [markdown]
# ## Keep it
#
# The file has the layout of EAP-IG and the MIB benchmark. `interp circuit` does all of the above from a terminal and
# writes a page: `interp circuit tiny-ioi --task ioi --method acdc --threshold 0.03`.

# %%
path = small.save("circuit.json")
again = circuits.Circuit.load(path)
print((again.mask == small.mask).all().item(), again.provenance["method"])
interp.plot.circuit(again, colour="part", title="The same circuit: what a head reads as query, key and value")

# %% [markdown]
# ## Questions to take away
#
# 1. Two heads that can stand in for each other: what does `exact` say of each, and what does ACDC keep?
# 2. Why must the prompts that measure a circuit be others than those that chose it?
# 3. A circuit has faithfulness 1.1. What might it lack?
