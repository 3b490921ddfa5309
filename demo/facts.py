#!/usr/bin/env python3
"""What explanations of the demo's texts state, against the world that the texts were written from: writes facts.json (docs/formats.md)
into every evaluation, for nla-compare and nla-report.

    demo/facts.py runs/sweep                        # every evaluation below
    demo/facts.py EVALUATION --data demo/eval       # where the evaluated set has moved

A fact is a word in its place: the third last word of the text, the hero's name, the friend's animal. An explanation states the true
word, or a false one, or none. What the text has not told yet is no fact; a word said twice is one, and its repetition states nothing.
"""

import argparse
import json
import re
import sys
from pathlib import Path

import stories
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))
from nla_report import runs, words  # noqa: E402

# What is stated of a text -> the kind of fact that a report shows.
KINDS = {"ends": "last words", "after": "words before", "next": "next", "or": "other next", "name": "who", "animal": "who", "trait": "who",
         "colour": "thing", "object": "thing", "scene": "scene", "friend": "friend", "friend_animal": "friend", "goal": "where",
         "place": "where", "mood": "mood", "weather": "weather", "time": "weather"}
LISTS = {"name": stories.SHE + stories.HE, "animal": stories.FOODS, "place": stories.PLACES, "object": stories.OBJECTS,
         "colour": stories.COLOURS, "mood": [*stories.MOODS, *stories.MOODS.values()], "weather": stories.WEATHERS,
         "trait": stories.TRAITS, "time": stories.TIMES, "scene": stories.SCENES}
KEY_OF = {word: key for key, listed in LISTS.items() for word in listed}        # every word belongs to one list


def quotation(name, text):
    """{(name, place from the end, word)}; of expected tokens the place is 0, and a quotation mark ends them, as it ends what quotes them."""
    if name in ("ends", "after"):
        return {(name, place, word) for place, word in enumerate(reversed(text.split()))}
    return {(name, 0, text.partition('"')[0])} - {(name, 0, "")}


def truths(row, story):
    """All that an explanation of the row could state, {(key, place, word)}."""
    prefix = row["text"]
    inside = prefix[-1:].isalpha() and story["text"][len(prefix):len(prefix) + 1].isalpha()
    before, last = stories.split_end(prefix, inside)
    first, *rivals = stories.shown_next(row.get("next", []), inside)[:3] or [""]
    told = stories.mentioned(prefix, story["facts"])
    if "end_mood" in told:
        told["mood"] = told.pop("end_mood")                             # the mood by now
    return quotation("ends", last).union(quotation("after", before), quotation("next", first), *(quotation("or", word) for word in rivals),
                                         {(key, 0, word) for key, word in told.items()})


def stated(explanation):
    """The same of what an explanation says: a quotation is named by the word before it, and the first of a name counts; a name or an
    animal is the friend's, and a place the home, where its clause says so."""
    found, named = set(), set()
    bare, *rest = re.split(r'(?<!\S)"([^"]*)(?:"|$)', explanation)
    for said, quoted in zip([bare, *rest[1::2]], [*rest[::2], None]):
        for clause in map(re.compile("[A-Za-z]+").findall, re.split("[.,;:]", said)):
            friend, home = (word in [w.lower() for w in clause] for word in ("friend", "home"))
            for word in clause:
                key = KEY_OF.get(word)
                if key in ("name", "animal") and friend:
                    key = {"name": "friend", "animal": "friend_animal"}[key]
                elif key == "place" and not home:
                    key = "goal"
                if key:
                    found.add((key, 0, word))
        name = re.search("([A-Za-z]*)[^A-Za-z]*$", said)[1].lower()
        if quoted and name in ("ends", "after", "next", "or") and name not in named:
            named |= {name} - {"or"}
            found |= quotation(name, quoted)
    return found


def judge(truth, said):
    """{kind: [true, false, missing]}, and the words that it takes to say them. More last words than are asked for are no error."""
    asked = len([1 for key, _, _ in truth if key == "ends"])
    said = {fact for fact in said if fact[0] != "ends" or fact[1] < asked}
    counts = {kind: [0, 0, 0] for kind in KINDS.values()}
    for column, facts in enumerate((said & truth, said - truth, truth - said)):
        for key, _, _ in facts:
            counts[KINDS[key]][column] += 1
    return counts, sum(len(words.words(word)) for _, _, word in said)


def story_of(row, number, place):
    made = re.fullmatch(r"(\w+)-(\d+)-(\d+)", str(row.get("doc_id")))
    story = made and stories.make_story(int(made[2]), made[1], int(made[3]))
    if not story or not story["text"].startswith(str(row.get("text"))):
        raise runs.Error(f"row {number} of '{place}' is no text of the demo's stories: document '{row.get('doc_id')}'")
    return story


def facts_of(evaluation, rows, place):
    """facts.json: columns over the rows, each the sum over a row's explanations; by chance is true what holds of the text of
    the next row that is of another story."""
    out = {"row": [], "explanations": [], "words": [], "words_of_facts": [], "facts": {}}
    names = ("true", "false", "missing", "by_chance")
    facts = {kind: {"recall": None, "precision": None, **{name: [] for name in names}} for kind in KINDS.values()}
    numbers = sorted(evaluation.rows)
    if not 0 <= numbers[0] <= numbers[-1] < len(rows):
        raise runs.Error(f"'{evaluation.path}' has a row {numbers[-1]}, and '{place}' {len(rows)} rows: --data names the evaluated set")
    truth = {number: truths(rows[number], story_of(rows[number], number, place)) for number in numbers}
    others = words.elsewhere([rows[number]["doc_id"] for number in numbers])
    for number, other in zip(numbers, others):
        texts = [s["explanation"] for s in evaluation.rows[number] if s["explanation"] is not None]
        said = [stated(text) for text in texts]
        another = truth[numbers[other]] if other is not None else set()
        judged, guessed = ([judge(of, facts_said) for facts_said in said] for of in (truth[number], another))
        for key, value in (("row", number), ("explanations", len(texts)), ("words", sum(len(words.words(text)) for text in texts)),
                           ("words_of_facts", sum(used for _, used in judged))):
            out[key].append(value)
        for kind, columns in facts.items():
            for i, name in enumerate(names):
                columns[name].append(sum(counts[kind][i % 3] for counts, _ in (guessed if name == "by_chance" else judged)))
    for columns in facts.values():
        true, false, missing = (sum(columns[name]) for name in names[:3])
        columns |= {"recall": true / (true + missing) if true + missing else None, "precision": true / (true + false) if true + false else None}
    return {**out, "facts": facts}


def evaluations(paths):
    for path in map(Path, paths):
        found = sorted(p.parent for p in path.rglob("rows.jsonl") if (p.parent / "summary.json").exists())
        if not found:
            raise runs.Error(f"no evaluation (rows.jsonl, summary.json) in '{path}'")
        yield from found


def main():
    parser = argparse.ArgumentParser(prog="facts.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("evaluations", nargs="+", metavar="RUN")
    parser.add_argument("--data", help="the evaluated activation set [default: as each evaluation names it]")
    args, sets = parser.parse_args(), {}
    for folder in evaluations(args.evaluations):
        notes = []
        evaluation = runs.read_evaluation(folder, notes)
        if not evaluation:
            raise runs.Error(notes[0] if notes else f"'{folder}' holds no evaluated rows")
        place = runs.set_of([runs.Run.of_evaluation(evaluation, notes)], args.data)
        if place not in sets:
            sets[place] = runs.read_lines(place, notes) if place else []
        if not sets[place]:
            raise runs.Error(f"no rows in '{evaluation.summary.get('data')}', the set of '{folder}': --data SET says where it is")
        found = facts_of(evaluation, sets[place], place)
        (folder / "facts.json").write_text(json.dumps(found) + "\n", "utf-8")
        print(f"{folder}: " + ", ".join(f"{kind} {f['recall']:.2f}" for kind, f in found["facts"].items() if f["recall"] is not None))


if __name__ == "__main__":
    try:
        main()
    except (runs.Error, OSError) as e:
        sys.exit(f"facts.py: error: {e}")
