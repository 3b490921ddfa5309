#!/usr/bin/env python3
"""demo/stories.py: a corpus is reproducible, explanations say only what the text has told. demo/facts.py: what explanations state, counted
by hand, and of the teacher's own, which are true and complete by construction."""

import importlib.util
import json
import os
import random
import re
import stat
import subprocess
import sys
import tempfile

ROOT = os.environ.get("SOURCE_DIR") or os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
DEMO = os.path.join(ROOT, "demo")
sys.path.insert(0, DEMO)
sys.dont_write_bytecode = True
import facts  # noqa: E402
import stories  # noqa: E402

FIRST_STORY = (
    "One snowy morning, a brave rabbit called Finn felt lonely. His home was by the lake. A crow came and took his "
    "black book away. Finn called, but the crow did not listen. Then the rabbit went to the market. He saw a bear, "
    "and it was Oscar. Finn told the bear about the book. The bear gave the crow some seeds, and it left the book "
    "in the grass. Finn thanked Oscar and took the black book. The rabbit took the book home to the lake. Oscar the"
    " bear came to visit in spring. Finn ate some carrots and went to bed.")


def run(*args, program="stories.py"):
    done = subprocess.run([sys.executable, "-B", os.path.join(DEMO, program), *args], capture_output=True, text=True)
    return done.returncode, done.stdout, done.stderr


def must(*args, program="stories.py"):
    code, out, err = run(*args, program=program)
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
        text, known = story["text"], story["facts"]
        texts.add(text)
        assert 60 <= len(text.split()) <= 130, text
        assert "{" not in text and '"' not in text and "\n" not in text and "-" not in text
        for key in ("name", "animal", "trait", "place", "goal", "object", "colour", "mood", "weather", "time", "friend"):
            assert stories.has_word(text, known[key]), (key, text)
        assert text.count(known["object"]) >= 2, text
        assert [scene for scene, _ in known["scenes"]] == stories.SCENES
        for word, key in facts.KEY_OF.items():          # a word of the closed lists is there only because it is a fact
            if key not in ("time", "scene") and stories.has_word(text, word):
                assert word in known.values(), (word, text)
    assert len(texts) == 400


def meant(prefix, known, clauses):
    """The facts of these clauses, as the generator was given them: {(key, 0, word)}."""
    told, found = stories.mentioned(prefix, known), set()
    for keys, _, hedged, full, clipped in stories.fact_clauses(told):
        said = next((clause for clause in clauses if clause in (hedged, full, clipped)), None)
        if said is None:
            continue
        keys = {"object": ("colour", "object"), "weather": ("weather", "time") if said != clipped else ("weather",),
                "name": ("name", "animal", "trait") if said != clipped and "animal" in told else ("name", "animal"),
                "mood": ("mood",)}.get(keys[0], keys)
        values = dict(told, mood=told.get("end_mood") or told.get("mood"))
        found |= {(key, 0, values[key]) for key in keys if values.get(key)}
    return found


def test_explanations_say_what_the_text_says():
    """What the teacher states is true, and what it was given to state is found in its words: nothing else, and nothing less."""
    lengths, clauses, count = {0.0: [], 0.25: [], 0.5: [], 0.75: [], 1.0: []}, [], [0, 0, 0, 0]
    say = stories.Wording.say

    def listen(self, *forms):
        say(self, *forms)
        clauses.append(self.parts[-1][1])
    stories.Wording.say = listen
    cuts = [(story, prefix, inside, ["fix", " was"] if inside else [" fell", "."], None) for story, prefix, inside in prefixes(1500, "explain")]
    for folder in ("eval", "train"):
        for number, row in enumerate(stories.read_lines(os.path.join(DEMO, folder, "rows.jsonl.gz"))):
            cuts.append((facts.story_of(row, number, folder), row["text"], False, row["next"], row))
    for n, (story, prefix, inside, tokens, row) in enumerate(cuts):
        clauses.clear()
        rng = random.Random(f"explain/1/{row['doc_id']}/{len(prefix)}" if row else n)
        level = rng.random() if row else list(lengths)[n % 5]
        said = stories.explain(prefix, story["facts"], tokens, level, rng, inside)
        assert "\n" not in said and "<" not in said and said.endswith("."), said
        assert not row or said == row["explanation"], (said, row)       # the set's own
        truth, stated = facts.truths({"text": prefix, "next": tokens}, story), facts.stated(said)
        given = meant(prefix, story["facts"], clauses)
        for quoted, wanted in (("ends", True), ("after", ' after "' in said), ("next", True)):
            given |= {fact for fact in truth if fact[0] == quoted and wanted}
        given |= {("or", 0, word) for word in re.findall('" or "([^"]+)', said)}
        assert stated == given and not stated - truth, (said, stated ^ given, stated - truth)
        counts, words = facts.judge(truth, stated)
        count = [a + b for a, b in zip(count, [len(stated & truth), len(stated), len(stated & given), len(given)])]
        assert counts["last words"] == [3 + inside, 0, 0] and counts["next"] == [1, 0, 0] and 3 <= words <= len(said.split()), (said, counts)
        if not row:
            lengths[level].append(len(said.split()))
    stories.Wording.say = say
    print(f"stories: of {len(cuts)} explanations of the teacher: precision {count[0] / count[1]:.4f}, "
          f"found {count[2] / count[3]:.4f} of the {count[3]} facts that it was given to state")
    means = [sum(counts) / len(counts) for counts in lengths.values()]
    assert all(a * 1.2 < b for a, b in zip(means, means[1:])), means
    assert means[0] < 10 and 45 < means[-1] < 65, means


HAND = ('The text ends "saw a cat" after "x He". Probably next "and" or "but". Finn, a shy rabbit. Finn. red book, journey, '
        'friend Max the bear, home in the lake. It goes to the lake. sad, snowy morning.')
# true, false, missing: of the text, which breaks off at "He saw a bear," before the friend has a name
HAND_COUNTS = {"last words": [2, 1, 1], "words before": [1, 1, 0], "next": [1, 0, 0], "other next": [1, 0, 1], "who": [2, 1, 1], "thing": [1, 1, 1],
               "scene": [0, 1, 1], "friend": [1, 1, 0], "where": [1, 1, 1], "mood": [0, 1, 1], "weather": [2, 0, 0]}


def test_facts(folder):
    """Counted by hand; then the program on an evaluation of two rows."""
    story = stories.make_story(1, "pretrain", 0)
    rows = [{"doc_id": story["doc_id"], "text": FIRST_STORY[:FIRST_STORY.index("bear,") + 5], "next": [" and", " but", " or"]},
            {"doc_id": "pretrain-1-000001", "text": stories.make_story(1, "pretrain", 1)["text"][:200], "next": []}]
    counts, words = facts.judge(facts.truths(rows[0], story), facts.stated(HAND))
    assert counts == HAND_COUNTS and words == 3 + 2 + 1 + 1 + 3 + 2 + 1 + 2 + 2 + 1 + 2, (counts, words)
    said = facts.stated('Next "." or ",". about". next "x". A friend. HOME in the mill; ends "a, b')       # broken quotations, a name twice
    assert said == {("next", 0, "."), ("or", 0, ","), ("place", 0, "mill"), ("ends", 0, "b"), ("ends", 1, "a,")}, said
    data, evaluation = (os.path.join(folder, name) for name in ("set", "evaluation"))
    os.makedirs(data)
    os.makedirs(evaluation)
    stories.write_lines(os.path.join(data, "rows.jsonl.gz"), rows)
    lines = [{"row": 0, "mse": 0.5, "explanation": HAND}, {"row": 0, "mse": 0.5, "explanation": "Finn"}, {"row": 1, "mse": 0.5, "explanation": HAND},
             {"row": 1, "mse": 2.0, "explanation": None, "failed": "no_tags"}]
    stories.write_lines(os.path.join(evaluation, "rows.jsonl"), lines)
    stories.write_lines(os.path.join(evaluation, "summary.json"), [{"data": "nowhere", "baseline_var": 1}])
    code, _, err = run(folder, program="facts.py")
    assert code == 1 and "no rows in 'nowhere'" in err and "--data" in err, err
    stories.write_lines(os.path.join(evaluation, "summary.json"), [{"data": "set", "baseline_var": 1}])         # a relative one: around the evaluation
    assert "who" in must(folder, program="facts.py")
    assert "who" in must(folder, "--data", data, program="facts.py")
    with open(os.path.join(evaluation, "facts.json"), encoding="utf-8") as file:
        made = json.load(file)
    assert made["row"] == [0, 1] and made["explanations"] == [2, 1] and made["words"] == [38 + 1, 38] and made["words_of_facts"] == [20 + 1, 20], made
    who = made["facts"]["who"]
    assert [who[key][0] for key in ("true", "false", "missing")] == [2 + 1, 1, 1 + 2], who
    told = facts.truths(rows[1], stories.make_story(1, "pretrain", 1))
    chance = len(facts.stated(HAND) & told & {("name", 0, "Finn"), ("trait", 0, "shy"), ("animal", 0, "rabbit")})
    assert who["true"][1] == chance and who["by_chance"] == [chance + (("name", 0, "Finn") in told), 2], who
    total = [sum(who[key]) for key in ("true", "false", "missing")]
    assert who["recall"] == total[0] / (total[0] + total[2]) and who["precision"] == total[0] / (total[0] + total[1]), who
    stories.write_lines(os.path.join(data, "rows.jsonl.gz"), [rows[0], rows[0], rows[1]])    # by chance: of another story
    stories.write_lines(os.path.join(evaluation, "rows.jsonl"), [{"row": i, "mse": 0.5, "explanation": HAND} for i in range(3)])
    must(folder, "--data", data, program="facts.py")
    with open(os.path.join(evaluation, "facts.json"), encoding="utf-8") as file:
        assert json.load(file)["facts"]["who"]["by_chance"] == [chance, chance, 2]
    stories.write_lines(os.path.join(data, "rows.jsonl.gz"), rows)
    for row, word in (({"row": 2, "mse": 1}, "--data names"), ({"row": 0, "mse": 1}, "no text of the demo's stories")):
        stories.write_lines(os.path.join(evaluation, "rows.jsonl"), [row])
        stories.write_lines(os.path.join(data, "rows.jsonl.gz"), [dict(rows[0], text="Another text"), rows[1]])
        code, _, err = run(evaluation, "--data", data, program="facts.py")
        assert code == 1 and word in err and "Traceback" not in err, err
    code, _, err = run(data, program="facts.py")
    assert code == 1 and "no evaluation" in err, err


def test_what_is_stopped_leaves_no_file(folder):
    def stopped():
        yield {"doc_id": "1"}
        raise KeyboardInterrupt
    path = os.path.join(folder, "stopped.jsonl.gz")
    try:
        stories.write_lines(path, stopped())
    except KeyboardInterrupt:
        pass
    assert not os.path.exists(path)
    stories.write_lines(path, [{"doc_id": "1"}])
    stories.write_lines("/dev/null", [{"doc_id": "1"}])
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    assert stories.read_lines(path) == [{"doc_id": "1"}] and not os.path.exists(os.path.join(folder, ".part-stopped.jsonl.gz"))


def test_level_is_continuous():
    """Between neighbouring levels the mean length moves by little: no jump from one style to another."""
    cuts = list(prefixes(250, "levels"))
    means = []
    for step in range(11):
        said = [stories.explain(prefix, story["facts"], [" fell", " was"], step / 10, random.Random(i), inside)
                for i, (story, prefix, inside) in enumerate(cuts)]
        means.append(sum(len(text.split()) for text in said) / len(said))
    assert means == sorted(means) and max(b - a for a, b in zip(means, means[1:])) < 12, means


def test_explain_command(folder):
    corpus, rows, out = (os.path.join(folder, name) for name in ("x.jsonl.gz", "rows.jsonl.gz", "rows2.jsonl.gz"))
    must("corpus", "--seed", "7", "--docs", "40", "--out", corpus, "--split", "train")
    made = [{"doc_id": story["doc_id"], "n_raw_tokens": 30, "text": story["text"][:200 + i], "next": [" the", "."]}
            for i, story in enumerate(stories.read_lines(corpus))]
    stories.write_lines(rows, made)
    must("explain", "--rows", rows, "--corpus", corpus, "--seed", "1", "--out", out)
    explained = stories.read_lines(out)
    assert [{key: row[key] for key in made[0]} for row in explained] == made
    assert len({row["level"] for row in explained}) == 40
    made[3]["text"] = "Another text"
    stories.write_lines(rows, made)
    code, _, err = run("explain", "--rows", rows, "--corpus", corpus, "--out", out)
    assert code == 1 and "row 3" in err, err


def test_templates_and_chats(folder):
    system = json.loads(must("templates"))
    assert system["av"].count("{injection_char}") == 1 and system["ar"].count("{explanation}") == 1
    assert len(system["injection_char"]) == 1
    suffix = system["ar_suffix"]
    assert system["ar"].endswith("{explanation}" + suffix) and suffix[0] == " " and suffix[1].isalpha()
    chats = os.path.join(folder, "chat.jsonl.gz")
    must("chat", "--seed", "2", "--docs", "600", "--out", chats)
    made = stories.read_lines(chats)
    before, after = system["ar"].split("{explanation}")
    explained = plain = 0
    for chat in made:
        text = chat["text"]
        assert system["injection_char"] not in text
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
            told = user.split("\n", 2)[2]
            for key, place, word in facts.stated(said):
                if key == "ends":
                    assert told.split()[-1 - place] == word.rstrip("-"), text
                elif key not in ("after", "next", "or", "scene"):
                    assert stories.has_word(told, word), (word, text)
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
        test_what_is_stopped_leaves_no_file(folder)
        test_explain_command(folder)
        test_facts(folder)
        test_templates_and_chats(folder)
    if importlib.util.find_spec("tokenizers"):
        tokenizer_main()
    elif os.path.exists(os.environ.get("REFERENCE_PYTHON", "")):
        subprocess.run([os.environ["REFERENCE_PYTHON"], "-B", os.path.abspath(__file__), "tokenizer"], check=True)
    else:
        print("stories: all but the tokenizer passed: no python with the 'tokenizers' package")
        sys.exit(77)
    print("stories: all tests passed")


def tokenizer_main():
    with tempfile.TemporaryDirectory() as folder:
        test_tokenizer(folder)


if __name__ == "__main__":
    tokenizer_main() if sys.argv[1:] == ["tokenizer"] else main()
