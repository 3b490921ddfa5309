"""What a penalty does to the wording: words kept from another explanation of the same row, type-token ratios, differences word by word."""

import difflib
import re
from collections import Counter

CJK = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"                         # scripts without spaces: a character is a word
WORD = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['\u2019][^\W{CJK}]+)*")


def words(text):
    return WORD.findall(text.lower()) if text else []


def kept(source, other):
    """Share of `source`'s words that `other` has too, each as often as it stands there; None without words."""
    return sum((Counter(source) & Counter(other)).values()) / len(source) if source else None


def average(values):
    values = [v for v in values if v is not None]
    return sum(values) / len(values) if values else None


def first_words(evaluation, rows):
    """The words of every row's first explanation."""
    return [words(next((s["explanation"] for s in evaluation.rows[row] if s["explanation"]), "")) for row in rows]


def kept_between(sources, others):
    """Mean share over rows and over pairs of runs."""
    return average([average([kept(a, b) for a, b in zip(source, other)]) for source in sources for other in others if source is not other])


def elsewhere(documents):
    """For every row the place of the next that is of another document, around the end; None where all are of one. Texts of a
    document have more in common than chance."""
    n, found = len(documents), [None] * len(documents)
    for i in reversed(range(2 * n)):
        here, after = i % n, (i + 1) % n
        found[here] = after if documents[after] != documents[here] else found[after]
    return found


def wording(groups, base, rows, documents=None):
    """{label: numbers} for every group; those of `base` say how much two runs of it share."""
    every = {g.label: [first_words(e, rows) for e in g.evaluations] for g in groups}
    zero = every[base.label]
    samples = [[words(s["explanation"]) for s in (base.evaluations[0].rows[row] * 2)[:2]] for row in rows]
    repeated = all(len(base.evaluations[0].rows[row]) > 1 for row in rows)
    total = min((n for texts in every.values() for one in texts if (n := sum(map(len, one)))), default=0)
    found, other = {}, elsewhere(documents or rows)
    for g in groups:
        texts = every[g.label]
        same = g is base
        if same and len(texts) < 2:                                     # one run: two samples of it, or nothing
            texts_kept = average([kept(a, b) for a, b in samples]) if repeated else None
            texts_found = average([kept(b, a) for a, b in samples]) if repeated else None
        else:
            texts_kept, texts_found = kept_between(zero, texts), kept_between(texts, zero)
        found[g.label] = {
            "words": average([len(w) for one in texts for w in one]),
            "kept": texts_kept, "found": texts_found,
            "kept_of": "samples" if same and len(texts) < 2 else "seeds" if same else "runs",
            "kept_other_row": average([kept(a, one[j]) for z in zero for one in texts for a, j in zip(z, other)
                                       if j is not None]),
            "type_token": average([len(set(w)) / len(w) for one in texts for w in one if w]),
            "type_token_pooled": average([pooled(one, total) for one in texts])}
    return found


def pooled(texts, total):
    """Different words of the first `total` words of all texts: as many for every run, or the ratio would follow from the length."""
    all_words = [w for text in texts for w in text][:total]
    if not all_words:
        return None
    return len(set(all_words)) / total


def differences(old, new):
    """[(op, text)] with op "=", "-" (only in old) or "+" (only in new), a text its words with the space around them."""
    a, b = re.findall(r"\s*\S+", old), re.findall(r"\s*\S+", new)
    matcher = difflib.SequenceMatcher(None, [x.strip().lower() for x in a], [x.strip().lower() for x in b], autojunk=False)
    parts = []
    for op, a0, a1, b0, b1 in matcher.get_opcodes():
        if op == "equal":
            parts.append(("=", "".join(b[b0:b1])))
        else:
            parts += [(sign, "".join(x)) for sign, x in (("-", a[a0:a1]), ("+", b[b0:b1])) if x]
    return parts
