#!/usr/bin/env python3
"""Seconds of a step, and hours of the published recipe, by arithmetic: every matrix product and kernel that the program issues on a
GPU takes the longer of its operations at a share of the card's peak and its bytes at a share of the memory's bandwidth.

    scripts/predict.py                                    the tables of docs/performance.md
    scripts/predict.py --json --card h200 --prompts 8 --group 4 --tokens 160 [--recompute] [--micro-batch N] [--rows N]
    scripts/predict.py --config DIR/config.json ...       another model than Qwen3-8B

--json: seconds of each stage of one step, with "roofline" what they are at the whole of both peaks, "host" those of its launches,
and what was counted. Adapters are those of the published sweep: rank 64 on all projections of AV and AR, rank 16 on q k v o trained.
"""
import argparse
import json
from collections import namedtuple

# Dense bf16 operations a second with fp32 sums, bytes a second, bytes: NVIDIA's data sheets of H100, H200 and A10, its Ada white
# paper for the 4090.
Card = namedtuple("Card", "name peak bandwidth memory")
CARDS = {"h200": Card("H200 SXM", 989.4e12, 4.8e12, 141e9), "h100": Card("H100 SXM", 989.4e12, 3.35e12, 80e9),
         "4090": Card("RTX 4090", 165.2e12, 1.008e12, 24e9), "a10": Card("A10", 125e12, 0.6e12, 24e9)}
COMPUTE, BANDWIDTH, LAUNCH = 0.70, 0.85, 4.5e-6  # shares of the peaks; seconds of the host a launch

# Counted by tests/cuda/test_launches.c, products apart: kernels a block and around all blocks for a decoded token; a block's
# forward and backward pass. A forward pass: two norms, two rotations, keys and values laid out, attention, SwiGLU.
TOKEN_BLOCK, TOKEN_AROUND, TRAIN_BLOCK, FORWARD_BLOCK = 5, 11, 39, 8
GRAPH_WORTH = 16  # tokens to come for which decode.c makes a graph (WORTH)
SCORE_TOKENS, EXTRACT_TOKENS = 8192, 4096  # NLA_SCORE_TOKENS, TOKENS_A_BATCH

ALL, QKVO = ("q", "k", "v", "o", "gate", "up", "down"), ("q", "k", "v", "o")
QWEN3_8B = {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32,
            "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 151936}
Adapter = namedtuple("Adapter", "rank targets")
WARM, MERGED, TRAINED = Adapter(64, ALL), Adapter(0, ()), Adapter(16, QKVO)


class Model:
    def __init__(self, config):
        self.d, self.f, self.layers = config["hidden_size"], config["intermediate_size"], config["num_hidden_layers"]
        heads = config["num_attention_heads"]
        head = config.get("head_dim") or self.d // heads
        self.q, self.kv, self.vocab = heads * head, config.get("num_key_value_heads", heads) * head, config["vocab_size"]
        out = {"q": self.q, "k": self.kv, "v": self.kv, "o": self.d, "gate": self.f, "up": self.f, "down": self.d}
        self.stored = [(inputs, sum(out[p] for p in parts), parts, adds) for inputs, parts, adds in (
            (self.d, ("q", "k", "v"), 0), (self.q, ("o",), 1), (self.d, ("gate", "up"), 0), (self.f, ("down",), 1))]

    def matrices(self, adapters=()):
        """Stored matrices: inputs, outputs, rank beside it, adapters' parts, whether the product adds the residual stream."""
        for inputs, outputs, parts, adds in self.stored:
            ranks = [a.rank for a in adapters for p in parts if p in a.targets]
            yield inputs, outputs, sum(ranks), len(ranks), adds

    def trained_rank(self, adapter):
        return [sum(adapter.rank for p in parts if p in adapter.targets) if adapter else 0 for _, _, parts, _ in self.stored]


class Work:
    """What a stage issues: (times, operations, bytes) of each product and kernel, how many of both, and how many graphs hold how many
    of them."""

    def __init__(self):
        self.ops, self.kernels, self.products, self.graphs, self.inside = [], 0, 0, 0, 0

    def product(self, m, k, n, times=1, add=False, out=2):
        self.ops.append((times, 2 * m * k * n, 2 * (m * k + k * n) + out * m * n * (2 if add else 1)))
        self.products += times

    def kernel(self, bytes_, flops=0, times=1, n=1):
        self.ops.append((times, flops, bytes_))
        self.kernels += times * n

    def add(self, other, times=1):
        self.ops += [(t * times, f, b) for t, f, b in other.ops]
        self.kernels += other.kernels * times
        self.products += other.products * times
        self.graphs += other.graphs * times
        self.inside += other.inside * times
        return self

    def graph(self):
        """All of it as one graph."""
        w = Work().add(self)
        w.graphs, w.inside = 1, self.kernels + self.products
        return w

    def flops(self):
        return sum(t * f for t, f, _ in self.ops)

    def device(self, card, compute=COMPUTE, bandwidth=BANDWIDTH):
        return sum(t * max(f / (card.peak * compute), b / (card.bandwidth * bandwidth)) for t, f, b in self.ops)

    def roofline(self, card):
        return self.device(card, 1, 1)

    def host(self):
        return (self.kernels + self.products - self.inside + self.graphs) * LAUNCH

    def seconds(self, card):
        return max(self.device(card), self.host())


Batch = namedtuple("Batch", "tokens keys pairs predicted")  # packed tokens; keys laid out for them; query-key pairs


def responses(n, prompts, prompt, head, own, predicted):
    """n responses of `own` tokens over their prompts, whose first `head` tokens are common."""
    rest = prompt - head
    tree = head * (head + 1) / 2 + prompts * rest * (head + (rest + 1) / 2)
    return Batch(head + prompts * rest + n * own, head + prompts * prompt + n * (prompt + own),
                 tree + n * own * (prompt + (own + 1) / 2), predicted)


def texts(n, length):
    return Batch(n * length, n * length, n * length * (length + 1) / 2, 0)


def forward_block(m, batch, adapters):
    w, t = Work(), batch.tokens
    for inputs, outputs, rank, _, adds in m.matrices(adapters):
        w.product(t, inputs, outputs, add=adds)
        if rank:
            w.product(t, inputs, rank)
            w.product(t, rank, outputs, add=True)
    w.kernel(2 * t * (4 * m.d + 2 * (m.q + m.kv) + 3 * m.f) + 2 * batch.keys * 4 * m.kv, n=FORWARD_BLOCK - 1)
    w.kernel(2 * t * 2 * m.q + 2 * batch.keys * 2 * m.kv, 4 * m.q * batch.pairs)
    return w


def backward_block(m, batch, adapters, trained):
    w, t = Work(), batch.tokens
    for (inputs, outputs, rank, _, _), own in zip(m.matrices(adapters), m.trained_rank(trained)):
        w.product(t, outputs, inputs)
        if rank:
            w.product(t, outputs, rank)
            w.product(t, rank, inputs, add=True)
        if own:
            w.product(own, t, inputs, out=4)
            w.product(outputs, t, own, out=4)
    w.kernel(2 * t * (12 * m.d + 3 * (m.q + m.kv) + 2 * (m.q + 2 * m.kv) + 5 * m.f) + 2 * batch.keys * 6 * m.kv,
             n=TRAIN_BLOCK - FORWARD_BLOCK - 1)
    w.kernel(2 * t * 8 * m.q + 2 * batch.keys * (4 * m.q + 4 * m.kv), 10 * m.q * batch.pairs)
    return w


def lay_out(m, adapters, blocks):
    """Adapters side by side, once for each pass: A [R, in] and B [out, R] in bf16 from their fp32."""
    w = Work()
    for inputs, outputs, rank, parts, _ in m.matrices(adapters):
        if rank:
            w.kernel(rank * (12 * inputs + 8 * outputs), times=blocks, n=3 + parts)
    return w


def logprob(m, n, chunk, entropy=False, back=False):
    """Passes over the fp32 logits of a chunk are libtorch's operations: temperature, log-sum-exp, entropy; backward the softmax."""
    w, rows = Work(), max(1, min(n, chunk // (4 * m.vocab)))
    w.product(rows, m.d, m.vocab, times=n / rows, out=4)
    w.kernel(4 * rows * m.vocab * (8 + (10 if entropy else 0)), times=n / rows, n=10)
    if back:
        w.product(rows, m.d, m.vocab, times=n / rows, out=4)
        w.kernel(4 * rows * m.vocab * 9.5, times=n / rows, n=8)
        w.product(rows, m.vocab, m.d, times=n / rows)
    return w


def forward(m, batch, adapters, blocks):
    return lay_out(m, adapters, blocks).add(forward_block(m, batch, adapters), blocks)


def training(m, batch, adapters, trained, blocks, recompute):
    return forward(m, batch, adapters, blocks).add(backward_block(m, batch, adapters, trained), blocks).add(
        forward_block(m, batch, adapters), blocks if recompute else 0)


def token(m, rows, context, adapters):
    """One token a row, over `context` keys each."""
    w = Work()
    for inputs, outputs, rank, _, adds in m.matrices(adapters):
        w.product(rows, inputs, outputs, times=m.layers, add=adds)
        if rank:
            w.product(rows, inputs, rank, times=m.layers)
            w.product(rows, rank, outputs, times=m.layers, add=True)
    w.kernel(2 * rows * (4 * m.d + 2 * (m.q + 2 * m.kv) + 3 * m.f), times=m.layers, n=TOKEN_BLOCK - 1)
    w.kernel(2 * rows * (2 * m.q + context * 2 * m.kv), 4 * m.q * rows * context, times=m.layers, n=1)
    w.product(rows, m.d, m.vocab, out=4)
    w.kernel(4 * rows * m.vocab * 2, n=TOKEN_AROUND)
    return w


def decode(m, rows, prompts, prompt, head, new, adapters):
    """The prompts once, from which the first token is drawn, then new - 1 tokens a row: all but one by a graph."""
    w = forward(m, responses(0, prompts, prompt, head, 0, 0), adapters, m.layers)
    w.kernel(4 * rows * m.kv * (new + 4 * prompt), times=m.layers, n=6)  # keys' and values' caches zeroed, then gathered and put
    w.product(rows, m.d, m.vocab, out=4)
    w.kernel(4 * rows * m.vocab * 2, n=TOKEN_AROUND)
    one = token(m, rows, prompt + new / 2, adapters)
    graphs = new - 2 if new - 1 > GRAPH_WORTH else 0
    return w.add(one, new - 1 - graphs).add(one.graph(), graphs)


Step = namedtuple("Step", "prompts group new mean recompute micro rows chunk prompt head suffix layer",
                  defaults=(26, 20, 15, 24))


def stages(m, s, warm=WARM):
    """rollout, score and update of a step; what a co-trained AR adds to the last. mean: tokens of a response, of `new` at most."""
    policy, n = (warm, TRAINED), s.prompts * s.group
    out = {name: Work() for name in ("rollout", "score", "update", "update_ar")}
    rows, text = min(s.rows, n), s.mean + s.suffix
    out["rollout"].add(decode(m, rows, -(-rows // s.group), s.prompt, s.head, s.new, policy), n / rows)
    batch = min(n, max(1, int(SCORE_TOKENS // text)))
    out["score"].add(forward(m, texts(batch, text), (warm,), s.layer + 1), n / batch)
    micro = min(s.micro, n)
    part = responses(micro, -(-micro // s.group), s.prompt, s.head, s.mean - 1, micro * s.mean)
    update = forward(m, part, (warm,), m.layers).add(logprob(m, part.predicted, s.chunk))
    update.add(training(m, part, policy, TRAINED, m.layers, s.recompute))
    update.add(logprob(m, part.predicted, s.chunk, entropy=True, back=True))
    out["update"].add(update, n / micro).add(optimizer(m, TRAINED, m.layers))
    out["update_ar"].add(training(m, texts(micro, text), (WARM,), WARM, s.layer + 1, s.recompute), n / micro).add(
        optimizer(m, WARM, s.layer + 1))
    return out


def optimizer(m, adapter, blocks):
    """AdamW and the norm: parameters, gradients and two moments in fp32."""
    w = Work()
    for inputs, outputs, rank, parts, _ in m.matrices((adapter,)):
        if rank:
            w.kernel(4 * 9 * blocks * (rank * inputs + rank / parts * outputs), n=4)
    return w


# ---- what the plan decides (nla-train --check --memory; nla-sft's first line), for the recipe on Qwen3-8B ----

Plan = namedtuple("Plan", "recompute micro rows")
PLANS = {24e9: {(8, 4): Plan(True, 32, 32), (16, 16): Plan(True, 32, 128)},
         80e9: {(8, 4): Plan(False, 32, 32), (16, 16): Plan(False, 32, 256)},
         141e9: {(8, 4): Plan(False, 32, 32), (16, 16): Plan(False, 128, 256)}}
SFT = {24e9: ((True, 32), (False, 8)), 80e9: ((False, 32), (False, 64)), 141e9: ((False, 32), (False, 64))}  # AV, AR: recomputed, rows
TARGETS = {("h200", 8, 4): 1.5, ("h200", 16, 16): 6.5, ("h100", 8, 4): 1.8, ("h100", 16, 16): 8.0}
LENGTHS = {0: 127, 0.001: 92, 0.002: 74, 0.006: 32, 0.015: 25, 0.03: 14}  # published mean response tokens of each lambda


def chunk_of(memory):
    """Bytes of a chunk's logits (plan.c): a 128th of the card, 64 to 512 MiB."""
    return int(min(max(memory / 128, 64 << 20), 512 << 20))


def planned(card, prompts, group, new=160, mean=None):
    return Step(prompts, group, new, mean or new, *PLANS[card.memory][prompts, group], chunk_of(card.memory))


def evaluation(m, s, count, batch=128):
    """`count` rows sampled, scored, and read under policy and reference."""
    rows, n = min(batch, count), Work()
    text, part = s.mean + s.suffix, max(1, int(SCORE_TOKENS // (s.mean + s.prompt - s.head)))
    n.add(decode(m, rows, rows, s.prompt, s.head, s.new, (WARM, TRAINED)), count / rows)
    n.add(forward(m, texts(SCORE_TOKENS / text, text), (WARM,), s.layer + 1), count * text / SCORE_TOKENS)
    both = responses(part, part, s.prompt, s.head, s.mean - 1, part * s.mean)
    for adapters in (WARM, TRAINED), (WARM,):
        n.add(forward(m, both, adapters, m.layers).add(logprob(m, both.predicted, s.chunk)), count / part)
    return n


def recipe(m, card):
    """(what, how many of it, seconds of one) of the published sweep; rows of 300 tokens, answers of 96, explanations of 126."""
    s, ((av, av_rows), (ar, ar_rows)) = planned(card, 8, 4), SFT[card.memory]
    batch = forward(m, texts(EXTRACT_TOKENS / 300, 300), (), s.layer + 1)
    yield "extract: a row", 85_000, batch.seconds(card) * 300 / EXTRACT_TOKENS
    yield "teach: a row", 64_000, decode(m, 64, 64, 168, 20, 96, ()).seconds(card) / 64
    part = responses(av_rows, av_rows, s.prompt, s.head, 126 - 1, av_rows * 126)
    warm = training(m, part, (WARM,), WARM, m.layers, av).add(logprob(m, part.predicted, s.chunk, back=True))
    yield "AV warm start: a step of 32", 1000, optimizer(m, WARM, m.layers).add(warm, 32 / av_rows).seconds(card)
    warm = training(m, texts(ar_rows, 126 + s.suffix), (WARM,), WARM, s.layer + 1, ar)
    yield "AR warm start: a step of 64", 1000, optimizer(m, WARM, s.layer + 1).add(warm, 64 / ar_rows).seconds(card)
    for kind in "RL: a step of 8 x 4, lambda 0", "RL: a step of the six lambdas, mean":
        lengths = [127] if kind.endswith("0") else LENGTHS.values()
        seconds = [sum(w.seconds(card) for name, w in stages(m, planned(card, 8, 4, mean=mean)).items() if name != "update_ar")
                   for mean in lengths]
        yield kind, 0 if kind.endswith("0") else 6 * 250, sum(seconds) / len(seconds)
    yield "a co-trained AR adds to a step", 0, stages(m, planned(card, 8, 4, mean=127))["update_ar"].seconds(card)
    yield "evaluation of 1000 rows", 12, evaluation(m, planned(card, 8, 4, mean=127), 1000).seconds(card)


def markdown(m):
    out = ["| a step of | card | blocks | rollout | score | update | seconds | roofline | wanted |", "|" + 9 * "---|"]
    for key, card in CARDS.items():
        for prompts, group in (8, 4), (16, 16):
            s = planned(card, prompts, group)
            w = {name: x for name, x in stages(m, s).items() if name != "update_ar"}
            total, floor = sum(x.seconds(card) for x in w.values()), sum(x.roofline(card) for x in w.values())
            target = TARGETS.get((key, prompts, group))
            out.append(f"| {prompts} x {group} x 160 | {card.name} | {'again' if s.recompute else 'kept'} | " +
                       " | ".join(f"{x.seconds(card):.2f}" for x in w.values()) +
                       f" | **{total:.2f}** | {floor:.2f} | {target or ''} |")
    out += ["", "| a token | card | bytes GB | device ms | host ms without a graph | roofline ms | tokens a second |", "|" + 7 * "---|"]
    for card in CARDS.values():
        for rows in 32, 256:
            w = token(m, rows, 26 + 80, (WARM, TRAINED))
            out.append(f"| {rows} rows | {card.name} | {sum(t * b for t, _, b in w.ops) / 1e9:.1f} | {w.device(card) * 1e3:.2f} | "
                       f"{w.host() * 1e3:.2f} | {w.roofline(card) * 1e3:.2f} | {rows / w.device(card):,.0f} |")
    out += ["", "| of the recipe | times | " + " | ".join(c.name for c in CARDS.values()) + " |", "|" + (2 + len(CARDS)) * "---|"]
    columns = [list(recipe(m, card)) for card in CARDS.values()]
    for row in zip(*columns):
        out.append(f"| {row[0][0]} | {row[0][1] or ''} | " + " | ".join(f"{seconds:.3g} s" for _, _, seconds in row) + " |")
    hours = [sum(times * seconds for _, times, seconds in column) / 3600 for column in columns]
    out.append("| **hours of all** | | " + " | ".join(f"**{h:.1f}**" for h in hours) + " |")
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", help="a model's config.json; default: Qwen3-8B's sizes")
    parser.add_argument("--json", action="store_true", help="one step on one card")
    parser.add_argument("--card", choices=CARDS, default="h200")
    for name, default in (("prompts", 8), ("group", 4), ("tokens", 160), ("prompt", 26), ("head", 20), ("layer", 24)):
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--micro-batch", type=int, default=0, help="responses a backward pass; 0: all")
    parser.add_argument("--rows", type=int, default=0, help="that decode at once; 0: all")
    parser.add_argument("--recompute", action="store_true", help="blocks are computed again in the backward pass")
    parser.add_argument("--anchor", action="store_true", help="the warm starts are merged into the weights, as where memory allows")
    a = parser.parse_args()
    m = Model(json.load(open(a.config)) if a.config else QWEN3_8B)
    if not a.json:
        print(markdown(m))
        return
    card, n = CARDS[a.card], a.prompts * a.group
    s = Step(a.prompts, a.group, a.tokens, a.tokens, a.recompute, a.micro_batch or n, a.rows or n, chunk_of(card.memory),
             a.prompt, a.head, layer=a.layer)
    warm = MERGED if a.anchor else WARM
    w = stages(m, s, warm)
    w["token"] = token(m, min(s.rows, n), a.prompt + a.tokens / 2, (warm, TRAINED))
    said = {"seconds": lambda x: x.seconds(card), "roofline": lambda x: x.roofline(card), "host": Work.host, "operations": Work.flops,
            "kernels": lambda x: x.kernels, "products": lambda x: x.products, "graphs": lambda x: x.graphs}
    print(json.dumps({"card": card.name, **{kind: {name: of(x) for name, x in w.items()} for kind, of in said.items()}}, indent=2))


if __name__ == "__main__":
    main()
