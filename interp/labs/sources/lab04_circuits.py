# %% [markdown]
# # Lab 04 · Circuits: the least that does it
#
# **Which connections inside a model are enough to do its task?**
#
# Patching asks which parts matter. A *circuit* asks which connections do: who reads what from whom. You will cut one
# connection by hand, search for the smallest circuit of a model whose circuit is known, and meet a model on which every
# search by single cuts is blind.
#
# You need PyTorch and 45 minutes. No network.

# %% [teacher]
# **Minutes**: reading and first prediction 6 · `cut_edge` 7 · `acdc` 12 · `faithfulness` 7 · `chance` 6 · the spare 5 ·
# closing 2.
#
# **Common mistakes**: cutting the writer for all its readers; comparing every cut with the whole model instead of with the
# circuit so far; faithfulness as a mean of ratios; a chance of 0 out of finitely many draws.

# %%
import torch

import interp
from interp import circuits
from interp.labs import check

SEED = 0  # your own inputs
reverse = interp.load("reverse")
task = interp.tasks.handmade.reverse(reverse, n=16, seed=SEED)
fresh = interp.tasks.handmade.reverse(reverse, n=16, seed=SEED + 1000)
print(reverse.tokenizer.decode(task.clean[0]), "→", reverse.tokenizer.decode(task.answer[:1]))
graph = circuits.Graph.of(reverse)
print(graph, "with", graph.n_edges, "edges")

# %% [markdown]
# The weights of `reverse` were written by hand: it says a sequence backwards, and its circuit is known. An *edge* goes from a
# writer (the input, a head, an MLP) to a reader (a query, key or value, an MLP, the logits).
#
# ## 1. Cut one edge
#
# Every reader sees the sum of what all writers before it wrote. Cutting an edge changes what *this* reader sees: the
# writer's part is taken out and its part from the corrupt run is put in. All other readers see what they saw.

# %% [exercise] cut_edge
def cut_edge(seen, writes, corrupt_writes, reader, writer):
    """What each reader sees when the edge from writer to reader is cut; `seen` itself stays as it is.

    seen [reader, d]; writes, corrupt_writes [writer, d]; reader, writer: numbers → [reader, d]
    """
    raise NotImplementedError("clone seen; then change row `reader` only: minus writes[writer], plus corrupt_writes[writer]")


# %% [solution] cut_edge
def cut_edge(seen, writes, corrupt_writes, reader, writer):
    cut = seen.clone()
    cut[reader] += corrupt_writes[writer] - writes[writer]
    return cut


# %%
check.cut_edge(cut_edge)

# %% [predict] how_many
# This model has three layers with a head and an MLP each. How many of its edges does it need?
# "a": fewer than ten   "b": about half   "c": nearly all
how_many = None

# %% [answer] how_many
how_many = "a"
# Six of 46: see the known circuit below.

# %% [markdown]
# ## 2. ACDC
#
# The simplest search: go through the edges from the logits back. Cut one more; if the answers suffer by less than a
# threshold *compared with the circuit so far*, leave it cut. This cell gives you the damage of any set of kept edges.

# %%
edges = [f"{graph.writers[w]}->{graph.readers[r]}" for r, w in graph.allowed.T.nonzero().flip(0).tolist()]


def damage(kept, model=reverse, on=task):
    """How far the circuit's answers are from the model's, in nats (KL). kept: a set of names of edges."""
    circuit = circuits.Circuit.from_edges(circuits.Graph.of(model), kept)
    return float(circuits.run(model, on, [circuit], metric="kl", progress=False)["raw"].mean())


print(edges[:3], "...", f"all kept: {damage(set(edges)):.3f}", f"none: {damage(set()):.3f}")

# %% [exercise] acdc
def acdc(edges, damage, threshold):
    """The set of edges that is kept when each edge is cut in turn, and put back if that costs the threshold or more.

    edges: names, in the order in which they are tried; damage(set of kept names) → nats
    """
    raise NotImplementedError("keep a set and its damage; try = kept - {edge}; compare damage(try) with the damage so far")


# %% [solution] acdc
def acdc(edges, damage, threshold):
    kept = set(edges)
    now = damage(kept)
    for edge in edges:
        after = damage(kept - {edge})
        if after - now < threshold:
            kept, now = kept - {edge}, after
    return kept


# %%
check.acdc(acdc)

# %%
kept = acdc(edges, damage, 0.01)
truth = set(circuits.known("reverse", ablation="resample").edges())
print(len(kept), "edges:", *(f"\n  {edge}" for edge in sorted(kept)))
print("the known circuit, edge by edge:", kept == truth)
interp.plot.circuit(circuits.Circuit.from_edges(graph, kept))

# %% [markdown]
# > **Nearly all edges kept?** Look at which way your comparison goes. **None kept?** The threshold is in nats; all edges
# > together are worth about ten.
#
# ## 3. How good is a circuit?
#
# *Faithfulness*: 1 where the circuit does what the model does, 0 where it does what a model with all edges cut does. On
# prompts that did not choose it. Means first, one ratio.

# %% [exercise] faithfulness
def faithfulness(circuit, model, empty):
    """The share of the model's metric that the circuit keeps: a ratio of means over prompts.

    circuit, model, empty [prompt]: the metric of the circuit, of the model, of nothing → a number
    """
    raise NotImplementedError("(circuit - empty).mean() over (model - empty).mean(), as a float")


# %% [solution] faithfulness
def faithfulness(circuit, model, empty):
    return float((circuit - empty).mean() / (model - empty).mean())


# %%
check.faithfulness(faithfulness)

# %%
def measured(kept, model, on):
    """The metric of circuit, model and nothing, [prompt] each."""
    circuit = circuits.Circuit.from_edges(circuits.Graph.of(model), kept)
    run = circuits.run(model, on, [circuit], progress=False)
    return [torch.tensor(values) for values in (run["raw"].values[:, 0], run["clean"].values, run["empty"].values)]


print(f"all six edges: {faithfulness(*measured(kept, reverse, fresh)):.3f}")
without = {edge: faithfulness(*measured(kept - {edge}, reverse, fresh)) for edge in sorted(kept)}
for edge, value in without.items():
    print(f"  without {edge:18} {value:.3f}")

# %% [markdown]
# ## 4. Better than chance?
#
# On a trained model nothing is exact, and any circuit of that size may look good. Compare with random circuits of as many
# edges: how often do they reach it? Count the circuit itself as one of the draws, so that the chance is never 0.

# %% [exercise] chance
def chance(value, random):
    """The share of circuits that are at least as faithful, the circuit itself included: (1 + how many) / (1 + draws).

    value: a number; random [draw] → a number
    """
    raise NotImplementedError("(random >= value).sum() counts them")


# %% [solution] chance
def chance(value, random):
    return float((1 + (random >= value).sum()) / (1 + len(random)))


# %%
check.chance(chance)

# %%
model = interp.load("tiny-ioi")
ioi, other = (interp.tasks.ioi(model, n=16, seed=SEED + extra) for extra in (0, 1000))
small = circuits.acdc(model, ioi, threshold=0.05, progress=False)
names = circuits.Circuit(small.graph, small.graph.allowed).edges()
draw = torch.Generator().manual_seed(SEED)
randoms = [{names[i] for i in torch.randperm(len(names), generator=draw)[: small.n_edges]} for _ in range(19)]
value = faithfulness(*measured(set(small.edges()), model, other))
reached = torch.tensor([faithfulness(*measured(edges, model, other)) for edges in randoms])
print(small)
print(f"faithfulness {value:.3f}   best of 19 random circuits {reached.max():.3f}   p = {chance(value, reached):.2f}")

# %% [markdown]
# ## A model with a spare
#
# `or-gate` answers with a colour if *either* of two heads carries it. In these prompts both do.

# %% [predict] single_cuts
# How many of the two heads' edges show any damage when they are cut one at a time?
# "a": both heads'   "b": one head's   "c": none
single_cuts = None

# %% [answer] single_cuts
single_cuts = "c"
# With one cut the other head still carries the colour. Only cutting both loses it.

# %%
gate = interp.load("or-gate")
pairs = interp.tasks.or_gate(gate, n=16, seed=SEED)
gate_graph = circuits.Graph.of(gate)
gate_edges = [f"{gate_graph.writers[w]}->{gate_graph.readers[r]}" for r, w in gate_graph.allowed.T.nonzero().flip(0).tolist()]
gate_damage = lambda kept: damage(kept, gate, pairs)
for cut in ({"a0.h0->m0"}, {"a0.h1->m0"}, {"a0.h0->m0", "a0.h1->m0"}):
    print(f"cut {sorted(cut)}: damage {gate_damage(set(gate_edges) - cut):.3f}")
spare = acdc(gate_edges, gate_damage, 0.01)
print("ACDC keeps", sorted(spare))

# %% [markdown]
# ## Something is wrong here
#
# A friend cuts the edge from head `a0.h0` to the MLP of layer 0 in `tiny-ioi`. She zeroes nothing, she resamples, and her
# damage is larger than yours.

# %%
_, corrupt_cache = model.run_with_cache(ioi.corrupt)
swap = lambda z, hook: torch.cat([corrupt_cache[hook.name][:, :, :1], z[:, :, 1:]], 2)
rows = torch.arange(len(ioi))
score = lambda logits: (logits[rows, ioi.positions, ioi.answer] - logits[rows, ioi.positions, ioi.wrong]).mean().item()
hers = score(model(ioi.clean)) - score(model.run_with_hooks(ioi.clean, fwd_hooks=[("blocks.0.attn.hook_z", swap)]))
cut = measured(set(names) - {"a0.h0->m0"}, model, ioi)
print(f"hers {hers:.2f} logits, the edge alone {float((cut[1] - cut[0]).mean()):.2f}")

# %% [predict] bug
# "a": she changes what the head writes, for every reader and not for one   "b": she cuts the wrong head
# "c": resampling is always stronger
bug = None

# %% [answer] bug
bug = "a"
# Patching the head's output cuts all edges that leave it. An edge is what one reader sees of one writer.

# %% [markdown]
# ## What you found
#
# In one sentence: how many edges does `reverse` need, how do you know that each is needed, and what can no single cut see?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "Six edges are enough and each of them is needed; one cut at a time cannot see a spare."
