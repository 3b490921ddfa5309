#!/usr/bin/env python3
"""nla-explain-html: colours, links, samples and runs side by side; hostile tokens cannot act; files that are no explanations of one text
are refused in one line."""

import json
import os
import re
import subprocess
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
sys.path.insert(0, str(SOURCE / "scripts"))
sys.dont_write_bytecode = True
from nla_report import explained, runs  # noqa: E402

HOSTILE = ["</script>", "<b>&amp;", "\"'><img src=x onerror=alert(1)>", "\u202egnp", "\x00\x1b[31m\x7f\x9b", "\n", "\t", " ", "\ufffd", "\ud83d", "a\u200db", "", "]]>", "{{x}}"]
VOID = {"meta"}


class Page(HTMLParser):
    """Balanced, with tags and attributes of ours alone; articles by id, the links of every text."""

    def __init__(self, text):
        super().__init__()
        self.stack, self.texts, self.articles, self.at = [], [], {}, None
        self.feed(text)
        assert not self.stack, self.stack

    def handle_starttag(self, tag, attributes):
        names = dict(attributes)
        assert tag in {"html", "head", "meta", "title", "style", "body", "main", "header", "h1", "h2", "h3", "h4", "p", "span", "a", "div", "section", "aside", "article",
                       "code", "nav", "em"}, tag
        assert names.keys() <= {"lang", "charset", "name", "content", "http-equiv", "class", "style", "href", "title", "id", "dir", "aria-label"}, names
        assert re.fullmatch(r"#t\d+", names.get("href", "#t0")) and re.fullmatch(r"--v:[\d.]+", names.get("style", "--v:0")), names
        self.at = names["id"] if tag == "article" else None if tag == "aside" else self.at
        if tag == "p" and "text" in names.get("class", ""):
            self.texts.append([])
        if tag == "a" and "t" in names.get("class", "").split():
            self.texts[-1].append((names["href"], names.get("style"), names["class"], names["title"], ""))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag, tag

    def handle_data(self, data):
        if self.at:
            self.articles[self.at] = self.articles.get(self.at, "") + data
        elif "a" in self.stack:
            self.texts[-1][-1] = (*self.texts[-1][-1][:-1], self.texts[-1][-1][-1] + data)


def line(position, token, fve, text, failed=None, **more):
    return {"position": position, "token": token, "explanation": None if failed else text, "response": text, "failed": failed, "response_tokens": 12,
            "mse": 1 - fve, "cosine": 0.5 + fve / 2, "norm": 3.0, "fve": fve, **more}


def write(path, lines):
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return path


def program(out, *args, code=0, script=SOURCE / "scripts" / "nla-explain-html", stdin=None):
    done = subprocess.run([sys.executable, "-B", str(script), "-o", str(out), *map(str, args)], capture_output=True, text=True, input=stdin)
    assert done.returncode == code and "Traceback" not in done.stderr, f"{args}: exit {done.returncode}\n{done.stderr}"
    return (Page(Path(out).read_text("utf-8")) if not code else None), done.stderr


def test_page(tmp):
    a = write(tmp / "a.jsonl", [line(0, "The", 0.84, "one two three"), line(1, " fox", -0.3, "x"), line(2, " ran", 0.5, "broken off", "truncated"), line(7, " on", 2.0, "y")])
    samples = [("red fox ran", 0.2), ("red fox", 0.6), ("cat", 0.4)]
    b = write(tmp / "b.jsonl", [line(0, "The", fve, text, agreement=0.75) for text, fve in samples] + [line(1, " fox", 0.1, "z", agreement=0.25)])
    page, said = program(tmp / "p.html", f"lambda 0={a}", b)
    assert "wrote" in said and len(page.texts) == 2
    first, second = page.texts
    assert [x[0] for x in first] == ["#t0", "#t1", "#t2", "#t7"] and [x[4] for x in first] == ["The", " fox", " ran", " on"], first
    assert [x[1] for x in first] == ["--v:0.8", None, "--v:0.5", "--v:1"] and "below" in first[1][2] and first[1][3] == "FVE −0.30", first
    assert second[0][1] == "--v:0.4" and list(page.articles) == ["t0", "t1", "t2", "t7"]
    text = (tmp / "p.html").read_text("utf-8")
    assert text.count('<span class="gap">') == 1 and "prefers-color-scheme:dark" in text and "@media print" in text and "<script" not in text and "url(" not in text
    # Words kept of each other, both ways: (2/3 + 1 + 0 + 0 + 0 + 0) / 6.
    assert "lambda 0" in page.articles["t0"] and "one two three" in page.articles["t0"] and "two samples share 28 % of their words" in page.articles["t0"]
    assert "cosine of their reconstructions 0.75" in page.articles["t0"] and "failed: truncated broken off" in page.articles["t2"]
    assert "not explained" in page.articles["t7"] and "←" in page.articles["t1"] and "→" not in page.articles["t7"]
    assert "12 tokens a response" in text and "tokens an explanation" not in text
    assert "mean FVE 0.76" in text and "1 of 4 failed" in text                                   # (0.84 - 0.3 + 0.5 + 2) / 4
    one, _ = program(tmp / "p.html", "-", stdin=a.read_text())
    assert len(one.texts) == 1 and one.texts[0][0][4] == "The"


def test_without_fve(tmp):
    """Without a baseline in one of them all are by cosine."""
    a = write(tmp / "a.jsonl", [line(0, "x", 0.5, "y")])
    b = write(tmp / "b.jsonl", [{k: v for k, v in line(0, "x", 0.2, "y").items() if k != "fve"}])
    page, _ = program(tmp / "p.html", a, b)
    assert [t[0][1] for t in page.texts] == ["--v:0.8", "--v:0.6"] and page.texts[0][0][3] == "cosine 0.75", page.texts


def test_hostile(tmp):
    a = write(tmp / "<i>&a.jsonl", [line(i, token, 0.5, token + "".join(HOSTILE), failed=token if i % 3 == 0 else None) for i, token in enumerate(HOSTILE)])
    page, _ = program(tmp / "h.html", a, "--title", HOSTILE[2])
    text = (tmp / "h.html").read_bytes()
    assert [x[4] for x in page.texts[0]] == ["</script>", "<b>&amp;", HOSTILE[2], "⟨U+202E⟩gnp", "␀␛[31m␡⟨U+009B⟩", "↵\n", "⇥\t", " ", "\ufffd", "\ufffd", "a\u200db", "", "]]>",
                                            "{{x}}"], page.texts[0]
    for unseen in (b"\x00", b"\x1b", b"\x7f", "\u202e".encode(), b"<img", b"</script"):
        assert unseen not in text, unseen
    raw = tmp / "raw.jsonl"
    raw.write_bytes(b'{"position":0,"token":"\xe2\x82","explanation":"\xff","mse":1,"fve":0}\n{"position":1,"token":"\xac","explanation":"x","mse":1,"fve":0}\n{"posit')
    page, _ = program(tmp / "h.html", raw)
    assert [x[4] for x in page.texts[0]] == ["\ufffd", "\ufffd"], page.texts


def test_refused(tmp):
    a = write(tmp / "a.jsonl", [line(0, "The", 0.5, "x"), line(1, " fox", 0.5, "x")])
    other = write(tmp / "other.jsonl", [line(0, "The", 0.5, "x"), line(1, " cat", 0.5, "x")])
    two = write(tmp / "two.jsonl", [line(0, "The", 0.5, "x"), line(0, "A", 0.5, "x")])
    row = write(tmp / "row.jsonl", [{"row": 1, "mse": 0.5, "explanation": "x"}])
    for args, word in (([tmp / "nowhere"], "there is no file"), ([a, other], "token 1 is ' fox' in 'a' and ' cat' in 'other'"), ([two], "more than one text"),
                       ([row], "--positions all")):
        _, said = program(tmp / "r.html", *args, code=1)
        assert word in said and said.count("\n") == 1, said
    assert "cannot write" in program(tmp / "a.jsonl" / "x.html", a, code=1)[1]
    program(tmp / "r.html", code=2)
    # Numbers that are none, kinds that are others: a page or one line.
    for value in (None, "x", [], {}, True, 1e400, -1, 10 ** 400, float("nan")):
        for key in ("position", "token", "explanation", "failed", "mse", "fve", "cosine", "response_tokens", "agreement"):
            path = write(tmp / "odd.jsonl", [line(0, "The", 0.5, "x"), {**line(1, "x", 0.5, "y"), key: value}, {**line(1, "x", 0.5, "y"), key: value}])
            try:
                Page(explained.build("t", [explained.Explained("a", path, [])]))
            except runs.Error:
                pass


def main():
    for test in (test_page, test_without_fve, test_hostile, test_refused):
        with tempfile.TemporaryDirectory() as folder:
            test(Path(folder))


if __name__ == "__main__":
    main()
