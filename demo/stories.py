#!/usr/bin/env python3
"""A little world of English stories with known facts: the demo's corpus, chats, explanations and tokenizer.

A model of 1.5 million parameters learns this world in minutes, and because every fact of a story is known, what an explanation
says can be checked. Every document depends on (seed, split, number) alone, so a longer corpus begins with the shorter one.

The grammar, one line a scene; WORDS in capitals are drawn once a story, {x} below in the templates:

    story   = opening trouble journey meeting help return ending                     60 to 120 words, one paragraph
    opening = NAME is a TRAIT ANIMAL and lives at HOME | on a WEATHER TIME NAME feels MOOD           (either order)
    trouble = one of 8 PLOTs about a COLOUR OBJECT: lost taken broken gift found trade letter race
    journey = NAME VERB to GOAL, [a thought on the way]
    meeting = FRIEND the FRIEND-ANIMAL is there; they talk
    help    = the plot's solution, often at a SPOT
    return  = back to HOME, with the OBJECT where the plot leaves it with NAME
    ending  = the WEATHER is over | MOOD has become END-MOOD | a meal of FOOD | a dream of the OBJECT | friends, in any order

Far dependence: HOME, OBJECT, ANIMAL and FRIEND come back by name; END-MOOD follows from MOOD, FOOD from ANIMAL, the end of the
weather from WEATHER. So the next word needs facts told fifty words ago, and a vector in the middle of the model holds some.

An explanation says, in this order, [a hedge], the last words, what comes next, [facts told so far], [fillers].
A level in [0, 1] decides clause by clause: each has a threshold, stays with probability sigmoid((level - threshold) / 0.07),
and is a whole sentence or a clipped form by a draw of its own. So wording runs from some 60 words down to 8 without steps.
`ends "..."` (last three whole words, plus `frag-` inside a word) and `next "..."` (`-rest` inside a word) are always there.
"""

import argparse
import collections
import contextlib
import gzip
import io
import json
import math
import os
import random
import re
import sys

SHE = ["Mia", "Lily", "Rosa", "Nora", "Ella", "Ruby", "Ivy", "Anna"]
HE = ["Ben", "Tom", "Max", "Leo", "Finn", "Oscar", "Hugo", "Sam"]
FOODS = {"fox": "berries", "bear": "honey", "mouse": "cheese", "rabbit": "carrots", "duck": "bread", "goat": "apples",
         "cat": "fish", "dog": "soup", "horse": "oats", "hen": "corn", "pig": "potatoes", "squirrel": "nuts"}
PLACES = {"river": "by", "forest": "in", "hill": "on", "lake": "by", "farm": "on", "garden": "in",
          "beach": "on", "bridge": "by", "mill": "in", "market": "at", "cave": "in", "castle": "in"}
OBJECTS = ["kite", "ball", "hat", "lamp", "boat", "drum", "key", "book", "cup", "scarf", "bell", "box", "map", "ring", "coat",
           "basket"]
COLOURS = ["red", "blue", "green", "yellow", "white", "black"]
MOODS = {"sad": "happy", "lonely": "merry", "bored": "excited", "worried": "calm", "angry": "glad", "tired": "rested"}
WEATHERS = {"rainy": "rain had stopped", "sunny": "sun had gone down", "snowy": "snow lay deep", "windy": "wind was still",
            "foggy": "fog had gone", "stormy": "storm was over"}
TRAITS = ["small", "young", "brave", "kind", "clever", "shy"]
TIMES = ["morning", "evening", "day"]
SPOTS = ["under a stone", "behind a tree", "in the grass", "beside the well", "near the fence", "on a branch"]
VERBS = ["walked", "ran", "hurried", "went", "wandered", "marched"]
SCENES = ["opening", "trouble", "journey", "meeting", "help", "return", "ending"]

MARKER = "\u320e"
SPECIALS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
REQUEST = "Explain in <explanation> tags the last words, what comes next and the facts so far."
AV_TEMPLATE = REQUEST[:-1] + ", from this vector:\n{injection_char}\n"
# The suffix starts with a space before a letter: whatever an explanation ends with, the suffix's tokens stay the same.
AR_TEMPLATE = "State of a story: {explanation} Vector:"

WHO = [["{N} was a {t} {a} who lived {home}.", "Once a {t} {a} called {N} lived {home}.",
        "{N} the {a} lived {home}, and {he} was {t}.",
        "A {t} {a} lived {home}, and {his} name was {N}."]]
DAY = [["One {w} {time}, {N} felt {m}.", "It was a {w} {time}, and the {a} was {m}.",
        "The {time} was {w}, and {N} was very {m}.",
        "On a {w} {time} the {a} woke up and felt {m}."]]
DAY_FIRST = [["One {w} {time}, a {t} {a} called {N} felt {m}.", "It was a {w} {time}, and a {t} {a} called {N} was {m}."],
             ["{He} lived in a house {home}.", "{His} home was {home}.",
              "The {a} lived {home}."]]

# plot -> scene -> sentences in order, each a list of alternatives; keep: NAME has the object in the end.
PLOTS = {
    "lost": {"keep": True,
             "trouble": [["{N} could not find {his} {c} {o}.", "The {a} had lost {his} {c} {o}.", "{His} {c} {o} was gone."],
                         ["{He} looked everywhere, but the {o} was not there.", "Without the {o}, {N} did not want to play.",
                          "{He} asked all the birds, but nobody had seen it."]],
             "help": [["{F} had seen the {o} {spot}.", "The {f} looked {spot}, and there was the {c} {o}.",
                       "Together they searched, and {F} found the {o} {spot}."],
                      ["{N} picked up the {o} and thanked the {f}.", "The {a} held the {c} {o} and laughed."]]},
    "taken": {"keep": True,
              "trouble": [["In the night a crow had taken {his} {c} {o}.", "A crow came and took {his} {c} {o} away."],
                          ["{N} called, but the crow did not listen.", "{He} wanted the {o} back."]],
              "help": [["{F} made a loud noise, and the crow dropped the {o} {spot}.",
                        "The {f} gave the crow some seeds, and it left the {o} {spot}."],
                       ["{N} thanked {F} and took the {c} {o}.", "So the {a} had {his} {o} again."]]},
    "broken": {"keep": True,
               "trouble": [["{His} {c} {o} was broken.", "{N} fell and broke {his} {c} {o}."],
                           ["{He} tried to mend it, but it broke again.", "{He} put the {o} in a bag and cried a little."]],
               "help": [["{F} mended the {o} with some string.", "The {f} worked for an hour, and the {c} {o} was whole again.",
                         "{F} had some glue, and soon the {o} was as good as new."],
                        ["{N} thanked the {f} for mending the {o}.", "The {a} looked at the {c} {o} and smiled."]]},
    "gift": {"keep": False,
             "trouble": [["{N} had made a {c} {o} for a friend.", "{He} wanted to give away a {c} {o}."],
                         ["The friend was called {F}.", "The {o} was for {F}, who was ill."]],
             "help": [["{N} gave the {c} {o} to {F}.", "The {f} opened the bag and saw the {o}."],
                      ["{F} loved the {o} and gave {him} some {food}.", "The {f} danced with the {c} {o}."]]},
    "found": {"keep": False,
              "trouble": [["{N} found a {c} {o} {spot}.", "There was a {c} {o} {spot}, and {N} picked it up."],
                          ["{He} did not know whose {o} it was.", "{He} wanted to bring the {o} back."]],
              "help": [["The {c} {o} belonged to the {f}.", "{F} saw the {o} and jumped for joy."],
                       ["{N} gave the {o} back, and {F} thanked {him}.", "The {a} gave the {o} to {F}."]]},
    "trade": {"keep": True,
              "trouble": [["{N} wanted a {c} {o} more than anything.", "The {a} dreamed of having a {c} {o}."],
                          ["But {he} had only some {food}.", "{He} packed some {food} in a bag."]],
              "help": [["{F} had a {c} {o} and did not need it.", "The {f} sold a {c} {o}, but it was not cheap."],
                       ["{N} gave {him2} the {food} for the {o}.", "So the {a} got the {o} for some {food}."]]},
    "letter": {"keep": True,
               "trouble": [["A letter told {N} about a hidden {c} {o}.", "The {a} got a letter about a lost {c} {o}."],
                           ["Nobody had found the {o} yet.", "{He} read the letter twice and took a bag."]],
               "help": [["They dug {spot} and found the {c} {o}.", "{F} knew that the {o} was {spot}."],
                        ["{F} said that {N} could keep the {o}.", "The {f} was proud to help and gave {him} the {o}."]]},
    "race": {"keep": False,
             "trouble": [["There was a race, and the prize was a {c} {o}.", "{N} heard of a race for a {c} {o}."],
                         ["The {a} wanted to win the {o}.", "{He} could run very fast."]],
             "help": [["{N} was ahead, but then the {f} fell on a stone.", "In the race {F} fell and hurt a leg."],
                      ["{N} stopped to help, and so {F} won the {o}.", "The {a} helped {F}, and they shared the {c} {o}."]]},
}
JOURNEY = [["So {N} {v} to the {g}.", "Then the {a} {v} to the {g}.", "{He} took a bag and {v} all the way to the {g}.",
            "At last {he} {v} to the {g}."]]
THOUGHTS = ["On the way {he} thought of the {c} {o}.", "{He} was still {m}, but {he} sang a song.",
            "The way from the {h} was long.",
            "It was a long way for a {t} {a}.", "The {w} {time} made the way hard."]
MEETING = [["There {he} met {F} the {f}.", "{F} the {f} was sitting {p2}.", "A {f} called {F} was there.",
            "{He} saw a {f}, and it was {F}."],
           ["{N} told the {f} about the {o}.", "{F} asked why {N} was so {m}.", "The {f} asked about the {c} {o}.",
            "{N} said that {he} came from the {h}.", "The {a} and the {f} sat down to talk."]]
RETURN = [["Then {N} {v} back to the {h}.", "The {a} went home to the {h}.", "It was late, and {N} left the {g} for the {h}."]]
RETURN_WITH = [["{N} carried the {c} {o} back to the {h}.", "The {a} took the {o} home to the {h}."] + RETURN[0]]
ENDING = {"weather": ["By then the {wend}.", "At the {h} the {wend}."],
          "mood": ["{N} was not {m} any more but {e}.", "Now the {a} felt {e}.", "{He} was no longer {m}, and {he} felt {e}."],
          "food": ["{N} ate some {food} and went to bed.", "The {a} had {food} for dinner."],
          "dream": ["That night {N} dreamed of the {c} {o}.", "The {a} never forgot the {o}."],
          "friend": ["{N} and {F} were friends from then on.", "{F} the {f} came to visit in spring."]}


def draw_facts(rng):
    """The facts of one story; the words that follow from others are looked up, not drawn."""
    name, friend = rng.sample(SHE + HE, 2)
    animal, friend_animal = rng.sample(list(FOODS), 2)
    place, goal = rng.sample(list(PLACES), 2)
    mood, weather = rng.choice(list(MOODS)), rng.choice(list(WEATHERS))
    return {"name": name, "animal": animal, "trait": rng.choice(TRAITS), "place": place, "goal": goal,
            "object": rng.choice(OBJECTS), "colour": rng.choice(COLOURS), "mood": mood, "end_mood": MOODS[mood],
            "weather": weather, "time": rng.choice(TIMES), "friend": friend, "friend_animal": friend_animal,
            "food": FOODS[animal], "plot": rng.choice(list(PLOTS)), "spot": rng.choice(SPOTS)}


def slots(facts):
    def at(place):
        return PLACES[place] + " the " + place
    she, she2 = facts["name"] in SHE, facts["friend"] in SHE
    return {"N": facts["name"], "a": facts["animal"], "t": facts["trait"], "h": facts["place"], "home": at(facts["place"]),
            "g": facts["goal"], "p2": at(facts["goal"]), "o": facts["object"], "c": facts["colour"], "m": facts["mood"],
            "e": facts["end_mood"], "w": facts["weather"], "wend": WEATHERS[facts["weather"]], "time": facts["time"],
            "F": facts["friend"], "f": facts["friend_animal"], "food": facts["food"], "spot": facts["spot"],
            "he": "she" if she else "he", "He": "She" if she else "He", "him": "her" if she else "him",
            "his": "her" if she else "his", "His": "Her" if she else "His", "him2": "her" if she2 else "him"}


def scenes_of(facts, rng):
    """The scenes in order, each a list of sentences, each a list of alternatives."""
    plot = PLOTS[facts["plot"]]
    yield "opening", rng.choice([WHO + DAY, DAY_FIRST])
    yield "trouble", plot["trouble"]
    yield "journey", JOURNEY + ([THOUGHTS] if rng.random() < 0.3 else [])
    yield "meeting", MEETING if rng.random() < 0.7 else MEETING[:1]
    yield "help", plot["help"]
    yield "return", RETURN_WITH if plot["keep"] else RETURN
    yield "ending", [ENDING[part] for part in rng.sample(list(ENDING), rng.choice([1, 2, 2, 3]))]


def make_story(seed, split, number):
    rng = random.Random(f"story/{seed}/{split}/{number}")
    facts = draw_facts(rng)
    words, text, starts = slots(facts), "", []
    for scene, sentences in scenes_of(facts, rng):
        starts.append([scene, len(text)])
        for forms in sentences:
            sentence = rng.choice(forms).format(v=rng.choice(VERBS), **words)
            text += (" " if text else "") + sentence[0].upper() + sentence[1:]
    facts["scenes"] = starts
    return {"doc_id": f"{split}-{seed}-{number:06d}", "text": text, "facts": facts}


# ---- explanations ----

def has_word(text, word):
    return re.search(r"(?<![A-Za-z])" + re.escape(word) + r"(?![A-Za-z])", text) is not None


def mentioned(prefix, facts):
    """The facts that the prefix has told; nothing else may enter an explanation. The scene is where the text stops."""
    keys = ["name", "animal", "trait", "place", "goal", "object", "mood", "end_mood", "weather", "time", "friend",
            "friend_animal"]
    told = {key: facts[key] for key in keys if has_word(prefix, facts[key])}
    if "object" in told and has_word(prefix, facts["colour"]):
        told["colour"] = facts["colour"]
    told["scene"] = [scene for scene, start in facts["scenes"] if start < max(len(prefix), 1)][-1]
    return told


def split_end(prefix, inside):
    """(up to four earlier words of the sentence, the last three whole words and the fragment)."""
    words = prefix.split()
    fragment = [words.pop() + "-"] if inside and words else []
    stops = [i for i, word in enumerate(words[:-1]) if word[-1] in ".!?"]
    begin = max(stops[-1] + 1 if stops else 0, len(words) - 7)
    return " ".join(words[begin:max(len(words) - 3, begin)]), " ".join(words[-3:] + fragment)


def shown_next(tokens, inside):
    """Next tokens as an explanation shows them: no leading space, `-rest` inside a word, no repeats."""
    shown = []
    for token in tokens:
        word = token.strip()
        if word.startswith("<|") or word == "":
            word = "the end" if word else word
        elif inside and token[:1].isalpha():
            word = "-" + word
        if word and word not in shown:
            shown.append(word)
    return shown


def sigmoid(x):
    return 1 / (1 + math.exp(-max(-60.0, min(60.0, x))))


class Wording:
    """One explanation's draws: which clauses stay at this level, and in which form."""

    def __init__(self, level, rng):
        self.level, self.rng, self.parts = level, rng, []

    def stays(self, threshold, width=0.07):
        return self.rng.random() < sigmoid((self.level - threshold) / width)

    def say(self, hedged, full, clipped):
        """Adds a clause; whole sentences and clipped forms mix freely around the middle levels."""
        if self.stays(0.5, 0.13):
            self.parts.append((True, hedged if self.stays(0.8, 0.1) else full))
        else:
            self.parts.append((False, clipped))

    def text(self):
        out, open_sentence = "", False
        for whole, clause in self.parts:
            if whole:
                out += (". " if open_sentence else " " if out else "") + clause + "."
            else:
                out += (", " if open_sentence else " " if out else "") + clause
            open_sentence = not whole
        return out + ("." if open_sentence else "")


def say_end(wording, prefix, inside, tokens):
    """The part that every level keeps: last words and next; with room, the sentence's earlier words and rivals of next."""
    before, last = split_end(prefix, inside)
    shown = shown_next(tokens, inside)
    tail = f' after "{before}"' if before and wording.stays(0.6) else ""
    wording.say(f'The text so far ends "{last}"{tail}', f'The text ends "{last}"{tail}', f'ends "{last}"{tail}')
    if not shown:
        return
    rivals = "".join(f' or "{word}"' for word, threshold in zip(shown[1:], (-0.1, 0.75)) if wording.stays(threshold))
    wording.say(f'Most likely next "{shown[0]}"{rivals}', f'Probably next "{shown[0]}"{rivals}', f'next "{shown[0]}"{rivals}')


def who_clause(told):
    name, animal = told.get("name"), told.get("animal")
    known = f'a {told["trait"]} {animal}' if "trait" in told else f"a {animal}"
    if name and animal:
        return f"{name}, {known}", f"{name} the {animal}"
    return name or known, name or animal


def fact_clauses(told):
    """(keys, threshold, hedged, full, clipped) of told facts: the less the next words need one, the higher its threshold."""
    if "name" in told or "animal" in told:
        who, short = who_clause(told)
        yield ("name", "animal"), 0.2, f"It seems to be about {who}", f"It is about {who}", short
    if "object" in told:
        thing = " ".join(told[key] for key in ("colour", "object") if key in told)
        yield ("object",), 0.3, f"Probably the thing is a {thing}", f"The thing is a {thing}", thing
    yield ("scene",), 0.4, f"This seems the {told['scene']}", f"This is the {told['scene']}", told["scene"]
    if "friend" in told or "friend_animal" in told:
        friend = " the ".join(told[key] for key in ("friend", "friend_animal") if key in told)
        friend = friend if "friend" in told else "a " + friend
        keys = ("friend", "friend_animal")
        yield keys, 0.45, f"Perhaps the friend is {friend}", f"The friend is {friend}", f"friend {friend}"
    if "goal" in told:
        goal = f"to the {told['goal']}"
        yield ("goal",), 0.55, f"It probably goes {goal}", f"It goes {goal}", goal
    if "place" in told:
        home = f"{PLACES[told['place']]} the {told['place']}"
        yield ("place",), 0.6, f"Perhaps home is {home}", f"Home is {home}", f"home {home}"
    mood = told.get("end_mood") or told.get("mood")
    if mood:
        yield ("mood", "end_mood"), 0.68, f"The mood seems {mood}", f"The mood is {mood}", mood
    if "weather" in told:
        day = f"{told['weather']} {told.get('time', 'time')}"
        yield ("weather",), 0.76, f"It seems a {day}", f"It is a {day}", told["weather"]


def say_fillers(wording, prefix, inside):
    """What a wordy teacher adds although it says nothing new."""
    if wording.stays(0.85) and wording.rng.random() < 0.5:
        whole = prefix.rstrip()[-1:] in tuple(".!?")
        wording.say("The sentence seems complete" if whole else "The sentence seems not complete",
                    "The sentence is complete" if whole else "The sentence is not complete",
                    "full stop" if whole else "mid sentence")
    if wording.stays(0.9) and wording.rng.random() < 0.5:
        again = split_end(prefix, inside)[1].split()[-1]
        wording.say(f'Again, the last word seems "{again}"', f'Again, the last word is "{again}"', f'last "{again}"')


def explain(prefix, facts, tokens, level, rng, inside=False):
    """The explanation of a text that breaks off at `prefix`; `tokens` are the expected next tokens, likeliest first. A fact
    told in the last twelve words counts as more needed; one minor fact in four is left out at any level, as teachers do."""
    wording = Wording(level, rng)
    told, recent = mentioned(prefix, facts), " ".join(prefix.split()[-12:])
    if wording.stays(0.8) and rng.random() < 0.5:
        wording.say("This seems a simple story", "This is a simple story", "simple story")
    say_end(wording, prefix, inside, tokens)
    for keys, threshold, hedged, full, clipped in fact_clauses(told):
        fresh = any(has_word(recent, told[key]) for key in keys if key in told)
        if wording.stays(threshold - (0.12 if fresh else 0)) and rng.random() < (0.95 if fresh or threshold < 0.4 else 0.75):
            wording.say(hedged, full, clipped)
    say_fillers(wording, prefix, inside)
    return wording.text()


# ---- chats ----

def next_words(text, at):
    """The word or mark that follows position `at`, as a token would spell it: with its leading space."""
    match = re.match(r" ?[A-Za-z]+|[.,!?]", text[at:])
    return match.group(0) if match else SPECIALS[0]


def rival_table(stories):
    """What follows two words, over some stories: gives the explanations of chats their second and third guesses."""
    table = collections.defaultdict(collections.Counter)
    for story in stories:
        units = re.findall(r" ?[A-Za-z]+|[.,!?]", story["text"])
        for i in range(2, len(units)):
            table[units[i - 2].strip(), units[i - 1].strip()][units[i]] += 1
    return {key: sorted(counter, key=lambda word: (-counter[word], word))[:4] for key, counter in table.items()}


def cut_story(story, rng, most):
    """Cuts the story after a random word, now and then inside it, and drops whole scenes in front until at most `most` words
    are left. Returns the shortened text, the cut's position, facts with the scenes moved, and whether the cut is in a word."""
    text, scenes = story["text"], story["facts"]["scenes"]
    ends = [match.end() for match in re.finditer(r"[A-Za-z]+|[.,!?]", text)][12:]
    cut = rng.choice(ends)
    inside = rng.random() < 0.03 and text[cut - 2:cut].isalpha()
    cut -= rng.randint(1, len(re.search(r"[A-Za-z]+$", text[:cut]).group(0)) - 1) if inside else 0
    start = 0
    for _, begin in scenes:
        if len(text[start:cut].split()) > most and begin + 20 < cut:
            start = begin + (1 if begin else 0)
    moved = [[scene, max(0, begin - start)] for scene, begin in scenes if begin + 1 >= start]
    return text[start:], cut - start, dict(story["facts"], scenes=moved), inside


def explained_cut(story, rivals, rng):
    text, cut, facts, inside = cut_story(story, rng, 50)
    following = next_words(text, cut)
    units = [unit.strip() for unit in re.findall(r" ?[A-Za-z]+|[.,!?]", text[:cut])][-2:]
    others = [] if inside else [word for word in rivals.get(tuple(units), []) if word != following]
    explanation = explain(text[:cut], facts, [following] + others[:2], rng.random(), rng, inside)
    return text, cut, explanation


def question(facts, rng):
    she = "she" if facts["name"] in SHE else "he"
    at = PLACES[facts["place"]] + " the " + facts["place"]
    return rng.choice([
        ("Who is the story about?", f"It is about {facts['name']}, a {facts['trait']} {facts['animal']}."),
        ("What is the weather?", f"It is a {facts['weather']} {facts['time']}."),
        (f"What colour is the {facts['object']}?", f"The {facts['object']} is {facts['colour']}."),
        (f"Where does {facts['name']} live?", f"{facts['name']} lives {at}."),
        (f"Where does the {facts['animal']} go?", f"The {facts['animal']} goes to the {facts['goal']}."),
        (f"Who is {facts['friend']}?", f"{facts['friend']} is a {facts['friend_animal']}."),
        (f"How does {facts['name']} feel?", f"First {she} is {facts['mood']}."),
        ("What is the thing in the story?", f"It is a {facts['colour']} {facts['object']}.")])


def chat_text(user, assistant):
    return f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"


def make_chat(story, rivals):
    """Two in ten are questions, two in ten the reconstructor's format followed by the story, the rest ask for explanations."""
    rng = random.Random("chat/" + story["doc_id"])
    kind = rng.random()
    if kind < 0.2:
        asked, answer = question(story["facts"], rng)
        return chat_text(asked + "\n" + story["text"], answer)
    text, cut, explanation = explained_cut(story, rivals, rng)
    if kind < 0.45 and text[cut:cut + 1] == " ":      # elsewhere the suffix's colon would join the next token
        rest = " ".join(text[cut:].split(" ")[:50])
        return AR_TEMPLATE.format(explanation=explanation) + rest
    return chat_text(REQUEST + "\n" + text[:cut], f"<explanation>\n{explanation}\n</explanation>")


# ---- files and sub-commands ----

@contextlib.contextmanager
def open_text(path, mode):
    """Text or gzip by suffix; written gzip carries no name and no time stamp, so equal input gives equal bytes."""
    with open(path, mode + "b") as raw:
        packed = gzip.GzipFile("", mode + "b", 6, raw, 0) if path.endswith(".gz") else raw
        with io.TextIOWrapper(packed, encoding="utf-8") as text:
            yield text


def read_lines(path):
    with open_text(path, "r") as file:
        return [json.loads(line) for line in file if line.strip()]


def write_lines(path, objects):
    """Its name means whole: what is stopped leaves none. A pipe is written as it is."""
    special = os.path.exists(path) and not os.path.isfile(path)
    part = path if special else os.path.join(os.path.dirname(path), ".part-" + os.path.basename(path))
    with open_text(part, "w") as file:
        for item in objects:
            file.write(json.dumps(item, ensure_ascii=False) + "\n")
    if not special:
        os.replace(part, path)


def cmd_corpus(args):
    write_lines(args.out, (make_story(args.seed, args.split, number) for number in range(args.docs)))


def cmd_chat(args):
    stories = [make_story(args.seed, "chat", number) for number in range(args.docs)]
    rivals = rival_table(stories[:3000])
    write_lines(args.out, ({"doc_id": story["doc_id"], "text": make_chat(story, rivals)} for story in stories))


def cmd_explain(args):
    """Adds `explanation`, `level` and `scene` to every row; a row whose text is not the start of its document is an error."""
    stories = {story["doc_id"]: story for story in read_lines(args.corpus)}
    rows = read_lines(args.rows)
    for number, row in enumerate(rows):
        story, prefix = stories.get(row["doc_id"]), row["text"]
        if story is None or not story["text"].startswith(prefix):
            sys.exit(f"stories.py: cannot explain row {number}: its text is not the start of document '{row['doc_id']}' "
                     f"of '{args.corpus}'")
        rng = random.Random(f"explain/{args.seed}/{row['doc_id']}/{len(prefix)}")
        level = rng.random() if args.level is None else args.level
        inside = prefix[-1:].isalpha() and story["text"][len(prefix):len(prefix) + 1].isalpha()
        row["explanation"] = explain(prefix, story["facts"], row.get("next", []), level, rng, inside)
        row["level"] = round(level, 3)
        row["scene"] = mentioned(prefix, story["facts"])["scene"]
    write_lines(args.out, rows)


def system_facts():
    return {"av": AV_TEMPLATE, "ar": AR_TEMPLATE, "ar_suffix": AR_TEMPLATE.split("{explanation}")[1], "injection_char": MARKER,
            "special_tokens": SPECIALS, "stop_tokens": [SPECIALS[2], SPECIALS[0]],
            "assistant_opening": "<|im_start|>assistant\n",
            "response_opening": "<explanation>\n", "response_closing": "\n</explanation>", "layer_index": 3, "d_model": 128,
            "min_position": 20, "max_tokens": 192}


def cmd_templates(_args):
    print(json.dumps(system_facts(), ensure_ascii=False, indent=2))


def cmd_tokenizer(args):
    from story_model import write_model_files
    texts = [item["text"] for path in (args.corpus, args.chat) for item in read_lines(path)[:20000]]
    words = sorted({word for text in texts[:2000] + texts[-2000:] for word in re.findall(r"[A-Za-z]+", text)})
    texts += [AV_TEMPLATE.replace("{injection_char}", "")] * 500 + words * 200      # quoted words have no space in front
    print(json.dumps(write_model_files(texts, args.vocab, SPECIALS, MARKER, args.out)))


def parse_args(argv):
    parser = argparse.ArgumentParser(prog="stories.py", description="The demo's stories: corpus, chats, explanations.")
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name, run, text, *options):
        sub = commands.add_parser(name, help=text, description=text)
        for option, extra in options:
            sub.add_argument(option, **extra)
        sub.set_defaults(run=run)
    path, seed = {"required": True}, ("--seed", {"type": int, "default": 0})
    docs = ("--docs", {"type": int, "required": True})
    command("corpus", cmd_corpus, "stories with their facts", seed, docs, ("--out", path),
            ("--split", {"choices": ["pretrain", "train", "eval"], "default": "pretrain"}))
    command("chat", cmd_chat, "chats about stories", seed, docs, ("--out", path))
    command("explain", cmd_explain, "add explanations to the rows of an activation set", seed, ("--rows", path),
            ("--corpus", path), ("--out", path),
            ("--level", {"type": float, "help": "one level in [0, 1] for every row, instead of drawing it"}))
    command("templates", cmd_templates, "print the templates as JSON")
    command("tokenizer", cmd_tokenizer, "train tokenizer.json and write the model's configuration beside it",
            ("--corpus", path), ("--chat", path), ("--out", path), ("--vocab", {"type": int, "default": 1536}))
    return parser.parse_args(argv)


if __name__ == "__main__":
    arguments = parse_args(sys.argv[1:])
    arguments.run(arguments)
