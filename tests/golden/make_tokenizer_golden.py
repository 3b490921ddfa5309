"""Makes tests/data/tokenizer: small tokenizers and what the reference libraries do with hard strings. Run by hand:

    ~/.cache/nla/reference/bin/python tests/golden/make_tokenizer_golden.py [SHARED]

The results are committed. Needs tokenizers, transformers, sentencepiece and protobuf; SHARED (default: the folder `shared` beside
the repository) holds qwen3/. Folders:

    small       Qwen3's layout: NFC, Split + ByteLevel, ChatML tokens
    llama       Llama 3's: no normaliser, its split, ignore_merges, merges as "a b", TemplateProcessing, a token no merge makes
    smollm      SmolLM2's: Digits + ByteLevel with its own regex; a byte without a token
    flags       added tokens that strip, match in normal form or only as words; ids with holes; a token its merges do not reach
    native      a sentencepiece model with byte fallback and symbols of its own, as transformers' LlamaTokenizer runs it
    llama2      Llama 2's: sentencepiece with split digits; "legacy": the same with "legacy": true in tokenizer_config.json
    llama2json  the same model as transformers 4 has converted it: merges, and a normaliser that prepends a space
    gemma       Gemma 3's: spaces replaced by the normaliser and a split at them that finds none, byte fallback, runs of line breaks and
                spaces as added tokens, a BOS in front
    qwen3       no tokenizer here: ids of the real one, and chat prompts by transformers

golden.json of each: {"encode": [[text, ids]], "decode": [[ids, text, text without special tokens]], "chat": [[content, ids]]}.
tests/data/chat/golden.json: one object a chat template of chat_templates.py: ids with no system message, and with one, by transformers;
and what scripts/chat-format.py writes in both cases.
"""
import importlib.util
import json
import pathlib
import random
import sys

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from chat_templates import TEMPLATES

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
OUT = REPOSITORY / "tests" / "data" / "tokenizer"
SHARED = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else REPOSITORY.parent / "shared"

QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA = QWEN.replace(r"\p{N}|", r"\p{N}{1,3}|")
CHATML = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]

HARD = [
    "", " ", "  ", "   x", "x   ", "\n", "\n\n", " \n ", "\r\n", "a\r\nb\r\n\r\n  c", "\t\tx\ty", "a \n\n  b",
    "\u00a0x\u00a0\u00a0y", "\u3000\u4f60\u597d\u3000", "x\u2028y\u2029z", "a\u0085b", "a\u180eb",
    "\u200bzero\u200bwidth", "don't DON'T we'll WE'LL I'm I'M they've it'S 'tis '", "a'\u017f b'\u017fs", "'re''ve",
    "1 12 123 1234 12345678", "3.14159e-10", "v1.2.3-rc4", "\u0664\u0665\u0666 \u2167 \u00bd \u00b2 \u2460", "x1y2z3",
    "99%", "$1,000.00", "#!/bin/sh\nset -e\n", "int main(void)\n{\n\treturn 0;\n}\n",
    "    if x == 1:\n        return 'a' + \"b\"\n", "{\"a\": [1, 2, {\"b\": null}]}", "<p class=\"x\">hi</p>",
    "__init__", "snake_case", "CamelCase", "...", "!!!???", "--- *** ===", "a/b\\c", "foo@bar.example",
    "https://example.org/a?b=c&d=%20#e", "(((((", ")]}>", "\u2014dash\u2013", "\u201cquoted\u201d", "caf\u00e9",
    "cafe\u0301", "e\u0301e\u0301\u0301", "q\u0307\u0323", "q\u0323\u0307", "\u1e9b\u0323", "\u212b\u2126\u212a",
    "\ufb01\ufb06", "\uac00\u1100\u1161", "\u1100\u1161\u11a8\u11a8", "\u0958\u0929", "\u0301start",
    "\u00c5ngstr\u00f6m A\u030angstro\u0308m", "\u0915\u094d\u0937\u093f \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35", "\u0645\u0631\u062d\u0628\u0627 \u0628\u0643", "\u05e9\u05dc\u05d5\u05dd",
    "\u041f\u0440\u0438\u0432\u0435\u0442, \u043c\u0438\u0440!", "\u0393\u03b5\u03b9\u03ac",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002", "\u3053\u3093\u306b\u3061\u306f\u4e16\u754c",
    "\uc548\ub155\ud558\uc138\uc694", "\u10d2\u10d0\u10db\u10d0\u10e0\u10ef\u10dd\u10d1\u10d0",
    "\u0540\u0561\u0575\u0565\u0580\u0565\u0576", "\u12a0\u121b\u122d\u129b", "\U0001d4d0\U0001d7d8",
    "\U00020000\U0002a6d6", "\U00031350\U000323af", "\U000105c0\U00010d40\U0001e5f1", "\U0001f600",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467\u200d\U0001f466", "\U0001f1e9\U0001f1ea", "\u2764\ufe0f",
    "\U0001f44d\U0001f3fd", "1\ufe0f\u20e3", "\ufffd", "\uffff\ufffe", "\U0010ffff", "\ue000", "\x01\x02\x1f\x7f",
    "\ufeffbom", "a\u0300" * 20, " " * 70, "a" * 90, "ab" * 50, "\n" * 40, "\u4e00" * 30,
    "The quick brown fox jumps over the lazy dog.", "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n",
    "<|im_start|><|im_end|><|endoftext|>", "x<|im_end|>y", "<|im_end|", "<<|im_end|>>",
    "<|im_start|>e\u0301<|im_end|>\u0301", "<think>\n\n</think>\n\n", "<explanation>\nthe text\n</explanation>",
    "<|IM_END|>", " <|im_end|> ", "<|endoftext|><|endoftext|>", "a zebra ran, zebra zebras", "x\U00031350 qx\U00031350", "!\u180e !\u180e",
    "abc abcd xabc abcabc bcabc aabc abbc", "AB\u00c5CD A\u030a \u00c5 ngA\u030a", "[left]  [left]x x [left] y",
    "[right]  x[right]\n\ny[right]", "[both] a [both] b\u3000[both]\u3000",
    "word sword words word. a word_ word\u0301 wordword", "\u00e9word wordz wor word",
]
ALPHABETS = [
    "abcdefghij ", "etaoin shrdlu", "ABCdef 0189", " \n\t\r", "\u00e9e\u0301\u0308a\u030a", "\u4e00\u4e01\u4e8c\u4e09 ",
    "\U0001f600\U0001f468\u200d\ufe0f", "'sStTdDmM ", ".,;:!?-_()[]{}", "\u0430\u0431\u0432\u0433 \u0434",
    "\u1100\u1161\u11a8\uac00", "<|im_end>",
]


def hard_strings(tokens, extra):
    rng = random.Random(11)
    out = list(HARD)
    for _ in range(extra):
        pieces = []
        for _ in range(rng.randint(1, 8)):
            alphabet = rng.choice(ALPHABETS)
            pieces.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 7))))
            if rng.random() < 0.15:
                pieces.append(rng.choice(tokens))
        out.append("".join(pieces))
    return out


def corpus():
    text = (REPOSITORY / "LICENSE").read_text()
    lines = [line for line in text.splitlines(keepends=True) if line.strip()] * 2
    more = "caf\u00e9 na\u00efve \u4f60\u597d \u041f\u0440\u0438\u0432\u0435\u0442 for (int i = 0; i < n; i++) { return x; }\n"
    # Learnt as one token each, which shows where the split falls: a letter of Unicode 15, a character once white space.
    return lines + HARD * 3 + [more] * 5 + ["qx\U00031350 !\u180e\n"] * 60


def train(normalizer, pre, size):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(corpus(), trainer)
    return tokenizer


def split(regex):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])


def special(token):
    return AddedToken(token, normalized=False, special=True)


def reload(text):
    return Tokenizer.from_str(json.dumps(text))


def small():
    tokenizer = train(normalizers.NFC(), split(QWEN), 597)
    tokenizer.add_special_tokens([special(t) for t in CHATML])
    return json.loads(tokenizer.to_str())


def llama():
    tokenizer = train(None, split(LLAMA), 400)
    text = json.loads(tokenizer.to_str())
    text["model"]["vocab"]["\u0120zebra"] = len(text["model"]["vocab"])
    text["model"]["merges"] = [" ".join(pair) for pair in text["model"]["merges"]]
    text["model"]["ignore_merges"] = True
    tokenizer = reload(text)
    tokens = ["<|begin_of_text|>", *CHATML, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer.add_special_tokens([special(t) for t in tokens])
    begin = (tokens[0], tokenizer.token_to_id(tokens[0]))
    template = processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[begin])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    result = json.loads(tokenizer.to_str())
    result["model"]["merges"] = text["model"]["merges"]
    return result


def smollm():
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True, use_regex=True)
    tokenizer = train(None, pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level]), 400)
    text = json.loads(tokenizer.to_str())
    # Bytes 0xF3, which begins the private planes, and 0x85, a later byte of many characters (U+0127 in the alphabet).
    for gone in ("\u00f3", "\u0127"):
        text["model"]["merges"] = [pair for pair in text["model"]["merges"] if gone not in "".join(pair)]
        text["model"]["vocab"] = {t: i for t, i in text["model"]["vocab"].items() if gone not in t}
    text["model"]["vocab"] = {t: i for i, t in enumerate(text["model"]["vocab"])}
    tokenizer = reload(text)
    tokenizer.add_special_tokens([special(t) for t in CHATML])
    return json.loads(tokenizer.to_str())


def flags():
    text = json.loads(train(normalizers.NFC(), split(QWEN), 300).to_str())
    vocab, merges = text["model"]["vocab"], text["model"]["merges"]
    # "abc" comes from a + bc, but ab is made first: no text yields it, though ab and c stand side by side.
    merges[:] = [["a", "b"], ["b", "c"], ["a", "bc"]] + [m for m in merges if "".join(m) not in ("ab", "bc", "abc")]
    for token in ("ab", "bc", "abc"):
        vocab.setdefault(token, len(vocab))
    tokens = [
        AddedToken("[left]", lstrip=True, normalized=False),
        AddedToken("[right]", rstrip=True, normalized=False),
        AddedToken("[both]", lstrip=True, rstrip=True, normalized=False, special=True),
        AddedToken("word", single_word=True, normalized=False),
        AddedToken("\u00c5n", normalized=True),
        AddedToken("\u00c5ng", normalized=True),
        AddedToken("<|im", normalized=False),
        AddedToken("caf\u00e9", single_word=True),
    ]
    for i, token in enumerate(CHATML + [t.content for t in tokens]):
        vocab[token] = len(vocab)
    text["model"]["vocab"] = {t: i + 7 * (i // 90) for t, i in vocab.items()}
    tokenizer = reload(text)
    tokenizer.add_special_tokens([special(t) for t in CHATML])
    tokenizer.add_tokens([t for t in tokens if not t.special])
    tokenizer.add_special_tokens([t for t in tokens if t.special])
    return json.loads(tokenizer.to_str())


def encodings(tokenizer, extra):
    tokens = [t.content for t in tokenizer.get_added_tokens_decoder().values()]
    return [[s, tokenizer.encode(s, add_special_tokens=False).ids] for s in hard_strings(tokens, extra)]


def decodings(tokenizer, rng):
    # Without the byte 0 (U+0100 in the alphabet): the test reads C strings.
    ids = [i for t, i in sorted(tokenizer.get_vocab().items(), key=lambda e: e[1]) if "\u0100" not in t]
    out = []
    for _ in range(60):
        chosen = [rng.choice(ids) for _ in range(rng.randint(1, 12))]
        if rng.random() < 0.5:
            chosen = [rng.choice(ids[:255]) for _ in chosen] + [tokenizer.token_to_id(rng.choice(CHATML))]
        out.append([chosen] + [tokenizer.decode(chosen, skip_special_tokens=skip) for skip in (False, True)])
    return out


def write(name, golden):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    lists = [
        f'"{key}": [\n' + ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows) + "\n]"
        for key, rows in golden.items()
    ]
    (OUT / name / "golden.json").write_text("{\n" + ",\n".join(lists) + "\n}\n")


def byte_level(name, text):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    (OUT / name / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False, separators=(",", ":")) + "\n")
    tokenizer = Tokenizer.from_file(str(OUT / name / "tokenizer.json"))
    write(name, {"encode": encodings(tokenizer, 150), "decode": decodings(tokenizer, random.Random(12))})


def sentencepiece_model(name, **options):
    (OUT / name).mkdir(parents=True, exist_ok=True)
    prefix = OUT / name / "tokenizer"
    sentences = (s.replace("\n", " ").replace("\r", " ") for s in corpus())
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([s for s in sentences if s.strip()]), model_prefix=str(prefix), model_type="bpe", byte_fallback=True,
        normalization_rule_name="identity", remove_extra_whitespaces=False, character_coverage=0.98, minloglevel=2, num_threads=1,
        **options)
    prefix.with_suffix(".vocab").unlink()


def llama_tokenizer(name, legacy):
    from transformers import AutoTokenizer

    config = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "legacy": legacy}
    (OUT / name / "tokenizer_config.json").write_text(json.dumps(config, indent=1) + "\n")
    return AutoTokenizer.from_pretrained(str(OUT / name)).backend_tokenizer


def metaspace_decodings(tokenizer, rng):
    ids = [i for t, i in tokenizer.get_vocab().items() if t != "<0x00>"]
    low = [i for t, i in tokenizer.get_vocab().items() if t.startswith("<0x") and t != "<0x00>"]
    chosen = [[rng.choice(low if rng.random() < 0.4 else ids) for _ in range(rng.randint(1, 12))] for _ in range(80)]
    chosen += [tokenizer.encode(s, add_special_tokens=False).ids for s in HARD[:60]]
    return [[c] + [tokenizer.decode(c, skip_special_tokens=skip) for skip in (False, True)] for c in chosen]


def native():
    sentencepiece_model("native", vocab_size=500, user_defined_symbols=CHATML)
    tokenizer = llama_tokenizer("native", False)
    write("native", {"encode": encodings(tokenizer, 100), "decode": metaspace_decodings(tokenizer, random.Random(14))})


def llama2():
    sentencepiece_model("llama2", vocab_size=700, split_digits=True, allow_whitespace_only_pieces=True)
    golden = {"legacy": encodings(llama_tokenizer("llama2", True), 60)}
    tokenizer = llama_tokenizer("llama2", False)
    golden |= {"encode": encodings(tokenizer, 150), "decode": metaspace_decodings(tokenizer, random.Random(15))}
    write("llama2", golden)
    text = json.loads(tokenizer.to_str())
    text["model"]["unk_token"] = "<unk>"
    text["pre_tokenizer"] = None
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}
    text["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, replace]}
    (OUT / "llama2json").mkdir(parents=True, exist_ok=True)
    (OUT / "llama2json" / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False, separators=(",", ":")) + "\n")
    (OUT / "llama2json" / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}\n')
    tokenizer = Tokenizer.from_file(str(OUT / "llama2json" / "tokenizer.json"))
    write("llama2json", {"encode": encodings(tokenizer, 150), "decode": metaspace_decodings(tokenizer, random.Random(16))})


def gemma(texts, size, characters):
    """tokenizer.json in the shape of google/gemma-3-*: trained where words begin with U+2581, which no merge of it crosses."""
    specials = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "[multimodal]", "<unused0>", "<start_of_turn>", "<end_of_turn>", "<start_of_image>"]
    plain = ["\n" * n for n in range(2, 9)] + ["\u2581" * n for n in range(2, 9)] + ["<table>", "</b>"]
    learner = Tokenizer(models.BPE())
    learner.normalizer = normalizers.Replace(" ", "\u2581")
    learner.pre_tokenizer = pre_tokenizers.Split("\u2581", "merged_with_next")
    learner.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=size, limit_alphabet=characters, show_progress=False))
    learnt = json.loads(learner.to_str())["model"]
    tokens = specials + plain + [f"<0x{byte:02X}>" for byte in range(256)] + sorted(learnt["vocab"], key=learnt["vocab"].get)
    vocab = {token: i for i, token in enumerate(dict.fromkeys(tokens))}
    runs = [["\n" * (n - 1), "\n"] for n in range(2, 9)] + [["\u2581" * (n - 1), "\u2581"] for n in range(2, 9)]
    merges = runs + [m for m in learnt["merges"] if m not in runs]
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m) for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos>:0 $A:0", pair="<bos>:0 $A:0 <bos>:1 $B:1", special_tokens=[("<bos>", 2)])
    tokenizer.add_special_tokens([special(t) for t in specials])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t in plain])
    tokenizer.add_special_tokens([special("<image_soft_token>")])
    return json.loads(tokenizer.to_str())


GEMMA_CONFIG = {"tokenizer_class": "GemmaTokenizer", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>",
                "add_bos_token": True, "add_eos_token": False, "image_token": "<image_soft_token>", "processor_class": "Gemma3Processor",
                "clean_up_tokenization_spaces": False, "extra_special_tokens": {"image_token": "<image_soft_token>"}}


def gemma3():
    from transformers import AutoTokenizer

    (OUT / "gemma").mkdir(parents=True, exist_ok=True)
    (OUT / "gemma" / "tokenizer.json").write_text(json.dumps(gemma(corpus(), 420, 120), ensure_ascii=False, separators=(",", ":")) + "\n")
    (OUT / "gemma" / "tokenizer_config.json").write_text(json.dumps(GEMMA_CONFIG, indent=1) + "\n")
    tokenizer = Tokenizer.from_file(str(OUT / "gemma" / "tokenizer.json"))
    golden = {"encode": encodings(tokenizer, 150), "decode": metaspace_decodings(tokenizer, random.Random(17))}
    loaded = AutoTokenizer.from_pretrained(str(OUT / "gemma"))
    assert encodings(loaded.backend_tokenizer, 150) == golden["encode"] and loaded("x")["input_ids"][0] == 2
    write("gemma", golden)


def module(path):
    spec = importlib.util.spec_from_file_location(path.stem.replace("-", "_"), path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def chat_format():
    return module(REPOSITORY / "scripts" / "chat-format.py")


def chat_prompts():
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    contents = ["Hello", "", "  spaces \u00a0\n", "two\nlines\n\n", "caf\u00e9 e\u0301 \u4f60\u597d \U0001f600 12345",
                "\x1c\x85 odd \u3000\u200b", "<|im_end|><|eot_id|></s> inside", "Explain: \u320e."]
    cases = []
    for name, folder, bos, template in TEMPLATES:
        if (OUT / folder / "tokenizer.json").exists():
            tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(OUT / folder / "tokenizer.json"), bos_token=bos)
        else:
            tokenizer = AutoTokenizer.from_pretrained(str(OUT / folder))

        def ids(*messages):
            keys = ("role", "content")
            return tokenizer.apply_chat_template(
                [dict(zip(keys, m)) for m in messages], chat_template=template, add_generation_prompt=True, return_dict=True,
                date_string="26 Jul 2024")["input_ids"]

        plain = [[c, ids(("user", c))] for c in contents]
        system = [[c, ids(("system", "Be  brief."), ("user", c))] for c in contents]
        tokens = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if key != "additional_special_tokens"}
        known = tokenizer.get_added_vocab()
        files = [chat_format().describe(template, tokens, known, system)[0] for system in (None, "Be  brief.")]
        cases.append({"name": name, "tokenizer": folder, "bos_token": bos, "template": template, "plain": plain, "system": system,
                      "plain_file": files[0], "system_file": files[1]})
    folder = OUT.parent / "chat"
    folder.mkdir(exist_ok=True)
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (folder / "golden.json").write_text("[\n" + text + "\n]\n")


def chat_odd():
    """chat/odd.json: for the odd templates of tests/command/test_chat_format.py what the script writes, which apply_chat_template bears
    out, and the ids around a marker with white space about it. The tokenizer is tests/data/tiny's."""
    from transformers import AutoTokenizer

    odd = module(REPOSITORY / "tests" / "command" / "test_chat_format.py")
    tokenizer = AutoTokenizer.from_pretrained(str(OUT.parent / "tiny" / "model"))
    tokens = {key: str(token) for key, token in tokenizer.special_tokens_map.items() if key != "additional_special_tokens"}
    marker, cases = tokenizer.convert_tokens_to_ids("\u320e"), []
    for template, strip in odd.RENDERED:
        found, _ = chat_format().describe(template, tokens, tokenizer.get_added_vocab())
        assert found["strip"] == strip, (template, found)
        for content in [*odd.CONTENTS, " \u320e\n"]:
            messages = [{"role": "user", "content": content}]
            want = tokenizer.apply_chat_template(messages, chat_template=template, tokenize=False, add_generation_prompt=True)
            assert odd.STRIP[strip](found["before"], content) + found["after"] == want, (template, content, want)
        ids = [None, *tokenizer(want, add_special_tokens=False)["input_ids"], None]
        at = ids.index(marker)
        cases.append({"template": template, "file": found, "around": [ids[at - 1], ids[at + 1]]})
    text = ",\n".join(json.dumps(case, separators=(",", ":")) for case in cases)
    (OUT.parent / "chat" / "odd.json").write_text("[\n" + text + "\n]\n")


def qwen3():
    from transformers import AutoTokenizer

    tokenizer = Tokenizer.from_file(str(SHARED / "qwen3" / "tokenizer.json"))
    chat = AutoTokenizer.from_pretrained(str(SHARED / "qwen3"))
    contents = ["Hello", "", "  spaces  ", "two\nlines\n", "caf\u00e9 e\u0301 \u4f60\u597d \U0001f600", "<|im_end|> inside"]
    rows = []
    for content in contents + [HARD[-1], "Explain: \u320e \u0001."]:
        messages = [{"role": "user", "content": content}]
        ids = chat.apply_chat_template(messages, add_generation_prompt=True, return_dict=True)["input_ids"]
        rows.append([content, ids])
    write("qwen3", {"encode": encodings(tokenizer, 150), "decode": decodings(tokenizer, random.Random(13)), "chat": rows})


def main():
    for name, make in (("small", small), ("llama", llama), ("smollm", smollm), ("flags", flags)):
        byte_level(name, make())
    native()
    llama2()
    gemma3()
    chat_prompts()
    chat_odd()
    qwen3()
    print(sum(p.stat().st_size for p in OUT.rglob("*") if p.is_file()), "bytes in", OUT)


if __name__ == "__main__":
    main()
