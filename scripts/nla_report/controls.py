"""Controls of an evaluation: texts that are given to the AR in place of its explanations, and what they are called.

A control has the rows of its evaluation, and as many samples of each where it is made of the explanations. One that failed has no
words to shuffle or cut: it stays the failure that it is.
"""

import hashlib
import json
import random
import re

from .words import CJK

DECODING = ("max_new_tokens", "min_new_tokens", "truncated")            # beside the temperature; of given texts it says nothing
CUTS = {f"first-{k}": k for k in (2, 4, 8, 16, 32)}                     # words
NAMES = {"another": "another row's vector", "empty": "no words", "text": "the row's own text", "shuffled": "its words, shuffled",
         "first": "first words of {base}, as long", **{name: f"its first {k} words" for name, k in CUTS.items()}}
PIECE = re.compile(rf"(\s*)([{CJK}]|[^\s{CJK}]+)")                      # a word and the space in front of it


def digest(*what):
    return hashlib.sha256(json.dumps(what).encode()).hexdigest()


def mark(evaluation):
    """Of what controls are made of besides texts: AV, AR and the settings, by what they gave."""
    return digest([evaluation.summary.get(key) for key in ("seed", "temperature", "fail_mse")],
                  [(row, s["mse"]) for row, samples in sorted(evaluation.rows.items()) for s in samples])


def stands(control, evaluation):
    """Was it made of this evaluation, and decoded alike? One without a mark (older, or of scripts/sweep.sh's gate) is believed where its settings are the same."""
    facts = control.summary.get("control")
    made_for = facts.get("evaluation") if isinstance(facts, dict) else None
    keys = (("seed", "temperature", "fail_mse", "av", "ar", "samples") if made_for is None else ()) + (() if control.given else DECODING)
    return made_for in (None, mark(evaluation)) and all(control.summary[key] == evaluation.summary[key] for key in keys
                                                        if key in control.summary and key in evaluation.summary)


def shuffled(text, seed):
    """The same words in another order, between the same spaces."""
    pieces = PIECE.findall(text)
    found = [word for _, word in pieces]
    random.Random(f"shuffled {seed}").shuffle(found)
    return "".join(space + word for (space, _), word in zip(pieces, found))


def first(text, count):
    return "".join(space + word for space, word in PIECE.findall(text)[:count])


def cut(samples, mean):
    """The first words of each (text, tokens): at most so many tokens of each that their mean comes near `mean`. Tokens of a cut text are
    estimated, by its share of the characters."""
    ends = [[(m.end() * tokens / len(text), m.end()) for m in PIECE.finditer(text)] for text, tokens in samples]

    def at_most(cap):
        return [next((e for e in reversed(one) if e[0] <= cap), one[0] if one else (0, 0)) for one in ends]

    def off(cap):
        return sum(tokens for tokens, _ in at_most(cap)) - mean * len(ends)
    low, high = 0.0, max((one[-1][0] for one in ends if one), default=0.0)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if off(middle) < 0 else (low, middle)
    return [text[:end] for (text, _), (_, end) in zip(samples, at_most(min(low, high, key=lambda cap: abs(off(cap)))))]


def texts_of(evaluation, set_texts):
    """{name: [(row, text, failed sample or None)]} of what can be made of the evaluation alone."""
    samples = [(row, i, s) for row in sorted(evaluation.rows) for i, s in enumerate(evaluation.rows[row])]

    def of_samples(make):
        return [(row, None, s) if s["failed"] else (row, make(s["explanation"] or "", row, i), None) for row, i, s in samples]
    out = {"empty": [(row, "", None) for row in sorted(evaluation.rows)]}
    if all(set_texts.get(row) for row in evaluation.rows):
        out["text"] = [(row, set_texts[row], None) for row in sorted(evaluation.rows)]
    out["shuffled"] = of_samples(lambda text, row, i: shuffled(text, f"{row} {i}"))
    longest = max((len(PIECE.findall(s["explanation"] or "")) for _, _, s in samples if not s["failed"]), default=0)
    for name, k in CUTS.items():
        if k < longest:
            out[name] = of_samples(lambda text, row, i, k=k: first(text, k))
    return out


def mean_tokens(evaluation):
    """Of the explanations that did not fail."""
    tokens = [s["explanation_tokens"] or 0 for samples in evaluation.rows.values() for s in samples if not s["failed"]]
    return sum(tokens) / len(tokens) if tokens else 0.0


def first_of(base, rows, mean):
    """As texts_of: the first words of another evaluation's explanations of these rows."""
    samples = [(row, s) for row in sorted(rows) for s in base.rows[row]]
    whole = [(s["explanation"] or "", s["explanation_tokens"] or 0) for _, s in samples if not s["failed"]]
    made = iter(cut(whole, mean))
    return [(row, None, s) if s["failed"] else (row, next(made), None) for row, s in samples]
