"""Compares our tokenizer with the `tokenizers` library on text of this machine and random Unicode: ids, and decode(encode(x)).

    tokenizer_compare.py [TOK_IDS [FOLDER]]

TOK_IDS is the built tests/tools/tok_ids (default: BUILD_DIR/tests/tok_ids); FOLDER holds tokenizer.json (default:
NLA_SHARED/qwen3, NLA_SHARED defaulting to the folder `shared` beside the repository). Needs the reference python
(NLA_REFERENCE, which scripts/setup.sh exports, or REFERENCE_PYTHON; default ~/.cache/nla/reference/bin/python) and exits 77 without it or the folder.
"""
import os
import pathlib
import random
import re
import subprocess
import sys
import unicodedata

SKIP = 77
REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
SHARED = pathlib.Path(os.environ.get("NLA_SHARED") or REPOSITORY.parent / "shared")
PYTHON = (os.environ.get("NLA_REFERENCE") or os.environ.get("REFERENCE_PYTHON")
          or os.path.expanduser("~/.cache/nla/reference/bin/python"))

# Text of this Debian: Python's library and its documentation, licences, locale data, C headers, the repository itself.
FOLDERS = [
    ("/usr/lib/python3", ".py"), ("/usr/lib/python3.11", ".py"), ("/usr/include", ".h"),
    ("/usr/share/common-licenses", ""), ("/usr/share/i18n/locales", ""), ("/usr/share/perl", ".pod"),
    ("/usr/share/perl", ".pl"), ("/usr/share/doc", ""), ("/usr/share/iso-codes", ".json"),
    (str(REPOSITORY / "src"), ".c"), (str(REPOSITORY), ".md"),
]
BYTES_A_FOLDER = 400_000
LARGEST_FILE = 120_000

# Scripts as code point ranges; the last ones are assigned after Unicode 14, which PCRE2 10.42 does not know.
RANGES = [
    (0x20, 0x7E), (0x20, 0x7E), (0x00, 0x1F), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x3FF), (0x400, 0x52F),
    (0x531, 0x5F4), (0x600, 0x6FF), (0x900, 0x97F), (0xE00, 0xE5B), (0x0F00, 0x0FDA), (0x10A0, 0x10FF),
    (0x1100, 0x11FF), (0x1780, 0x17F9), (0x1800, 0x18AA), (0x1E00, 0x1FFE), (0x2000, 0x206F), (0x2070, 0x218B),
    (0x2190, 0x23FF), (0x2460, 0x27BF), (0x3000, 0x30FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFAFF),
    (0xFB00, 0xFB4F), (0xFE00, 0xFFFF), (0x10000, 0x100FA), (0x10330, 0x1034A), (0x1D400, 0x1D7FF), (0x1F000, 0x1FAFF),
    (0x20000, 0x2A6DF), (0xE000, 0xF8FF), (0xE0000, 0xE01EF), (0x105C0, 0x105F3), (0x16D40, 0x16D79),
    (0x1E030, 0x1E06D), (0x31350, 0x323AF), (0x2EBF0, 0x2EE5D),
]
GLUE = [
    " ", "  ", "\n", "\r\n", "\n\n", "\t", " \n ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\u200d", "'s",
    "'LL", "'\u017f", "'S ", "123", "4567890", "e\u0301", "\u0301", "\u1100\u1161\u11a8",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\ufe0f", "\x00", "...", "!?\r\n", "_", "\u2126", "\u212b", "\ufb01",
    "q\u0307\u0323",
]


def library_text():
    for folder, ending in FOLDERS:
        left = BYTES_A_FOLDER
        for path in sorted(p for p in pathlib.Path(folder).rglob("*" + ending) if p.is_file()):
            if left <= 0:
                break
            data = path.read_bytes()[:LARGEST_FILE]
            try:
                text = data.decode()
            except UnicodeDecodeError as e:
                if e.start < len(data) - 4:
                    continue
                text = data[: e.start].decode()
            if text:
                left -= len(data)
                yield text


def random_text(rng, added):
    scripts = rng.sample(RANGES, rng.randint(1, 6))
    out = []
    for _ in range(rng.randint(1, 60)):
        kind = rng.random()
        if kind < 0.6:
            lo, hi = rng.choice(scripts)
            out.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 8))))
        elif kind < 0.93:
            out.append(rng.choice(GLUE))
        else:
            out.append(rng.choice(added))
    return "".join(out)


def documents(tokenizer):
    rng = random.Random(20240607)
    added = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    docs = list(library_text())
    docs += [d.replace("\n", "\r\n") for d in docs[::17]]
    docs += [random_text(rng, added) for _ in range(6000)]
    # Every assigned character once, between others: what is a letter, a number, white space.
    every = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000]
    docs += ["a" + "1 ".join(every[i : i + 64]) for i in range(0, len(every), 64)]
    docs += ["", " ", " " * 1000, "\n" * 1000, " \n" * 500 + "x", "a" * 5000, "\u0301" * 200, "ab" * 3000 + "\u4e00" * 3000]
    return docs


def expectation(tokenizer):
    """What decode(encode(text)) must be: the text in normal form between added tokens, which cut it before it is normalised.
    Where tokens strip white space or bytes are missing, that is what the reference decodes."""
    from tokenizers import pre_tokenizers

    nfc = tokenizer.normalizer is not None
    tokens = list(tokenizer.get_added_tokens_decoder().values())
    lossless = all(tokenizer.token_to_id(c) is not None for c in pre_tokenizers.ByteLevel.alphabet())
    if not lossless or any(t.lstrip or t.rstrip or t.normalized for t in tokens):
        return lambda doc: tokenizer.decode(tokenizer.encode(doc, add_special_tokens=False).ids, skip_special_tokens=False)
    cut = re.compile("(" + "|".join(re.escape(t.content) for t in sorted(tokens, key=lambda t: -len(t.content))) + ")")
    return lambda doc: "".join(unicodedata.normalize("NFC", part) if nfc else part for part in cut.split(doc))


def framed(docs):
    return b"".join(b"%d\n%s" % (len(d), d) for d in docs)


def unframe(data):
    docs, at = [], 0
    while at < len(data):
        end = data.index(b"\n", at)
        n = int(data[at:end])
        docs.append(data[end + 1 : end + 1 + n])
        at = end + 1 + n
    return docs


def run(program, folder, data, *options):
    done = subprocess.run([program, folder, *options], input=data, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if done.returncode:
        sys.exit(f"{program} failed: {done.stderr.decode()}")
    return done.stdout, done.stderr.decode().strip()


def main():
    program = sys.argv[1] if len(sys.argv) > 1 else os.path.join(os.environ.get("BUILD_DIR", "build"), "tests", "tok_ids")
    folder = pathlib.Path(sys.argv[2]) if len(sys.argv) > 2 else SHARED / "qwen3"
    if not (folder / "tokenizer.json").exists():
        print(f"skipped: no tokenizer.json in {folder}")
        return SKIP
    try:
        import tokenizers
    except ImportError:
        here, there = (os.path.realpath(p) for p in (sys.prefix, os.path.join(os.path.dirname(PYTHON), "..")))
        if os.path.exists(PYTHON) and here != there:
            return subprocess.run([PYTHON, __file__, *sys.argv[1:]]).returncode
        print(f"skipped: no python with the tokenizers library ({PYTHON})")
        return SKIP

    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    expected = expectation(tokenizer)
    docs = documents(tokenizer)
    data = framed([d.encode() for d in docs])
    want = [e.ids for e in tokenizer.encode_batch(docs, add_special_tokens=False)]
    out, seconds = run(program, str(folder), data)
    got = [[int(x) for x in line.split()] for line in out.decode().split("\n")[:-1]]
    back = [d.decode() for d in unframe(run(program, str(folder), data, "--decode")[0])]
    print(f"{len(docs)} documents, {len(data)} bytes, {sum(map(len, want))} tokens; {seconds}")
    if len(data) < 1_000_000 or not len(docs) == len(got) == len(back):
        sys.exit(f"{len(docs)} documents, {len(got)} answers, {len(back)} texts, {len(data)} bytes: want all of at least 1 MB")

    wrong = 0
    for doc, a, b, text in zip(docs, want, got, back):
        if a == b and text == expected(doc):
            continue
        wrong += 1
        if wrong <= 5:
            k = next((i for i, (x, y) in enumerate(zip(a, b)) if x != y), min(len(a), len(b)))
            tokens = [tokenizer.id_to_token(t) for t in a[k : k + 6]]
            print(f"differs at token {k} of {len(a)}: want {a[k : k + 6]} {tokens}, got {b[k : k + 6]}; {doc[:60]!r}")
    print(f"{wrong} documents differ")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
