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
# # Features and readouts: what is in there, and does it matter?
#
# Patching says which *place* matters. Here we ask what is written there: by a sparse dictionary, by the model's own
# unembedding, and by probes. Each has a control beside it, because a readout finds something almost everywhere.
#
# Five steps: a dictionary and its report, a feature as a site, what each layer would say, probes, and a monitor.

# %%
import torch

import interp
from interp import lens, probes, sae

model = interp.load("tiny-world")
facts = interp.tasks.facts(model, n=32, seed=0)
print(model.to_string(facts.clean[0][: int(facts.lengths[0])]), "→", model.to_string(facts.answers[0]))

# %% [markdown]
# ## 1. Is the dictionary any good?
#
# 256 features of the stream in the middle of the model, of which 12 are on at a token. What it leaves out is kept beside the
# features as an error, everywhere below.
#
# **Predict:** how much of the variance do twelve features of 256 explain, and what does the model lose by them?

# %%
d = sae.load("tiny-world")
report = sae.report(model, d, facts)
print(report["estimate"].to_series().round(3).to_string())

# %% [markdown]
# **What to see.** `fvu` is the share of the variance that is lost (the beginning token left out: its norm alone would make any
# dictionary look perfect); `ce_rise` is the loss of the model itself in nats a token. The second is the one to look at: a small
# share of the variance can be the share that matters.
#
# ## 2. A feature is a site
#
# Every feature that differs between the two runs is patched, exactly, and so is the error.
#
# **Predict:** is the largest effect that of a feature, or of the error?

# %%
effects = interp.patch(model, facts, features=d, progress=False)
interp.plot.features(effects, top=12)

# %%
mean = abs(effects["value"].mean("prompt"))
index = [int(i) for i in effects["index"].values[mean.values.argsort()[::-1]] if i >= 0][:4]
said = lens.read(model, d.W_dec[torch.tensor(index)], top=5)
for number, tokens in zip(index, said["top_token"].values):
    print(f"feature {number:>3} raises", ", ".join(tokens))

# %% [markdown]
# **What to see.** The last row is the error, and it dwarfs every feature: what the dictionary leaves out is most of what this task needs,
# though it explains four fifths of the variance. A study that drops the error reports the features' effects as if they were the model's.
#
# ## 3. What would each layer say?
#
# The stream at every layer and token, through the final norm and the unembedding.
#
# **Predict:** at which layer does the answer come up at the last token?

# %%
seen = lens.logit(model, facts)
interp.plot.lens(seen)

# %%
interp.plot.lens(seen, at=-1)

# %%
tuned = lens.tuned(model, interp.tasks.facts(model, n=64, seed=1), progress=False)
through = lens.logit(model, facts, through=tuned)
print("KL(model ‖ layer) in nats   logit lens   tuned lens")
for layer in seen["layer"].values[:-1]:
    one, other = (float(each["kl"].sel(layer=layer).mean()) for each in (seen, through))
    print(f"layer {layer}                      {one:8.2f}   {other:8.2f}")

# %% [markdown]
# **What to see.** Early layers do not "know nothing": they write in another basis, and an affine map per layer reads much more out
# of them. But the map was trained to please the last layer, and part of what it gains says nothing of the prompt. The layer at
# which a lens finds the answer is a statement about the lens too.
#
# ## 4. Probes, with what they find where there is nothing
#
# Requests that the model refuses, and such that it answers.
#
# **Predict:** all prompts end in the same token. Which layer can tell them apart there?

# %%
asked = interp.tasks.requests(model, n=200, seed=0)
refused = asked.answers[:, 0] == model.to_single_token("sorry")
up, down = asked.clean[refused], asked.clean[~refused]
table = probes.table(model, up[:50], down[:50], ks=[1, 4], draws=5, progress=False)
print(table["value"].to_pandas().round(2).to_string())
print("\nshuffled labels, mean over draws")
print(table["shuffled"].mean("draw").to_pandas().round(2).to_string())

# %%
found, _ = probes.fit(model, up[:50], down[:50], draws=10, progress=False)
interp.plot.probes(found)

# %% [markdown]
# **What to see.** At layer 0 nothing can be known. At layer 1 the logistic probe knows what the mean difference does not: it is there, and
# other things vary more. At layer 3 a single coordinate does, and so do four random ones: by then it is everywhere.
#
# ## 5. A monitor with a threshold
#
# A probe that reads every token, a threshold that keeps a stated rate of false alarms on prompts that no fit saw, and what it
# does on a third part. Where it is unsure, the model itself can be asked.

# %%
_, monitor = probes.fit(model, up[:40], down[:40], layer=2, agg="multimax", draws=1, progress=False)
calm = probes.stream(model, down[40:70], monitor)["highest"].values[:, 0]
theta = probes.thresholds.threshold(calm, rate=0.1)
rest = [probes.stream(model, side, monitor)["highest"].values[:, 0] for side in (up[40:], down[70:])]
print(probes.thresholds.operating(theta, *rest, prevalence=0.01)[["value", "low", "high", "n"]].to_pandas().round(2))

# %%
scores = probes.stream(model, torch.cat((up[40:], down[70:])), monitor)["last"].values[:, 0]
labels = [1] * len(up[40:]) + [0] * len(down[70:])
p = torch.sigmoid(torch.tensor(scores)).tolist()
interp.plot.reliability(probes.reliability(p, labels, bins=5))

# %%
_, cheap = probes.fit(model, up[:4], down[:4], layer=1, draws=1, progress=False)
ask = probes.Question("sorry", "sure")
parts = {"calibrate": (up[30:60], down[30:60]), "rate": 0.05}
verdicts = probes.cascade(model, up[60:], down[60:], cheap, ask, **parts)
print(verdicts[["value", "asked", "cost"]].to_pandas()[["value", "asked", "cost"]].round(2))

# %% [markdown]
# **What to see.** The threshold keeps its rate, with an interval as wide as so few prompts allow. A monitor's probabilities need a
# check of their own (the band is what right ones would show). And a cascade is only worth its name if it beats `random`, which asks
# about as many prompts, drawn by lot: then the probe knows where it is unsure. Eight prompts make so poor a probe at layer 1 that it
# asks nearly always; fit it on more, or at layer 2, and see what is asked, and what is still wrong.
