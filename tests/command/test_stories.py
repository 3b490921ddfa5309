#!/usr/bin/env python3
"""demo/stories.py: a corpus is reproducible, explanations say only what the text has told, `check` finds what they invent."""

import importlib.util
import json
import os
import random
import subprocess
import sys
import tempfile

ROOT = os.environ.get("SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEMO = os.path.join(ROOT, "demo")
sys.path.insert(0, DEMO)
sys.dont_write_bytecode = True
import stories  # noqa: E402

FIRST_STORY = (
    "One snowy morning, a brave rabbit called Finn felt lonely. His home was by the lake. A crow came and took his "
    "black book away. Finn called, but the crow did not listen. Then the rabbit went to the market. He saw a bear, "
    "and it was Oscar. Finn told the bear about the book. The bear gave the crow some seeds, and it left the book "
    "in the grass. Finn thanked Oscar and took the black book. The rabbit took the book home to the lake. Oscar the"
    " bear came to visit in spring. Finn ate some carrots and went to bed.")


def run(*args, stdin=None):
    command = [sys.executable, "-B", os.path.join(DEMO, "stories.py"), *args]
    done = subprocess.run(command, input=stdin, capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def must(*args, stdin=None):
    code, out, err = run(*args, stdin=stdin)
    assert code == 0, err
    return out


def prefixes(count, split):
    """(story, prefix, inside) at random characters, so that every kind of cut occurs."""
    rng = random.Random(split)
    for number in range(count):
        story = stories.make_story(5, split, number)
        cut = rng.randint(30, len(story["text"]))
        prefix = story["text"][:cut].rstrip()
        after = story["text"][len(prefix):len(prefix) + 1]
        yield story, prefix, prefix[-1].isalpha() and after.isalpha()


def test_corpus(folder):
    paths = [os.path.join(folder, name) for name in ("a.jsonl.gz", "b.jsonl.gz", "longer.jsonl.gz", "eval.jsonl.gz")]
    for path, docs, split in zip(paths, (60, 60, 80, 60), ("train", "train", "train", "eval")):
        must("corpus", "--seed", "3", "--docs", str(docs), "--out", path, "--split", split)
    with open(paths[0], "rb") as one, open(paths[1], "rb") as other:
        assert one.read() == other.read()
    first, longer, held_out = (stories.read_lines(paths[i]) for i in (0, 2, 3))
    assert longer[:60] == first and len(longer) == 80
    ids = [story["doc_id"] for story in longer + held_out]
    assert len(set(ids)) == len(ids)
    assert not {story["text"] for story in longer} & {story["text"] for story in held_out}
    assert stories.make_story(1, "pretrain", 0)["text"] == FIRST_STORY


def test_stories_tell_their_facts():
    texts = set()
    for number in range(400):
        story = stories.make_story(4, "train", number)
        text, facts = story["text"], story["facts"]
        texts.add(text)
        assert 60 <= len(text.split()) <= 130, text
        assert "{" not in text and '"' not in text and "\n" not in text and "-" not in text
        for key in ("name", "animal", "trait", "place", "goal", "object", "colour", "mood", "weather", "time", "friend"):
            assert stories.has_word(text, facts[key]), (key, text)
        assert text.count(facts["object"]) >= 2, text
        assert [scene for scene, _ in facts["scenes"]] == stories.SCENES
        for word, kind in stories.KIND_OF.items():      # a word of the closed lists is there only because it is a fact
            if kind not in ("time", "food", "scene") and stories.has_word(text, word):
                assert word in facts.values(), (word, text)
    assert len(texts) == 400


def test_explanations_say_what_the_text_says():
    rows, lines, lengths = [], [], {0.0: [], 0.25: [], 0.5: [], 0.75: [], 1.0: []}
    for story, prefix, inside in prefixes(1500, "explain"):
        level = list(lengths)[len(rows) % 5]
        tokens = ["fix", " was"] if inside else [" fell", "."]
        said = stories.explain(prefix, story["facts"], tokens, level, random.Random(len(rows)), inside)
        assert "\n" not in said and "<" not in said and said.endswith("."), said
        last, following, _ = stories.claims(said)
        words = prefix.split()
        whole = words[-4:] if inside else words[-3:]
        assert last == " ".join(whole) + ("-" if inside else ""), (last, prefix)
        assert following == ("-fix" if inside else "fell"), said
        lengths[level].append(len(said.split()))
        scene = stories.mentioned(prefix, story["facts"])["scene"]
        rows.append({"doc_id": story["doc_id"], "text": prefix, "next": tokens, "scene": scene})
        lines.append({"row": len(rows) - 1, "explanation": said})
    found = stories.check(rows, lines)
    assert found["facts_invented"] == 0 and found["facts_stated"] > 5000, found
    assert found["last_word_right"] == found["next_right"] == 1500, found
    means = [sum(counts) / len(counts) for counts in lengths.values()]
    assert all(a * 1.2 < b for a, b in zip(means, means[1:])), means
    assert means[0] < 10 and 45 < means[-1] < 65, means


def test_level_is_continuous():
    """Between neighbouring levels the mean length moves by little: no jump from one style to another."""
    cuts = list(prefixes(250, "levels"))
    means = []
    for step in range(11):
        said = [stories.explain(prefix, story["facts"], [" fell", " was"], step / 10, random.Random(i), inside)
                for i, (story, prefix, inside) in enumerate(cuts)]
        means.append(sum(len(text.split()) for text in said) / len(said))
    assert means == sorted(means) and max(b - a for a, b in zip(means, means[1:])) < 12, means


def test_explain_and_check_commands(folder):
    corpus, rows, out = (os.path.join(folder, name) for name in ("x.jsonl.gz", "rows.jsonl.gz", "rows2.jsonl.gz"))
    must("corpus", "--seed", "7", "--docs", "40", "--out", corpus, "--split", "train")
    made = [{"doc_id": story["doc_id"], "n_raw_tokens": 30, "text": story["text"][:200 + i], "next": [" the", "."]}
            for i, story in enumerate(stories.read_lines(corpus))]
    stories.write_lines(rows, made)
    must("explain", "--rows", rows, "--corpus", corpus, "--seed", "1", "--out", out)
    explained = stories.read_lines(out)
    assert [{key: row[key] for key in made[0]} for row in explained] == made
    assert len({row["level"] for row in explained}) == 40
    said = [json.dumps({"row": i, "explanation": row["explanation"]}) for i, row in enumerate(explained)]
    report = json.loads(must("check", "--rows", out, stdin="\n".join(said)))
    assert report["explanations"] == 40 and report["confabulation_rate"] == 0 and report["last_word_right"] == 40, report

    said = 'ends "the zebra", next "x". Zed the dragon in the garden with a red kite, sad'
    wrong = [json.dumps({"row": row, "explanation": text}) for row, text in enumerate([said, None, 'ends "broken off'])]
    text = {word: stories.has_word(explained[0]["text"], word) for word in ("garden", "red", "kite", "sad")}
    report = json.loads(must("check", "--rows", out, stdin="\n".join(wrong)))
    assert report["facts_stated"] == 4 and report["facts_invented"] == sum(not there for there in text.values()) > 0, report
    assert report["last_word_right"] == 0 and report["empty"] == 1 and report["next_right"] == 0, report

    made[3]["text"] = "Another text"
    stories.write_lines(rows, made)
    code, _, err = run("explain", "--rows", rows, "--corpus", corpus, "--out", out)
    assert code == 1 and "row 3" in err, err
    code, _, err = run("check", "--rows", out, stdin='{"row": 40, "explanation": "x"}')
    assert code == 1 and "row 40" in err, err


def test_templates_and_chats(folder):
    facts = json.loads(must("templates"))
    assert facts["av"].count("{injection_char}") == 1 and facts["ar"].count("{explanation}") == 1
    assert len(facts["injection_char"]) == 1
    suffix = facts["ar_suffix"]
    assert facts["ar"].endswith("{explanation}" + suffix) and suffix[0] == " " and suffix[1].isalpha()
    chats = os.path.join(folder, "chat.jsonl.gz")
    must("chat", "--seed", "2", "--docs", "600", "--out", chats)
    made = stories.read_lines(chats)
    before, after = facts["ar"].split("{explanation}")
    explained = plain = 0
    for chat in made:
        text = chat["text"]
        assert facts["injection_char"] not in text
        if text.startswith(before):
            said, rest = text[len(before):].split(after)
            assert rest.startswith(" ") and 'ends "' in said.replace("Ends", "ends"), text
            plain += 1
            continue
        user, answer = text.split("<|im_end|>\n<|im_start|>assistant\n")
        assert user.startswith("<|im_start|>user\n") and answer.endswith("<|im_end|>\n") and text.count("<|im_start|>") == 2
        if stories.REQUEST in user:
            said = answer[len("<explanation>\n"):-len("\n</explanation><|im_end|>\n")]
            assert answer == f"<explanation>\n{said}\n</explanation><|im_end|>\n" and "\n" not in said
            found = stories.check([{"text": user.split("\n", 2)[2]}], [{"row": 0, "explanation": said}])
            assert found["facts_invented"] == 0 and found["last_word_right"] == 1, text
            explained += 1
    assert 300 <= explained <= 420 and 80 <= plain <= 180, (explained, plain)


def test_tokenizer(folder):
    from tokenizers import Tokenizer
    corpus, chat, out = (os.path.join(folder, name) for name in ("t.jsonl.gz", "tc.jsonl.gz", "tokenizer.json"))
    must("corpus", "--docs", "2000", "--out", corpus)
    must("chat", "--docs", "2000", "--out", chat)
    figures = json.loads(must("tokenizer", "--corpus", corpus, "--chat", chat, "--out", out))
    assert figures["vocab_size"] <= 1536 and figures["tokens_per_word"] < 1.25 and figures["longest_story"] < 192, figures
    tokenizer = Tokenizer.from_file(out)
    for item in stories.read_lines(chat)[:300]:
        ids = tokenizer.encode(item["text"], add_special_tokens=False).ids
        assert tokenizer.decode(ids, skip_special_tokens=False) == item["text"]
    suffix = tokenizer.encode(stories.system_facts()["ar_suffix"]).ids
    for end in ("kite", "kite.", 'kite".', 'kite"'):
        assert tokenizer.encode(stories.AR_TEMPLATE.format(explanation=end)).ids[-len(suffix):] == suffix
    prompt = tokenizer.encode(stories.AV_TEMPLATE.format(injection_char=stories.MARKER)).ids
    assert prompt.count(tokenizer.token_to_id(stories.MARKER)) == 1
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    assert config["vocab_size"] == figures["vocab_size"] and config["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")


def main():
    with tempfile.TemporaryDirectory() as folder:
        test_corpus(folder)
        test_stories_tell_their_facts()
        test_explanations_say_what_the_text_says()
        test_level_is_continuous()
        test_explain_and_check_commands(folder)
        test_templates_and_chats(folder)
    if importlib.util.find_spec("tokenizers"):
        tokenizer_main()
    elif os.path.exists(os.environ.get("REFERENCE_PYTHON", "")):
        subprocess.run([os.environ["REFERENCE_PYTHON"], "-B", os.path.abspath(__file__), "tokenizer"], check=True)
    else:
        print("stories: tokenizer not tested: no python with the 'tokenizers' package")
    print("stories: all tests passed")


def tokenizer_main():
    with tempfile.TemporaryDirectory() as folder:
        test_tokenizer(folder)


if __name__ == "__main__":
    tokenizer_main() if sys.argv[1:] == ["tokenizer"] else main()
