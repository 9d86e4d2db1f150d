# %% [markdown]
# # Lab 07 · What heads do
#
# **A head looks at one token and writes to another. How do you find out what it is for?**
#
# You will write the scores by which papers name heads, try them on a model whose heads are known, read what a head writes from
# its weights, and then ask the question that a score cannot answer: does the model need it?
#
# You need PyTorch and 45 minutes. No network.

# %% [teacher]
# **Minutes**: reading and first prediction 5 · `previous_token` 7 · `induction` 9 · `copying` 8 · `composition` 7 · load 5 ·
# bug and closing 4.
#
# **Common mistakes**: queries and keys exchanged; the offset of duplicates for that of induction; the first copy counted
# (there is nothing to find there yet); a score taken for a cause.

# %%
import torch

import interp
from interp import heads
from interp.labs import check

SEED = 0  # your own sequences
model = interp.load("induction")
draw = torch.Generator().manual_seed(SEED)


def repeats(model, length, n=8):
    """[BOS, x, x]: random words x, and then the same again, [prompt, 1 + 2 · length]."""
    special = set(model.tokenizer.all_special_ids)
    words = torch.tensor([i for i in range(model.cfg.d_vocab) if i not in special])
    x = torch.stack([words[torch.randperm(len(words), generator=draw)[:length]] for _ in range(n)])
    return torch.cat([torch.full((n, 1), model.tokenizer.bos_token_id), x, x], 1)


def patterns(model, tokens):
    """The attention of every head, [layer, prompt, head, query, key]."""
    with torch.no_grad():
        cache = model.run_with_cache(tokens)[1]
    return torch.stack([cache[f"blocks.{layer}.attn.hook_pattern"] for layer in range(model.cfg.n_layers)])


tokens = repeats(model, 6)
print(model.tokenizer.decode(tokens[0]))

# %% [markdown]
# This model has two layers of two heads, written by hand. It continues a sequence that came before: after *Mary John ... Mary* it
# says *John*. `pattern[prompt, head, query, key]` is how much the token at `query` looks at the token at `key`.
#
# ## 1. Who looks one back?

# %% [exercise] previous_token
def previous_token(pattern):
    """The mean attention from each token to the one before it, over prompts and queries 2, 3, ...; key 0 is left out.

    pattern [prompt, head, query, key] → [head]
    """
    raise NotImplementedError("pattern.diagonal(-1, 2, 3) holds pattern[..., q, q - 1] for q = 1, 2, ...; drop the first")


# %% [solution] previous_token
def previous_token(pattern):
    back = pattern.diagonal(-1, 2, 3)  # [prompt, head, query 1, 2, ...]
    return back[..., 1:].mean((0, 2))


# %%
check.previous_token(previous_token)

# %% [predict] by_hand
# To continue a repeated sequence, the second head must find where the present word came before, and say what came next.
# What must the first head write, so that the second can find that place?
# "a": at each word, which word came before it   "b": at each word, which word comes next   "c": how often it came
by_hand = None

# %% [answer] by_hand
by_hand = "a"
# Then the place after the earlier Mary is the one that says "before me: Mary", and that is what the second head looks for.

# %% [markdown]
# ## 2. Who looks where the copy goes on?
#
# In [BOS, x, x] with x of R words, position q of the second copy stands R after its twin in the first. An induction head looks
# at the word *after* the twin: q − R + 1. Take the queries of the second copy, without its first: q = R + 2, ..., 2R.

# %% [exercise] induction
def induction(pattern, R):
    """The mean attention from q to q − R + 1, over prompts and queries q = R + 2, ..., 2R. → [head]

    pattern [prompt, head, query, key], queries 0 to 2R
    """
    raise NotImplementedError("q = torch.arange(R + 2, 2 * R + 1); pattern[:, :, q, q - R + 1]")


# %% [solution] induction
def induction(pattern, R):
    q = torch.arange(R + 2, 2 * R + 1)
    return pattern[:, :, q, q - R + 1].mean((0, 2))


# %%
check.induction(induction)

# %%
world = interp.load("tiny-world")
scores = {}
for name, R in (("induction", 6), ("tiny-world", 12)):
    loaded = {"induction": model, "tiny-world": world}[name]
    found = patterns(loaded, repeats(loaded, R))
    scores[name] = torch.stack([torch.stack([previous_token(p), induction(p, R)]) for p in found])  # [layer, score, head]
    for i, score in enumerate(("previous token", "induction")):
        values, best = scores[name][:, i].max(), scores[name][:, i].argmax()
        layer, head = divmod(int(best), loaded.cfg.n_heads)
        print(f"{name:11} {score:15} highest at L{layer}H{head}: {values:.2f}")

# %% [markdown]
# > **Everything below 0.2 on `induction`?** Print `pattern[0, 0]` and look which of the two dimensions is the query.
#
# ## 3. What does it write?
#
# A head that looks at a word writes something about it. From the weights: embed a word, pass it through the head's value and
# output, read it as logits. That is one matrix M, [word, word]. A head that *copies* raises each word's own logit, and then
# the eigenvalues of M are positive: Σ Re λ / Σ |λ| is 1. It is −1 for a head that suppresses what it sees.

# %% [exercise] copying
def copying(M):
    """Σ Re λ / Σ |λ| over the eigenvalues of M [word, word] → a number"""
    raise NotImplementedError("torch.linalg.eigvals(M) gives complex numbers: .real and .abs()")


# %% [solution] copying
def copying(M):
    values = torch.linalg.eigvals(M)
    return float(values.real.sum() / values.abs().sum())


# %%
check.copying(copying)

# %%
def weights(model, layer, head):
    """QK and OV of a head, [d, d] each, applied from the right: scores = x QK y, written = x OV."""
    attn = model.blocks[layer].attn
    W = {name: getattr(attn, f"W_{name}")[head].detach() for name in "QKVO"}
    return W["Q"] @ W["K"].T, W["V"] @ W["O"]


qk, ov = weights(model, 1, 0)
E, U = model.W_E.detach(), model.W_U.detach()
print(f"L1H0 of the model by hand copies {copying(E @ ov @ U):.2f}")

# %% [markdown]
# ## 4. Who hears whom?
#
# A head of layer 1 reads what a head of layer 0 wrote. Through its *keys*, it compares its query x with what was written,
# y OV: x QK (y OV)ᵀ. So the matrix is QK · OVᵀ. How large is it, against the two matrices alone?

# %% [exercise] composition
def composition(qk, ov):
    """K-composition: the norm of QK · OVᵀ over the product of the norms of QK and OV. qk, ov [d, d] → a number"""
    raise NotImplementedError("(qk @ ov.T).norm() is a matrix's Frobenius norm")


# %% [solution] composition
def composition(qk, ov):
    return float((qk @ ov.T).norm() / (qk.norm() * ov.norm()))


# %%
check.composition(composition)

# %%
heard = {}
for earlier in (0, 1):
    heard[earlier] = composition(weights(model, 1, 0)[0], weights(model, 0, earlier)[1])
    print(f"the keys of L1H0 hear L0H{earlier}: {heard[earlier]:.2f}")

# %% [markdown]
# ## Does the model need it?
#
# A score says what a head looks like. Take away the two heads of `tiny-world` with the highest induction score, together, and
# see how much worse the second copy is predicted; then take away random pairs from the same layers.

# %% [predict] needed
# The heads that look most like induction: will taking them away do more damage than any random pair?
# "a": yes   "b": no, about as much as some   "c": the scores cannot tell
needed = None

# %% [answer] needed
needed = "c"
# A signature is not yet a cause, so the scores cannot tell. The experiment can: see the rank that it prints.

# %%
official = heads.scores(world, progress=False)
test = heads.load_bearing(world, None, official, score="induction", n=2, progress=False)
print(test.attrs["heads"], f"damage beyond random pairs {float(test['difference']):.2f} nats, "
      f"from {float(test['difference_low']):.2f} to {float(test['difference_high']):.2f}, rank {int(test['rank'])} of {test.sizes['set']}")

# %% [markdown]
# ## Something is wrong here
#
# A friend finds no induction head in the model by hand.

# %%
def friends_induction(pattern, R):
    q = torch.arange(2, R + 1)
    return pattern[:, :, q, (q - R + 1).clamp(min=0)].mean((0, 2))


found = patterns(model, repeats(model, 6))
print("hers ", [[round(float(x), 2) for x in friends_induction(p, 6)] for p in found])
print("yours", [[round(float(x), 2) for x in induction(p, 6)] for p in found])

# %% [predict] bug
# "a": she exchanges query and key   "b": her sequences are too short   "c": she scores the first copy, where nothing
# has come before
bug = None

# %% [answer] bug
bug = "c"
# Her queries are 2 to R, in the first copy. There is no earlier copy to look at.

# %% [markdown]
# ## What you found
#
# In one sentence: what do scores say of a head, and what do they not?

# %% [predict] finding
finding = None  # "..."

# %% [answer] finding
finding = "Scores and weights say what a head looks like; a signature is not yet a cause until taking it away does more than taking away others."
