"""Wrong answers to the exercises, written apart from the course, each with how it must be called.

Each exercise has one right answer in a style of its own, and edits of it that make it wrong; what
the judge says must contain the words beside the edit.
"""

PLANTED = {
    "count_pairs": (
        """
from collections import Counter

def count_pairs(ids):
    counts = Counter()
    for i in range(len(ids) - 1):
        counts[ids[i], ids[i + 1]] += 1
    return counts

def merge(ids, pair, new_id):
    out = list(ids)
    i = 0
    while i + 1 < len(out):
        if (out[i], out[i + 1]) == pair:
            out[i:i + 2] = [new_id]
        i += 1
    return out
""",
        {
            ("range(len(ids) - 1)", "range(0, len(ids) - 1, 2)"): "two by two",
            ("range(len(ids) - 1)", "range(len(ids) - 2)"): "last pair is not counted",
            (
                "counts[ids[i], ids[i + 1]]",
                "counts[min(ids[i:i+2]), max(ids[i:i+2])]",
            ): "order within",
            ("counts[ids[i], ids[i + 1]]", "counts[ids[i + 1], ids[i]]"): "no entry",
            ("[new_id]", "[new_id, pair[1]]"): "second half of the pair is read again",
            ("return out", "return out[:-1] if out[-1] != new_id else out"): "last id is lost",
            ("== pair", "in (pair, pair[::-1])"): "in either order",
        },
    ),
    "learn_merges": (
        """
from count_pairs import count_pairs, merge

def learn_merges(text, n_merges):
    ids, learned = [*text.encode()], []
    for new_id in range(256, 256 + n_merges):
        best, most = None, 1
        for pair, count in count_pairs(ids).items():
            if count > most:
                best, most = pair, count
        if best is None:
            return learned
        learned.append(best)
        ids = merge(ids, best, new_id)
    return learned
""",
        {
            ("[*text.encode()]", "[ord(letter) for letter in text]"): "merges characters",
            ("count > most", "count >= max(most, 2)"): "takes the last",
            ("ids = merge(ids, best, new_id)", "merge(ids, best, new_id)"): "not made",
            ("merge(ids, best, new_id)", "merge(ids, best, new_id + 1)"): "one too late",
            ("None, 1", "None, 0"): "no pair occurs twice",
            ("range(256, 256 + n_merges)", "range(256, 255 + n_merges)"): "one pair too few",
            (
                "        best, most = None, 1\n        for pair, count in count_pairs(ids).items():\n            if count > most:\n                best, most = pair, count\n        if best is None:",
                "        counts = count_pairs(ids)\n        best = max(counts, key=counts.get)\n        if counts[best] < 2:",
            ): "max()",
        },
    ),
    "encode_text": (
        """
def encode(text, merges):
    ids = list(text.encode())
    for rank in range(len(merges)):
        out = []
        for i in ids:
            if out and (out[-1], i) == tuple(merges[rank]):
                out[-1] = 256 + rank
            else:
                out.append(i)
        ids = out
    return ids

def spell(i, merges):
    if i < 256:
        return bytes([i])
    a, b = merges[i - 256]
    return spell(a, merges) + spell(b, merges)

def decode(ids, merges):
    return b"".join(spell(i, merges) for i in ids).decode(errors="replace")
""",
        {
            ("range(len(merges)):", "range(len(merges) - 1, -1, -1):"): "wrong order, last first",
            ("out[-1] = 256 + rank", "out[-1] = rank"): "begin at 0",
            ("text.encode()", "map(ord, text)"): "encodes characters",
            (
                "spell(a, merges) + spell(b, merges)",
                "spell(b, merges) + spell(a, merges)",
            ): "put together in the wrong order",
            ('errors="replace"', 'errors="ignore"'): "vanish",
            (
                'b"".join(spell(i, merges) for i in ids).decode(errors="replace")',
                '"".join(spell(i, merges).decode(errors="replace") for i in ids)',
            ): "by itself",
        },
    ),
    "embed_tokens": (
        """
import torch

def one_hot(ids, vocab_size):
    return torch.zeros(*ids.shape, vocab_size).scatter_(-1, ids[..., None], 1.0)

def embed(ids, table):
    return one_hot(ids, len(table)) @ table
""",
        {
            ("@ table", "@ table * table.shape[1] ** 0.5"): "root of the width",
            (
                "one_hot(ids, len(table)) @ table",
                "one_hot((ids - 1) % len(table), len(table)) @ table",
            ): "one id off",
            (
                "return torch.zeros(*ids.shape, vocab_size).scatter_(-1, ids[..., None], 1.0)",
                "return torch.zeros(*ids.shape, vocab_size).scatter_(-1, ids[..., None], 1.0) == 1",
            ): "True and False",
            ("1.0)\n", "1.0).movedim(-1, 0)\n"): "in front of the positions",
            ("1.0)\n", "1.0).long()\n"): "dtype is int64",
        },
    ),
    "scaled_scores": (
        """
import torch

def scaled_scores(queries, keys):
    return torch.einsum("...qw,...kw->...qk", queries, keys) * queries.shape[-1] ** -0.5
""",
        {
            (" * queries.shape[-1] ** -0.5", ""): "scale is missing",
            ("** -0.5", "** -1"): "should be its root",
            ("** -0.5", "** 0.5"): "should divide",
            ("queries.shape[-1] ** -0.5", "keys.shape[-2] ** -0.5"): "number of tokens",
            ("->...qk", "->...kq"): "changed places",
            ("** -0.5", "** -0.5 * 3"): "3 times what they should be",
            ("queries.shape[-1] ** -0.5", "queries.shape[1] ** -0.5"): "from axis 1",
        },
    ),
    "causal_weights": (
        """
import torch

def causal_mask(queries, keys):
    rows, columns = torch.arange(queries)[:, None], torch.arange(keys)[None, :]
    return columns <= rows + keys - queries

def attention_weights(scores, mask):
    scores = torch.where(mask, scores, torch.tensor(float("-inf")))
    powers = torch.exp(scores - scores.amax(-1, keepdim=True))
    return powers / powers.sum(-1, keepdim=True)
""",
        {
            ("+ keys - queries", "+ keys - queries + 1"): "sees position i + 1",
            ("<= rows", "< rows"): "no position sees itself",
            ("<= rows + keys - queries", "<= rows"): "first positions",
            ("<= rows", ">= rows"): "shows the future",
            (
                'torch.where(mask, scores, torch.tensor(float("-inf")))',
                "torch.where(mask, scores, torch.zeros(()))",
            ): "become 0",
            ("powers.sum(-1,", "powers.sum(-2,"): "Element",
            ('torch.where(mask, scores, torch.tensor(float("-inf")))', "scores"): "not used",
            (
                "torch.exp(scores - scores.amax(-1, keepdim=True))",
                "torch.exp(scores)",
            ): "e^89 is infinite",
        },
    ),
    "one_head": (
        """
import torch

def attention(queries, keys, values):
    n, m = queries.shape[-2], keys.shape[-2]
    scores = torch.einsum("...iw,...jw->...ij", queries, keys) / queries.shape[-1] ** 0.5
    hidden = torch.ones(n, m).triu(m - n + 1) > 0
    weights = torch.softmax(scores.masked_fill(hidden, -1e9), -1)
    return torch.einsum("...ij,...jw->...iw", weights, values)
""",
        {
            ("triu(m - n + 1)", "triu(m - n + 2)"): "shifted by one",
            (" / queries.shape[-1] ** 0.5", ""): "scale is missing",
            ("weights, values)", "weights, keys)"): "sums the keys",
            ("masked_fill(hidden, -1e9), -1)", "masked_fill(hidden, -1e9), -2)"): "wrong axis",
            ("scores.masked_fill(hidden, -1e9)", "scores"): "mask is missing",
            ("...ij,...jw->...iw", "...ji,...jw->...iw"): "weights are transposed",
            (
                "torch.softmax(scores.masked_fill(hidden, -1e9), -1)",
                "torch.softmax(scores, -1) * ~hidden",
            ): "after the softmax",
            ('"...iw,...jw->...ij"', '"...jw,...iw->...ij"'): "Queries and keys are swapped",
        },
    ),
    "several_heads": (
        """
import torch

def split_heads(x, n_heads):
    return torch.stack(torch.chunk(x, n_heads, dim=2), dim=1)

def merge_heads(x):
    return torch.cat([x[:, h] for h in range(x.shape[1])], dim=2)
""",
        {
            (
                "torch.stack(torch.chunk(x, n_heads, dim=2), dim=1)",
                "x.reshape(x.shape[0], n_heads, x.shape[1], x.shape[2] // n_heads)",
            ): "without transposing, so",
            (
                "torch.stack(torch.chunk(x, n_heads, dim=2), dim=1)",
                "torch.stack([x[..., h::n_heads] for h in range(n_heads)], dim=1)",
            ): "interleaved",
            (
                "torch.cat([x[:, h] for h in range(x.shape[1])], dim=2)",
                "x.reshape(x.shape[0], x.shape[2], -1)",
            ): "merged without transposing back",
            (
                "torch.cat([x[:, h] for h in range(x.shape[1])], dim=2)",
                "torch.stack([x[:, h] for h in range(x.shape[1])], dim=3).flatten(2)",
            ): "merged heads are interleaved",
        },
    ),
    "rotary_positions": (
        """
import torch

def rotary_angles(positions, width, theta):
    speeds = torch.tensor([theta ** (-2 * i / width) for i in range(width // 2)])
    return torch.outer(positions.float(), speeds)

def rotate(x, angles):
    half = x.shape[-1] // 2
    turned = torch.empty_like(x)
    turned[..., :half] = x[..., :half] * angles.cos() - x[..., half:] * angles.sin()
    turned[..., half:] = x[..., half:] * angles.cos() + x[..., :half] * angles.sin()
    return turned
""",
        {
            ("angles.cos() - x", "angles.cos() + x"): "same sign",
            ("-2 * i / width", "-i / width"): "lacks its 2",
            ("-2 * i / width", "2 * i / width"): "exponent's sign",
            ("positions.float()", "positions.float() + 1"): "one too large",
            (
                "half = x.shape[-1] // 2\n",
                "half = x.shape[-1] // 2\n    angles = -angles\n",
            ): "the other way",
            (
                "half = x.shape[-1] // 2\n",
                "half = x.shape[-1] // 2\n    angles = torch.pi / 2 - angles\n",
            ): "Sine and cosine",
            ("speeds)\n", "torch.cat((speeds, speeds)))\n"): "stand twice",
            ("for i in range(width // 2)", "for i in range(0, width, 2)"): "has its 2 twice",
            (
                "return turned",
                "return turned.unflatten(-1, (2, half)).mT.flatten(-2)",
            ): "put back as neighbours",
        },
    ),
    "gated_mlp": (
        """
import torch
from torch import nn
from torch.nn import functional as F

class SwiGLU(nn.Module):
    def __init__(self, d_model, d_ff):
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x):
        both = self.gate_up(x)
        n = both.shape[-1] // 2
        return self.down(F.silu(both[..., :n]) * both[..., n:])
""",
        {
            (
                "F.silu(both[..., :n]) * both[..., n:]",
                "both[..., :n] * F.silu(both[..., n:])",
            ): "swapped",
            ("F.silu", "F.gelu"): "GELU",
            ("F.silu", "F.relu"): "ReLU",
            ("F.silu", "torch.sigmoid"): "stands alone",
            ("F.silu(both[..., :n])", "both[..., :n]"): "no activation",
            (") * both[..., n:]", ") + both[..., n:]"): "gate is added",
            (
                "F.silu(both[..., :n]) * both[..., n:]",
                "F.silu(both[..., :n] * both[..., n:])",
            ): "after the product",
        },
    ),
    "rms_norm": (
        """
import torch
from torch import nn

class RMSNorm(nn.Module):
    def __init__(self, width, eps=1e-6):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x):
        size = (x * x).sum(-1, keepdim=True) / x.shape[-1]
        return self.gain * x * torch.rsqrt(size + self.eps)
""",
        {
            ("torch.rsqrt(size + self.eps)", "1 / (size + self.eps)"): "root is missing",
            (" / x.shape[-1]", ""): "root of the sum",
            ("self.gain * x", "x"): "gain is missing",
            ("self.gain * x * torch", "self.gain + x * torch"): "gain is added",
            ("(x * x).sum(-1, keepdim=True) / x.shape[-1]", "(x * x).mean()"): "whole tensor",
            (
                "(x * x).sum(-1, keepdim=True) / x.shape[-1]",
                "(x * x).mean(-2, keepdim=True)",
            ): "over positions",
            (
                "        size",
                "        x = x - x.mean(-1, keepdim=True)\n        size",
            ): "mean is subtracted",
            ("size + self.eps", "size"): "eps is missing",
            (
                "size = (x * x).sum(-1, keepdim=True) / x.shape[-1]",
                "size = x.std(-1, keepdim=True) ** 2",
            ): "standard deviation",
            ("torch.rsqrt(size + self.eps)", "1 / (size ** 0.5 + self.eps)"): "belongs under it",
            (
                "torch.rsqrt(size + self.eps)",
                "1 / (x.std(-1, keepdim=True) + self.eps)",
            ): "standard deviation",
        },
    ),
    "attention_layer": (
        """
import torch
from torch import nn
from one_head import attention
from rms_norm import RMSNorm
from rotary_positions import rotate

class Attention(nn.Module):
    def __init__(self, d_model, n_heads):
        super().__init__()
        self.n_heads = n_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.output = nn.Linear(d_model, d_model, bias=False)
        self.query_norm = RMSNorm(d_model // n_heads)
        self.key_norm = RMSNorm(d_model // n_heads)

    def forward(self, x, angles):
        b, t, d = x.shape
        q, k, v = self.qkv(x).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)
        q, k = self.query_norm(q), self.key_norm(k)
        q, k = rotate(q, angles), rotate(k, angles)
        return self.output(attention(q, k, v).transpose(1, 2).reshape(b, t, d))
""",
        {
            ("q, k = rotate(q, angles), rotate(k, angles)", "pass"): "Nothing is rotated",
            ("rotate(q, angles), rotate(k, angles)", "rotate(q, angles), k"): "Only the queries",
            ("attention(q, k, v)", "attention(q, k, rotate(v, angles))"): "values are rotated",
            ("q, k = self.query_norm(q), self.key_norm(k)", "pass"): "norms are missing",
            (
                "self.query_norm(q), self.key_norm(k)",
                "self.key_norm(q), self.query_norm(k)",
            ): "swapped",
            ("q, k, v =", "q, v, k ="): "Keys and values are swapped",
            (
                "self.qkv(x).view(b, t, 3, self.n_heads, -1).permute(2, 0, 3, 1, 4)",
                "self.qkv(x).view(b, t, self.n_heads, 3, -1).permute(3, 0, 2, 1, 4)",
            ): "head by head",
        },
    ),
    "residual_block": (
        """
from torch import nn
from attention_layer import Attention
from gated_mlp import SwiGLU
from rms_norm import RMSNorm

class Block(nn.Module):
    def __init__(self, d_model, n_heads, d_ff):
        super().__init__()
        self.attention_norm = RMSNorm(d_model)
        self.attention = Attention(d_model, n_heads)
        self.mlp_norm = RMSNorm(d_model)
        self.mlp = SwiGLU(d_model, d_ff)

    def forward(self, x, angles):
        y = self.attention_norm(x)
        x = x + self.attention(y, angles)
        y = self.mlp_norm(x)
        x = x + self.mlp(y)
        return x
""",
        {
            (
                "x = x + self.attention(y, angles)",
                "x = self.attention(y, angles)",
            ): "attention's residual",
            ("x = x + self.mlp(y)", "x = self.mlp(y)"): "MLP's residual",
            (
                "x = x + self.attention(y, angles)",
                "x = y + self.attention(y, angles)",
            ): "normalized vector",
            ("y = self.attention_norm(x)", "y = x"): "attention reads the stream without",
            ("y = self.mlp_norm(x)", "y = x"): "MLP reads the stream without",
            (
                "        x = x + self.attention(y, angles)\n        y = self.mlp_norm(x)",
                "        z = self.mlp_norm(x)\n        x = x + self.attention(y, angles)\n        y = z",
            ): "before the attention (a parallel block",
            ("x = x + self.mlp(y)", "x = y + self.mlp(y)"): "MLP adds to the normalized",
            (
                "y = self.attention_norm(x)\n        x = x + self.attention(y, angles)\n        y = self.mlp_norm(x)\n        x = x + self.mlp(y)",
                "x = self.attention_norm(x)\n        x = x + self.attention(x, angles)\n        x = self.mlp_norm(x)\n        x = x + self.mlp(x)",
            ): "The normalized vector is added, and should be the stream itself: x, not norm(x). The MLP adds",
        },
    ),
    "whole_model": (
        """
import torch
from torch import nn
from residual_block import Block
from rms_norm import RMSNorm
from rotary_positions import rotary_angles

class Model(nn.Module):
    def __init__(self, vocab_size, d_model, n_heads, d_ff, n_layers):
        super().__init__()
        self.head_dim = d_model // n_heads
        self.embedding = nn.Embedding(vocab_size, d_model)
        self.blocks = nn.ModuleList([Block(d_model, n_heads, d_ff) for _ in range(n_layers)])
        self.norm = RMSNorm(d_model)
        self.head = nn.Linear(d_model, vocab_size, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, ids):
        h = self.embedding.weight[ids]
        angles = rotary_angles(torch.arange(ids.shape[1]), self.head_dim, 1e4)
        for i in range(len(self.blocks)):
            h = self.blocks[i](h, angles)
        return self.norm(h) @ self.embedding.weight.T
""",
        {
            ("self.norm(h) @", "h @"): "last norm is missing",
            ("range(len(self.blocks))", "range(len(self.blocks) - 1, -1, -1)"): "reverse order",
            ("range(len(self.blocks))", "range(1, len(self.blocks))"): "left out",
            (
                "torch.arange(ids.shape[1])",
                "0 * torch.arange(ids.shape[1])",
            ): "All positions are the same",
            ("1e4", "100"): "theta",
            (
                "self.embedding.weight.T\n",
                "self.embedding.weight.T * 2\n",
            ): "2 times what they should be",
            (
                "h = self.blocks[i](h, angles)",
                "h = h + self.blocks[i](h, angles)",
            ): "has done itself",
            (
                "h = self.embedding.weight[ids]",
                "h = self.embedding.weight[ids] * self.embedding.weight.shape[1] ** 0.5",
            ): "as in Vaswani",
        },
    ),
    "next_token_loss": (
        """
import torch

def next_token_loss(logits, ids):
    total, n = 0.0, 0
    for row, text in zip(logits, ids):
        for t in range(len(text) - 1):
            total = total + torch.logsumexp(row[t], 0) - row[t, text[t + 1]]
            n += 1
    return total / n

def perplexity(loss):
    return torch.tensor(loss).exp().item()
""",
        {
            ("text[t + 1]", "text[t]"): "targets are the inputs",
            (
                "range(len(text) - 1):\n            total = total + torch.logsumexp(row[t], 0) - row[t, text[t + 1]]",
                "range(len(text) - 2):\n            total = total + torch.logsumexp(row[t], 0) - row[t, text[t + 2]]",
            ): "one token too far",
            ("return total / n\n", "return total\n"): "losses are summed",
            ("return total / n\n", "return -total / n\n"): "minus is missing",
            ("return total / n\n", "return total / n / torch.log(torch.tensor(2.0))\n"): "in bits",
            ("return total / n\n", "return total / len(ids)\n"): "rows alone",
            ("torch.tensor(loss).exp().item()", "2 ** loss"): "power of 2",
            (
                "torch.tensor(loss).exp().item()",
                "1 / torch.tensor(loss).exp().item()",
            ): "sign is turned",
            (
                "range(len(text) - 1):\n            total = total + torch.logsumexp(row[t], 0) - row[t, text[t + 1]]",
                "range(len(text)):\n            total = total + torch.logsumexp(row[t], 0) - row[t, text[(t + 1) % len(text)]]",
            ): "roll brings round",
            (
                "total = total + torch.logsumexp(row[t], 0) - row[t, text[t + 1]]\n            n += 1\n    return total / n",
                "total = total + row[t].softmax(0)[text[t + 1]]\n            n += 1\n    return -(total / n).log()",
            ): "mean probability",
        },
    ),
    "training_step": (
        """
import math
from next_token_loss import next_token_loss

def clip_gradients(parameters, max_norm):
    parameters = list(parameters)
    norm = math.sqrt(sum((p.grad ** 2).sum().item() for p in parameters))
    factor = min(1.0, max_norm / norm)
    for p in parameters:
        p.grad *= factor
    return norm

def training_step(model, optimizer, ids, max_norm):
    model.zero_grad()
    loss = next_token_loss(model(ids), ids)
    loss.backward()
    clip_gradients(model.parameters(), max_norm)
    optimizer.step()
    return float(loss)
""",
        {
            ("    model.zero_grad()\n", ""): "never set to zero",
            ("    clip_gradients(model.parameters(), max_norm)\n", ""): "not clipped when",
            ("    optimizer.step()\n", ""): "nothing is learned",
            ("min(1.0, max_norm / norm)", "max_norm / norm"): "scaled up",
            ("math.sqrt(sum(", "(sum("): "root is missing",
            (
                "        p.grad *= factor\n",
                "        p.grad.clamp_(-max_norm, max_norm)\n",
            ): "number is clipped by itself",
            (
                "        p.grad *= factor\n",
                "        p.grad *= min(1.0, max_norm / p.grad.norm())\n",
            ): "parameter is clipped by itself",
            ("    parameters = list(parameters)\n", ""): "second time there are none",
        },
    ),
    "warmup_and_decay": (
        """
from training_step import training_step

def learning_rate(step, steps, warmup, peak):
    if step + 1 <= warmup:
        return peak / warmup * (step + 1)
    return peak - peak * (step - warmup + 1) / (steps - warmup + 1)

def train(model, optimizer, batches, warmup, peak):
    losses = []
    step = 0
    for batch in batches:
        rate = learning_rate(step, len(batches), warmup, peak)
        for group in optimizer.param_groups:
            group["lr"] = rate
        losses += [training_step(model, optimizer, batch, 1.0)]
        step += 1
    return losses
""",
        {
            ("peak / warmup * (step + 1)", "peak / warmup * step"): "begins at a rate of 0",
            ("if step + 1 <= warmup:", "if False:"): "no warmup",
            (
                "return peak - peak * (step - warmup + 1) / (steps - warmup + 1)",
                "return peak",
            ): "no decay",
            (
                "peak - peak * (step - warmup + 1) / (steps - warmup + 1)",
                "peak * (1 - step / steps)",
            ): "rate jumps",
            (
                '        for group in optimizer.param_groups:\n            group["lr"] = rate\n',
                "",
            ): "never set",
            ("in optimizer.param_groups", "in [optimizer.param_groups[0]]"): "first group",
            ("batch, 1.0)", "batch, 1e9)"): "not clipped to 1.0",
            (
                '        for group in optimizer.param_groups:\n            group["lr"] = rate\n        losses += [training_step(model, optimizer, batch, 1.0)]\n',
                '        losses += [training_step(model, optimizer, batch, 1.0)]\n        for group in optimizer.param_groups:\n            group["lr"] = rate\n',
            ): "set after the step",
        },
    ),
    "top_k": (
        """
import torch

def with_temperature(logits, temperature):
    return logits * (1 / temperature)

def keep_top_k(logits, k):
    lowest = logits.sort(-1, descending=True).values[..., k - 1 : k]
    return torch.where(logits >= lowest, logits, -torch.inf)
""",
        {
            ("1 / temperature", "temperature"): "multiplies",
            (
                "return logits * (1 / temperature)",
                "return torch.softmax(logits / temperature, -1)",
            ): "returns probabilities",
            ("descending=True", "descending=False"): "Element",
            ("logits >= lowest", "logits > lowest"): "too few",
            ("-torch.inf", "0.0"): "get 0",
            (
                "torch.where(logits >= lowest, logits, -torch.inf)",
                "logits.sort(-1, descending=True).values[..., :k]",
            ): "k logits alone",
            ("logits >= lowest, logits, -torch.inf", "logits >= lowest, logits, torch.nan"): "NaN",
        },
    ),
    "top_p": (
        """
import torch

def keep_top_p(logits, p):
    rows = logits.reshape(-1, logits.shape[-1])
    out = torch.full_like(rows, -torch.inf)
    for row, kept in zip(rows, out):
        total = 0.0
        shares = torch.softmax(row, -1)
        for i in torch.argsort(shares, descending=True):
            kept[i] = row[i]
            total += shares[i]
            if total >= p:
                break
    return out.reshape(logits.shape)
""",
        {
            (
                "            kept[i] = row[i]\n            total += shares[i]\n            if total >= p:\n"
                "                break\n",
                "            total += shares[i]\n            if total >= p:\n                break\n"
                "            kept[i] = row[i]\n",
            ): "reaches p is cut off",
            ("descending=True", "descending=False"): "sort the largest first",
            ("-torch.inf", "0.0"): "get 0",
            (
                "out.reshape(logits.shape)",
                "out.reshape(logits.shape).softmax(-1)",
            ): "returns probabilities",
            ("            total += shares[i]\n", "            total = shares[i]\n"): "Element",
        },
    ),
    "generate_tokens": (
        """
import torch

@torch.no_grad()
def generate(model, ids, n_new, context, choose):
    while n_new > 0:
        window = ids if ids.shape[1] <= context else ids[:, ids.shape[1] - context:]
        logits = model(window)
        token = choose(logits[:, logits.shape[1] - 1])
        ids = torch.hstack((ids, token.unsqueeze(1)))
        n_new -= 1
    return ids
""",
        {
            ("ids[:, ids.shape[1] - context:]", "ids[:, :context]"): "reads the first tokens",
            ("logits.shape[1] - 1", "0"): "first position",
            ("else ids[:, ids.shape[1] - context:]", "else ids"): "read in full",
            (
                "logits = model(window)",
                "logits = model(window[:, -1:])",
            ): "Only the last token is read",
            ("while n_new > 0", "while n_new > 1"): "One token too few",
            ("(ids, token.unsqueeze(1))", "(token.unsqueeze(1), ids)"): "put in front",
            (
                "choose(logits[:, logits.shape[1] - 1])",
                "logits[:, logits.shape[1] - 1].argmax(-1)",
            ): "whatever `choose` says",
            ("    return ids", "    return ids[:, -context:]"): "whole text is returned",
        },
    ),
    "key_value_cache": (
        """
import torch
from one_head import attention
from rotary_positions import rotary_angles, rotate

def attend(queries, keys, values, cache):
    n = 0 if "keys" not in cache else cache["keys"].shape[1]
    turn = rotary_angles(n + torch.arange(queries.shape[1]), queries.shape[2], 1e4)
    cache["keys"] = torch.cat([*([cache["keys"]] if n else []), rotate(keys, turn)], 1)
    cache["values"] = torch.cat([*([cache["values"]] if n else []), values], 1)
    return attention(rotate(queries, turn), cache["keys"], cache["values"])
""",
        {
            ("n + torch.arange", "torch.arange"): "forgets its position",
            ("n + torch.arange", "(n + 1 if n else 0) + torch.arange"): "one too far",
            (
                'attention(rotate(queries, turn), cache["keys"], cache["values"])',
                "attention(rotate(queries, turn), rotate(keys, turn), values)",
            ): "In entry 'outputs'",
            (
                "    return attention",
                "    k, v = cache.pop('keys'), cache.pop('values')\n"
                "    cache['keys'], cache['values'] = v, k\n    return attention",
            ): "In entry 'outputs'",
            (
                '    cache["keys"] = torch.cat([*([cache["keys"]] if n else []), rotate(keys, turn)], 1)\n'
                '    cache["values"] = torch.cat([*([cache["values"]] if n else []), values], 1)\n',
                '    cache["keys"] = torch.cat([rotate(keys, turn), *([cache["keys"]] if n else [])], 1)\n'
                '    cache["values"] = torch.cat([values, *([cache["values"]] if n else [])], 1)\n',
            ): "stand in front",
            (
                '    cache["keys"] = torch.cat([*([cache["keys"]] if n else []), rotate(keys, turn)], 1)\n',
                '    both = torch.cat([*([cache["keys"]] if n else []), keys], 1)\n    cache["keys"] = rotate(both, rotary_angles(torch.arange(both.shape[1]), 4, 1e4))\n',
            ): "rotated again",
            (
                '    cache["keys"] = torch.cat([*([cache["keys"]] if n else []), rotate(keys, turn)], 1)\n    cache["values"] = torch.cat([*([cache["values"]] if n else []), values], 1)\n    return attention(rotate(queries, turn), cache["keys"], cache["values"])',
                '    cache["keys"] = torch.cat([*([cache["keys"]] if n else []), keys], 1)\n    cache["values"] = torch.cat([*([cache["values"]] if n else []), values], 1)\n    turned = rotate(cache["keys"], rotary_angles(torch.arange(cache["keys"].shape[1]), 4, 1e4))\n    return attention(rotate(queries, turn), turned, cache["values"])',
            ): "not rotated",
        },
    ),
    "attention_map": (
        """
import torch

def strongest_keys(weights):
    return torch.tensor([max(range(len(row)), key=row.__getitem__) for row in weights.tolist()])

def weight_at_distance(weights, distance):
    n = len(weights)
    return sum(float(weights[i, i - distance]) for i in range(distance, n)) / (n - distance)

def entropies(weights):
    return torch.special.entr(weights).sum(-1)
""",
        {
            ("in weights.tolist()", "in weights.T.tolist()"): "reads columns",
            ("max(range", "min(range"): "looks at least",
            ("/ (n - distance)", "/ n"): "divides by all positions",
            ("weights[i, i - distance]", "weights[i - distance, i]"): "diagonal above",
            (
                "torch.special.entr(weights).sum(-1)",
                "-torch.special.entr(weights).sum(-1)",
            ): "minus is missing",
            ("torch.special.entr(weights).sum(-1)", "-(weights * weights.log()).sum(-1)"): "NaN",
            (
                "torch.special.entr(weights).sum(-1)",
                "torch.special.entr(weights).sum(-1) / 0.6931472",
            ): "in bits",
            (
                "torch.special.entr(weights).sum(-1)",
                "torch.special.entr(weights).sum(0)",
            ): "of columns",
        },
    ),
    "induction_head": (
        """
import torch

def repeated(ids):
    return torch.stack([ids, ids]).flatten()

def induction_scores(weights):
    p = weights.shape[1] // 2
    return torch.stack([weights[:, q, q + 1 - p] for q in range(p, 2 * p)]).mean(0)

def strongest_head(layers):
    best = None
    for i, layer in enumerate(layers):
        for j, score in enumerate(induction_scores(layer)):
            if best is None or score > best[0]:
                best = score, i, j
    return best[1:]
""",
        {
            ("torch.stack([ids, ids])", "torch.stack([ids, ids], 1)"): "interleaved",
            ("q + 1 - p", "q - p"): "duplicate-token",
            ("q + 1 - p", "q + 2 - p"): "one position too far",
            ("weights[:, q, q + 1 - p]", "weights[:, q + 1 - p, q]"): "Query and key are swapped",
            (".mean(0)", ".mean(1)"): "mean over heads",
            (".mean(0)", ".sum(0) / weights.shape[1]"): "all positions",
            ("best[1:]", "best[:0:-1]"): "Layer and head are swapped",
            ("score > best", "score < best"): "weakest",
            ("range(p, 2 * p)", "range(p - 1, 2 * p)"): "one position early",
            (
                "return best[1:]",
                "return divmod(best[1] * 3 + best[2], len(layers))",
            ): "number of layers",
        },
    ),
}
