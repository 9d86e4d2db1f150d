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

# %% [markdown]
# # Steering: push a model, and say what it cost
#
# Patching and circuits ask where a behaviour is. Steering uses the answer: find a direction in the residual stream,
# add it while the model runs, and see what the model says. That is easy. The hard part is to know whether it was *this*
# direction that did it, and what else was broken.
#
# Six steps: find a direction, sweep, compare with controls, compare at equal cost, generate, and other edits.

# %%
import torch

import interp
from interp import positions, probes, steering
from interp.tasks import KL, LogitDiff, Task

model = interp.load("tiny-world")
train = interp.tasks.sentiment(model, n=96, seed=0, held_out=False)  # what the model was trained on
other = interp.tasks.sentiment(model, n=48, seed=1)  # what was held out of its training
model.to_string(train.clean[0]), model.to_string(train.corrupt[0])

# %% [markdown]
# Each pair of prompts is one review in two sentiments. `up` holds the positive side, `down` the same reviews negative.
# What is steered later are the *negative* held-out reviews, and their answers are now the positive words.

# %%
wonderful = model.to_single_token("wonderful")
good = lambda task: (task.answers == wonderful).any(1)
up, down = (train[rows.nonzero().flatten()] for rows in (good(train), ~good(train)))

bright, dull = (other[rows.nonzero().flatten()] for rows in (good(other), ~good(other)))
task = Task.from_tokens(
    clean=dull.clean,
    corrupt=dull.corrupt,
    answer=dull.wrongs,
    wrong=dull.answers,
    lengths=dull.lengths,
    positions=dull.positions,
)
len(up), len(down), len(task)

# %% [markdown]
# ## 1. Is it there?
#
# A linear probe at the last token of each layer, tested on the held-out prompts, beside the same probe on shuffled
# labels. **Predict:** both prompts of a pair end in the same words. What can a probe at layer 0 know?

# %%
found, _ = probes.fit(model, up, down, held_out=(bright, dull), progress=False)
interp.plot.probes(found)

# %% [markdown]
# **What to see.** At layer 0 the last token has seen nothing: the probe is at chance. Attention brings the sentiment
# there. That a probe can read something does not mean that the model uses it; so we push.
#
# (Why prompts of their own for the test? Were the pairs split at random, the twin of a test prompt would often be a
# training prompt with the other label and, at layer 0, the same activations: the probe would do *worse* than chance.)
#
# ## 2. A direction, and what it says
#
# The difference of the means of both classes, at each layer. Its length is the gap between the classes, so adding it
# once moves the mean of one class to that of the other. Through the unembedding it can be read as words.

# %%
direction = steering.mean_difference(model, up, down, layer=[1, 2, 3])
for part in direction.split():
    print(part.place, [word for word, _ in part.top_tokens(model, 6)])

# %% [markdown]
# ## 3. Sweep: effect beside cost
#
# Every layer and coefficient, on all held-out prompts. *Effect* is the change of the logit difference, good words minus
# bad words. *KL* is how far the prediction of the next token moved. The last panel is the perplexity of stories
# that have nothing to do with reviews.

# %%
stories = [
    "One day, Mary went to the park. She found a red ball.",
    "John and Kate were at the store. They had fun.",
    "The river was quiet. Tom was tired and Anna went home.",
]
coefficients = [-2, -1, -0.5, 0, 0.5, 1, 2]
options = {"metric": [LogitDiff(), KL()], "neutral": stories, "progress": False}
swept = steering.sweep(model, direction, task, coefficients, **options)
interp.plot.steering(swept)

# %% [markdown]
# **What to see.** The same coefficient does much at layer 3 and next to nothing before: at the last token the classes
# hardly differ there, so the vector is short. Coefficients cannot be compared across layers, methods or models. The
# KL grows much faster than the effect.
#
# ## 4. Against controls
#
# One layer, with the spread over prompts and two controls of equal length: a random direction, and the same method on
# shuffled labels.

# %%
interp.plot.steering(swept.sel(layer=[3]), title="Layer 3, with controls of equal length")

# %%
slopes = steering.measures.steerability(swept, "logit_diff")
slopes[["mean", "sd", "wrong", "wrong_random", "wrong_shuffled"]].round(2).to_dataframe()

# %% [markdown]
# `wrong` is the share of prompts whose slope has the wrong sign. A mean can look fine while many of the prompts are
# pushed the wrong way; look at it for every direction.
#
# ## 5. At equal cost
#
# A control of equal *length* often changes nothing at all, and then it is easy to beat. Compare at equal KL: give each
# direction the coefficient at which it moves the next-token distribution by 0.2 nats.
#
# **Predict:** what will a random direction do to the logit difference at 0.2 nats?

# %%


def at_equal_kl(part, target=0.2):
    c = steering.calibrate(model, part, task, target).coefficient
    result = steering.sweep(model, part, task, [c], metric=LogitDiff(), with_controls=False, progress=False)
    return c, float(result["value"].mean())


effects = {}
for make in (steering.mean_difference, steering.lda, steering.logistic):
    part = make(model, up, down, layer=3)
    effects[part.method] = at_equal_kl(part)
for seed in range(4):
    effects[f"random {seed}"] = at_equal_kl(
        steering.controls([direction.at("L3.resid_pre")], seed)["random"][0]
    )
for name, (c, effect) in effects.items():
    print(f"{name:<16} coefficient {c:6.2f}   effect {effect:5.2f} logits")

# %% [markdown]
# **What to see.** `lda` tells the classes apart and hardly moves the answer. Random directions are not at 0. The model is sure of its bad words, and almost anything that makes it
# less sure brings the good words nearer. Four draws are too few to say how far a random direction can get; the study in
# docs/steering.md takes twenty of each control and asks for more than their 95 % quantile.
#
# ## 6. What it writes
#
# Base, steered, and both controls, each at 2 nats: enough to turn the answer over.

# %%
at_three = steering.mean_difference(model, up, down, layer=3)
wrote = steering.side_by_side(model, task[:3], at_three, target_kl=2.0, max_new_tokens=12)
for prompt in range(3):
    print(wrote.prompt_text.values[prompt])
    for run in wrote.run.values:
        print(f"   {run:<9} {str(wrote.text.sel(run=run).values[prompt]).strip()}")

# %% [markdown]
# **What to see.** Steered, the review turns and goes on in its new mood. The controls spend the same two nats on words
# that fit nowhere.
#
# ## The right token
#
# `generated` steers from the last prompt token on: that token makes the first new one. Positions are absolute, so a
# key-value cache changes nothing. Libraries that count positions within the running pass steer every token, or
# none, once a cache is on.

# %%
edit = steering.add(at_three, 2.0, when=positions.generated)
cached, uncached = (
    steering.generate(model, task[:8], edit, max_new_tokens=16, use_cache=use) for use in (True, False)
)
torch.equal(cached, uncached)

# %% [markdown]
# ## Other edits: turn, or take away
#
# Adding makes activations longer. A rotation keeps their length: in the plane of the mean negative activation and the
# direction, by an angle.

# %%
start = steering.activations(model, down, "L3.resid_pre", agg="mean")
plane = steering.Direction.from_tensor(start.float(), layer=3)
turn = lambda part, angle: steering.rotate(plane, part, angle)
angles = [0.0, 0.2, 0.4, 0.6, 0.8, 1.0, 1.2, 1.4]
turned = steering.sweep(model, at_three, task, angles, intervene=turn, **options)
interp.plot.steering(turned, title="Layer 3, turned by an angle in radians")

# %% [markdown]
# **What to see.** The stories hardly notice: their activations have little in this plane, so a rotation leaves them
# alone, where an addition moves every token alike.
#
# Refusal, next. Take away its direction everywhere in the stream, by a growing share.

# %%
asked = interp.tasks.requests(model, n=96, seed=0, held_out=False)
sorry = model.to_single_token("sorry")
harmful = (asked.answers == sorry).any(1)
refusal = steering.mean_difference(
    model, *(asked[rows.nonzero().flatten()] for rows in (harmful, ~harmful)), layer=3
)
new = interp.tasks.requests(model, n=48, seed=1)
refused = new[(new.answers == sorry).any(1).nonzero().flatten()]

everywhere = steering.writers(interp.models.anatomy(model))
remove = lambda part, share: steering.ablate(part.spread(everywhere), share)
shares = [0, 0.2, 0.4, 0.6, 0.8, 1.0]
removed = steering.sweep(model, refusal, refused, shares, intervene=remove, **options)
interp.plot.steering(removed, title="Refusal: a share of the direction taken away everywhere")

# %%
gone = (removed["raw"].sel(metric="logit_diff", coefficient=1.0) < 0).mean("prompt")
print("harmful requests answered after ablation:", float(gone[0]))
random_raw = removed["clean"] + removed["random"]
random_gone = (random_raw.sel(metric="logit_diff", coefficient=1.0) < 0).mean("prompt")
print("after ablation of a random direction:   ", float(random_gone[0]))

# %% [markdown]
# ## Keep it
#
# A direction is a file that knows its model, site and method. `bake` folds an edit into the weights, and puts the old
# ones back at the end of the block. `interp steer` does all of this from a terminal.

# %%
path = at_three.save("sentiment.safetensors")
again = steering.Direction.load(path, model)
with steering.bake(model, remove(refusal, 1.0)):
    baked = model(refused.clean)
with steering.steer(model, remove(refusal, 1.0)):
    hooked = model(refused.clean)
torch.equal(again.vector, at_three.vector), float((baked - hooked).detach().abs().max())

# %% [markdown]
# ## Questions to take away
#
# 1. A direction has an effect of 5 logits at 2 nats, a random one 4 at 0.02. Which is better?
# 2. Why is a probe's accuracy no evidence that a direction steers?
# 3. Where would you steer if the prompt's own tokens must not change?
