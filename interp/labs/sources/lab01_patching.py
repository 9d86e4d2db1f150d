# %% [markdown]
# # Lab 01 · Patching: which activation matters?
#
# **A model reads a sentence and says the right name. Where inside it is that name?**
#
# You will run a model on two sentences that differ in one word, and carry single activations from one run into the
# other. When the answer comes back, you have carried something that matters. By the end you have a map of the model
# that you made yourself, and one sentence about it.
#
# You need PyTorch and 45 minutes. The model is small and sits on this disk; nothing is downloaded.

# %% [teacher]
# **Minutes**: reading and first prediction 5 · `logit_diff` 8 · `put_clean` 8 · `sweep` 8 · the map 6 · `normalised` 5 ·
# the broken map 5 · closing 3.
#
# **Common mistakes**: a mean over prompts too early (then nothing can have an interval); reading the last column of a
# padded batch; changing the cache in place, after which every later patch is wrong without an error; `clean` as the base
# run. Each has its own message in the check.
#
# Students who finish early: `interp.patch(model, task, "z")` is the same map by head. Which heads move the name?

# %%
import torch

import interp
from interp.labs import check

SEED = 0  # your own sentences
model = interp.load("tiny-ioi")
task = interp.tasks.ioi(model, n=32, seed=SEED, template=SEED % 12)
for name, tokens in (("clean", task.clean), ("corrupt", task.corrupt)):
    print(f"{name:<8}", model.tokenizer.decode(tokens[0]))
print("answer  ", model.tokenizer.decode(task.answer[:1]), "  wrong", model.tokenizer.decode(task.wrong[:1]))

# %% [markdown]
# In the clean sentence one name comes twice, so the *other* name is the answer. The corrupt sentence says the other name
# twice: same words, one exchanged, and now the answer is wrong.
#
# ## Predict first
#
# The *residual stream* is one vector a token, which every layer reads and adds to. Before layer 0 it is just the word.
# At which token will the layer-0 stream matter, when we carry it from the clean run into the corrupt one?

# %% [predict] before_layer_0
# "a": the first name   "b": the word that differs   "c": the last word, where the answer is said
before_layer_0 = None

# %% [answer] before_layer_0
before_layer_0 = "b"
# All other tokens are the same in both sentences, so carrying them carries nothing.

# %% [markdown]
# ## 1. A number for "the answer is right"
#
# `logits` has a score for every word of the vocabulary, at every token: `[prompt, token, word]`. The prediction stands at
# the token before the answer, `positions[i]` for prompt i. Prompts may be padded, so that is not always the last column.

# %% [exercise] logit_diff
def logit_diff(logits, answer, wrong, positions):
    """The logit of the answer minus the logit of the wrong name, for each prompt.

    logits [prompt, token, word]; answer, wrong, positions [prompt] → [prompt]
    """
    raise NotImplementedError("rows = torch.arange(len(answer)); then index logits with three tensors at once")


# %% [solution] logit_diff
def logit_diff(logits, answer, wrong, positions):
    rows = torch.arange(len(answer))
    return logits[rows, positions, answer] - logits[rows, positions, wrong]


# %%
check.logit_diff(logit_diff)

# %% [markdown]
# Now both runs. Positive: the model says the right name.

# %%
clean_logits, clean_cache = model.run_with_cache(task.clean)
corrupt_logits = model(task.corrupt)
clean = logit_diff(clean_logits, task.answer, task.wrong, task.positions).detach()
corrupt = logit_diff(corrupt_logits, task.answer, task.wrong, task.positions).detach()
print(f"clean {clean.mean():.2f}   corrupt {corrupt.mean():.2f}")

# %% [markdown]
# ## 2. One patch
#
# During the corrupt run, a *hook* gets the activation of one layer, `value` `[prompt, token, d]`, and may hand back
# another one. Hand back the corrupt activation with one token's vector taken from the clean run. The `clean` tensor is
# the cache that all later patches use: leave it as it is.

# %% [exercise] put_clean
def put_clean(value, clean, pos):
    """The corrupt activation with token `pos` taken from the clean run.

    value, clean [prompt, token, d]; pos a number → [prompt, token, d]
    """
    raise NotImplementedError("clone value, then assign to [:, pos]")


# %% [solution] put_clean
def put_clean(value, clean, pos):
    patched = value.clone()
    patched[:, pos] = clean[:, pos]
    return patched


# %%
check.put_clean(put_clean)

# %% [markdown]
# ## 3. All of them
#
# This cell does the plumbing: one forward pass with one patch. It counts the passes, for later.

# %%
forwards = 0


def run_patched(layer, pos):
    """The logit difference of the corrupt run with one activation from the clean run, [prompt]."""
    global forwards
    forwards += 1
    name = f"blocks.{layer}.hook_resid_pre"
    hook = lambda value, hook: put_clean(value, clean_cache[name], pos)
    logits = model.run_with_hooks(task.corrupt, fwd_hooks=[(name, hook)])
    return logit_diff(logits, task.answer, task.wrong, task.positions).detach()


# %% [markdown]
# The *effect* of a patch is how much it changes the corrupt run: patched minus corrupt. Positive means that it helps.

# %% [exercise] sweep
def sweep(run_patched, corrupt, n_layers, n_tokens):
    """The effect of every patch, on every prompt.

    run_patched(layer, pos) → [prompt]; corrupt [prompt] → [layer, token, prompt]
    """
    raise NotImplementedError("two loops, one inside the other; torch.stack for each")


# %% [solution] sweep
def sweep(run_patched, corrupt, n_layers, n_tokens):
    layers = range(n_layers)
    return torch.stack(
        [torch.stack([run_patched(layer, pos) - corrupt for pos in range(n_tokens)]) for layer in layers]
    )


# %%
check.sweep(sweep)

# %% [predict] after_layer_0
# After layer 0, where will the effect be?
# "a": still at the word that differs   "b": spread over the tokens in between   "c": at the last token
after_layer_0 = None

# %% [answer] after_layer_0
after_layer_0 = "c"
# One head of layer 0 reads the repeated name and writes it at the last token: the name moves in one layer.

# %%
n_layers, n_tokens = model.cfg.n_layers, task.clean.shape[1]
effects = sweep(run_patched, corrupt, n_layers, n_tokens)
words = [model.tokenizer.decode(token) for token in task.clean[0]]
print(" " * 14 + "  ".join(f"layer {layer}" for layer in range(n_layers)))
for pos, word in enumerate(words):
    print(f"{word:>12}  " + "  ".join(f"{effects[layer, pos].mean():7.2f}" for layer in range(n_layers)))

# %% [markdown]
# > **My map is all zeros?** Then the hook hands back what it got. **All one colour?** Read on: that is the bug below.
#
# ## 4. In units of the whole
#
# Are ten logits much? Divide by what there is to bring back: the difference between the clean and the corrupt run. Take
# the means over prompts *first*: a single prompt can have a difference near 0, and dividing by it ruins the mean.

# %% [exercise] normalised
def normalised(effects, clean, corrupt):
    """The share of the whole difference that each patch brings back: a ratio of means over prompts.

    effects [layer, token, prompt]; clean, corrupt [prompt] → [layer, token]
    """
    raise NotImplementedError("effects.mean(-1), divided by one number")


# %% [solution] normalised
def normalised(effects, clean, corrupt):
    return effects.mean(-1) / (clean - corrupt).mean()


# %%
check.normalised(normalised)

# %% [markdown]
# ## The same in one line
#
# `interp.patch` does this sweep, and does not run what cannot matter.

# %%
result = interp.patch(model, task, "resid_pre", progress=False)
ours, theirs = effects.double(), torch.tensor(result["value"].transpose("layer", "pos", "prompt").values).double()
apart = float((ours - theirs).abs().max())
planned = interp.plan("patch", model, task, "resid_pre")
print(f"largest difference {apart:.1e}; you ran {forwards} whole passes")
print(planned)
interp.plot.positions(result, interval=0.95)

# %% [markdown]
# ## Something is wrong here
#
# A friend made this map. Every number is 1. Her code runs, and her `normalised` is right. What did she do?

# %%
def friends_run(layer, pos):
    name = f"blocks.{layer}.hook_resid_pre"
    hook = lambda value, hook: put_clean(value, clean_cache[name], pos)
    logits = model.run_with_hooks(task.clean, fwd_hooks=[(name, hook)])
    return logit_diff(logits, task.answer, task.wrong, task.positions).detach()


print(normalised(sweep(friends_run, corrupt, n_layers, n_tokens), clean, corrupt))

# %% [predict] bug
# "a": she patches all tokens at once   "b": her base run is the clean one   "c": she forgot to subtract corrupt
bug = None

# %% [answer] bug
bug = "b"
# Clean activations carried into the clean run change nothing: every cell is clean − corrupt, the whole effect.
# A map of one colour is a map of the base run.

# %% [markdown]
# ## What you found
#
# A cell with the whole effect says that everything the model knows about the answer passes through it. It does not say
# that the answer is *made* there. Write your finding in one sentence: where is the name, and when does it move?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "The name moves from the repeated word to the last token in layer 0; a cell with the whole effect is a place on the way."
