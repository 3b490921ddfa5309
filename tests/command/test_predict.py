#!/usr/bin/env python3
"""scripts/predict.py: operations and bytes of a small model counted by hand, its launches against those that test_launches.c holds, the
tables of docs/performance.md against what it prints, and its plans against nla-train's."""

import importlib.util
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
SCRIPT = SOURCE / "scripts" / "predict.py"
spec = importlib.util.spec_from_file_location("predict", SCRIPT)
predict = importlib.util.module_from_spec(spec)
spec.loader.exec_module(predict)

# q 4, kv 2: stored are qkv [8, 4], o [4, 4], gate and up [12, 4], down [4, 6].
SMALL = predict.Model({"hidden_size": 4, "intermediate_size": 6, "num_hidden_layers": 2, "num_attention_heads": 2,
                       "num_key_value_heads": 1, "head_dim": 2, "vocab_size": 10})
BLOCK = 4 * 8 + 4 * 4 + 4 * 12 + 6 * 4
ADAPTERS = predict.Adapter(3, predict.ALL), predict.Adapter(1, predict.QKVO)


def products_of(work):
    return sum(times * flops for times, flops, _ in work.ops)


def test_hand_count():
    # Three responses of 5 tokens over two prompts of 4, of which 2 are common: 2 + 2 x 2 + 3 x 5 tokens.
    batch = predict.responses(3, 2, 4, 2, 5, 15)
    pairs = (1 + 2) + 2 * (3 + 4) + 3 * (5 + 6 + 7 + 8 + 9)
    assert batch == (21, 2 + 2 * 4 + 3 * 9, pairs, 15), batch
    assert products_of(predict.forward_block(SMALL, batch, ())) == 2 * 21 * BLOCK + 4 * 4 * pairs
    # Ranks beside: qkv 3 x 3 + 3 x 1, o 4, gate and up 6, down 3, each over inputs and outputs.
    beside = 12 * (4 + 8) + 4 * (4 + 4) + 6 * (4 + 12) + 3 * (6 + 4)
    assert products_of(predict.forward_block(SMALL, batch, ADAPTERS)) == 2 * 21 * (BLOCK + beside) + 16 * pairs
    # Backward: to the inputs through weights and adapters; A and B of what is trained, rank 3 at qkv and 1 at o.
    trained = 3 * (4 + 8) + 1 * (4 + 4)
    assert products_of(predict.backward_block(SMALL, batch, ADAPTERS, ADAPTERS[1])) == 2 * 21 * (BLOCK + beside + trained) + 40 * pairs
    # A token of 3 rows over 7 keys: the weights of two blocks and the head, each row's keys and values.
    token = predict.token(SMALL, 3, 7, ())
    assert products_of(token) == 2 * 3 * (2 * BLOCK + 4 * 10) + 2 * 4 * 4 * 3 * 7
    weights = sum(2 * k * n for k, n in ((4, 8), (4, 4), (4, 12), (6, 4)))
    rows = 2 * 3 * (4 + 8 + 4 + 2 * 4 + 4 + 12 + 6 + 2 * 4)  # in and out; o and down read the residual stream too
    norms = 2 * 3 * (4 * 4 + 2 * (4 + 2 * 2) + 3 * 6)
    attention = 2 * 3 * (2 * 4 + 7 * 2 * 2)
    head = 2 * 3 * 4 + 2 * 4 * 10 + 4 * 3 * 10 + 4 * 3 * 10 * 2
    assert sum(t * b for t, _, b in token.ops) == 2 * (weights + rows + norms + attention) + head
    # The log-probabilities: logits, in training again, and the gradient of the hidden states.
    assert products_of(predict.logprob(SMALL, 15, 4 * 10 * 5)) == 2 * 15 * 4 * 10
    assert products_of(predict.logprob(SMALL, 15, 4 * 10 * 5, back=True)) == 3 * 2 * 15 * 4 * 10


def test_times():
    w = predict.Work()
    w.product(1000, 1000, 1000)
    w.kernel(10**9)
    card = predict.Card("", 1e12, 1e12, 0)
    assert abs(w.roofline(card) - (2e9 / 1e12 + 1e9 / 1e12)) < 1e-12
    assert abs(w.seconds(card) - (2e-3 / 0.7 + 1e-3 / 0.85)) < 1e-12
    w.kernels = 1000
    assert w.seconds(card) == 1001 * 4.5e-6


def test_launches():
    """The counts of the five blocks and of a block's training in test_launches.c are what the script's products and kernels come to."""
    text = (SOURCE / "tests" / "cuda" / "test_launches.c").read_text()
    wanted = {name: 5 * (int(kernels) + int(products)) + int(around) + 1 for name, kernels, products, around in
              re.findall(r'token_costs\(m, &m->(\w+), "(?!Gemma)[^"]*", \((\d+) \+ (\d+)\) \* BLOCKS \+ (\d+) \+ 1\)', text)}
    model = predict.Model({**predict.QWEN3_8B, "num_hidden_layers": 5})
    for name, adapters in ("base", ()), ("beside", ADAPTERS):
        w = predict.token(model, 8, 20, adapters)
        assert w.kernels + w.products == wanted[name], (name, w.kernels, w.products, wanted)
        assert w.graph().host() == predict.LAUNCH
    wanted = tuple(map(int, re.search(r"kernels <= (\d+) && products <= (\d+)", text).groups()))
    w = predict.training(model, predict.responses(4, 1, 10, 0, 12, 0), ADAPTERS, ADAPTERS[1], 1, False)
    layout = predict.lay_out(model, ADAPTERS, 1)
    assert (w.kernels - layout.kernels, w.products) == wanted, (w.kernels, w.products, wanted)


def test_docs():
    page = (SOURCE / "docs" / "performance.md").read_text()
    tables = re.search(r"<!-- predicted -->\n(.*?)\n<!-- /predicted -->", page, re.S).group(1)
    printed = subprocess.run([sys.executable, "-B", SCRIPT], capture_output=True, text=True, check=True).stdout
    assert printed.strip() == tables.strip(), "docs/performance.md has other tables than scripts/predict.py prints"
    for (_, prompts, group), target in predict.TARGETS.items():
        assert f"{prompts} x {group} x 160" in tables and f"| {target} |" in tables


def test_plans():
    """PLANS are what nla-train plans for Qwen3-8B's shape, whose weights are holes."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, "-B", SOURCE / "scripts" / "make-shape.py", "--out", folder, "--sparse"], stdout=subprocess.DEVNULL, check=True)
        for memory, prompts, group, plan in ((m, *step, plan) for m, steps in predict.PLANS.items() for step, plan in steps.items()):
            said = subprocess.run([Path(os.environ["BUILD_DIR"]) / "nla-train", "--check", "--memory", f"{memory / 1e9:.0f}G", "--prompts", str(prompts),
                                   "--group", str(group), f"{folder}/config.json"], capture_output=True, text=True, check=True).stdout
            rows, micro, blocks = re.search(r"cache .* (\d+) rows of (?s:.*)activations .* (\d+) of \d+ responses a backward pass, .*blocks (\w+)", said).groups()
            assert plan == (blocks == "recomputed", int(micro), int(rows)), (memory, prompts, group, plan, said)


if __name__ == "__main__":
    for test in test_hand_count, test_times, test_launches, test_docs, test_plans:
        test()
        print(f"{test.__name__}: ok")
