#!/usr/bin/env python3
"""Real weights: our program against transformers, both in fp32 on the CPU, on the passages of a corpus.

	smollm2_check.py --tools BUILD/tests --model FOLDER --corpus FILE.jsonl.gz [--texts 20] [--new 64] [--score 100000] [--tokens 1000000]

* tokenizer: equal ids, and the text back from them, on --tokens bytes
* greedy: the same --new ids after each of --texts passages: transformers, given them, finds each one the likeliest in its place
* perplexity: equal to 4 digits on --score bytes, in stretches of about 900 tokens

Exit 0: they agree; 1: they differ; 77: no transformers here. All three are computed and printed before it fails.
"""
import argparse
import gzip
import json
import math
import pathlib
import subprocess
import sys
import time

try:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
except ImportError as e:
    print(f"skipped: {e}", file=sys.stderr)
    sys.exit(77)


def tool(args, name, *words, texts):
    """The output lines of a program that reads framed documents."""
    blob = b"".join(b"%d\n%s" % (len(t), t) for t in (t.encode() for t in texts))
    done = subprocess.run([args.tools / name, args.model, *words], input=blob, capture_output=True)
    if done.returncode:
        sys.exit(f"{name}: {done.stderr.decode().strip()}")
    return done.stdout


def take(texts, size):
    """Texts from the first on, until they hold so many bytes."""
    out = []
    for text in texts:
        if size <= 0:
            return out
        out.append(text)
        size -= len(text.encode())
    sys.exit(f"the corpus is {size} bytes short")


def check_tokenizer(args, tokenizer, texts):
    texts = take(texts, args.tokens)
    ours = [list(map(int, line.split())) for line in tool(args, "tok_ids", texts=texts).splitlines()]
    theirs = [tokenizer.encode(t, add_special_tokens=False) for t in texts]
    differ = sum(a != b for a, b in zip(ours, theirs, strict=True))
    back = b"".join(b"%d\n%s" % (len(t), t) for t in (t.encode() for t in texts)) == tool(args, "tok_ids", "--decode", texts=texts)
    print(f"tokenizer: {len(texts)} texts, {sum(len(t.encode()) for t in texts)} bytes, {sum(map(len, theirs))} tokens: "
          f"{differ} texts differ; decoded to {'the same bytes' if back else 'OTHER BYTES'}")
    return not differ and back


def check_greedy(args, tokenizer, model, texts):
    texts, same, narrowest = texts[:args.texts], 0, math.inf
    began = time.time()
    ours = [list(map(int, line.split())) for line in tool(args, "lm_text", "greedy", str(args.new), texts=texts).splitlines()]
    seconds = time.time() - began
    for text, answer in zip(texts, ours, strict=True):
        prompt = tokenizer.encode(text, add_special_tokens=False)
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer[:-1]])).logits[0, len(prompt) - 1:]
        theirs = logits.argmax(-1).tolist()
        margins = [float(a - b) for a, b in logits.topk(2).values]
        narrowest = min(narrowest, *margins)
        same += theirs == answer
        if theirs != answer:
            at = next(i for i, (a, b) in enumerate(zip(theirs, answer)) if a != b)
            print(f"greedy: differs at token {at}, where transformers' first two logits are {margins[at]:.2g} apart: {text[:60]!r}")
    print(f"greedy: {same} of {len(texts)} continuations of {args.new} tokens equal; closest call {narrowest:.2g} in logits; "
          f"ours took {seconds:.0f} s with loading")
    return same == len(texts)


def check_perplexity(args, tokenizer, model, texts):
    stretches, now = [], ""
    for text in take(texts, args.score):
        now += text + "\n"
        if len(now.encode()) > 4000:
            stretches.append(now)
            now = ""
    stretches += [now] * bool(now)
    ours = [line.split() for line in tool(args, "lm_text", "score", texts=stretches).splitlines()]
    n = total = worst = 0
    for stretch, (_, mine) in zip(stretches, ours, strict=True):
        ids = torch.tensor([tokenizer.encode(stretch, add_special_tokens=False)])
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].double()
        theirs = float(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).sum())
        worst = max(worst, abs(theirs - float(mine)) / (ids.shape[1] - 1))
        total += theirs
        n += ids.shape[1] - 1
    assert n == sum(int(count) for count, _ in ours)
    a, b = math.exp(-sum(float(s) for _, s in ours) / n), math.exp(-total / n)
    print(f"perplexity: {sum(len(s.encode()) for s in stretches)} bytes, {n} tokens in {len(stretches)} stretches: ours {a:.6f}, "
          f"transformers {b:.6f}; largest difference of a stretch's mean log-probability {worst:.2g}")
    return abs(a / b - 1) < 5e-5


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("tools", "model", "corpus"):
        parser.add_argument(f"--{name}", type=pathlib.Path, required=True)
    for name, value in (("texts", 20), ("new", 64), ("score", 100_000), ("tokens", 1_000_000)):
        parser.add_argument(f"--{name}", type=int, default=value)
    args = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)
    with gzip.open(args.corpus, "rt", encoding="utf-8") as f:
        texts = [json.loads(line)["text"] for line in f]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    checks = [check_tokenizer(args, tokenizer, texts), check_greedy(args, tokenizer, model, texts),
              check_perplexity(args, tokenizer, model, texts)]
    sys.exit(0 if all(checks) else 1)


if __name__ == "__main__":
    main()
