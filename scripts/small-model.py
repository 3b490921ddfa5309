#!/usr/bin/env python3
"""
A small Qwen2 with a tokenizer of its own, pre-trained by nla-sft on your texts and on chats about them: a second model to walk
docs/your-model.md with, one million parameters, some minutes on two cores.

    ~/.cache/nla/reference/bin/python scripts/small-model.py TEXT OUT [--steps 800] [--vocab 2048] [--bin build]

TEXT: prose, paragraphs between empty lines. That Python is of scripts/setup.sh --reference: its `tokenizers` trains the
tokenizer. OUT/model is the model; OUT/start, OUT/corpus and OUT/lm are what it was made of, and another call continues it.

A chat asks for a title of a paragraph, in the words of configs/small-set.json, and gets the paragraph's rarest words: little to learn,
so that a model of this size can be its own teacher. No character is reserved as a marker.
"""
import argparse
import collections
import importlib.util
import json
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.dont_write_bytecode = True
sys.path.insert(0, str(ROOT / "demo"))
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def title(paragraph, counts):
    """Its three rarest words that are not unique, in their order."""
    words = dict.fromkeys(w for w in re.findall("[a-z]{4,}", paragraph.lower()) if counts[w] > 2)
    rare = sorted(words, key=lambda w: counts[w])[:3]
    return ", ".join(w for w in words if w in rare).capitalize()


def chats(paragraphs, seed):
    prompt = json.loads((ROOT / "configs" / "small-set.json").read_text())["teach"]["prompt"]
    counts, rng = collections.Counter(w for p in paragraphs for w in set(re.findall("[a-z]{4,}", p.lower()))), random.Random(seed)
    for paragraph in paragraphs:
        words = paragraph.split(" ")
        end = rng.randint(min(12, len(words)), min(40, len(words)))                  # the teacher sees stretches that end anywhere
        stretch = " ".join(words[max(0, end - 30):end])
        answer = title(stretch, counts)
        if answer:
            yield f"<|im_start|>user\n{prompt.replace('{text}', stretch)}<|im_end|>\n<|im_start|>assistant\n{answer}<|im_end|>\n"


def write_start(folder, texts, vocab):
    """config.json, generation_config.json and the tokenizer of a Qwen2, without weights."""
    from story_model import CHAT_TEMPLATE, drop_twin_merges, train_tokenizer
    tokenizer = train_tokenizer(texts, vocab, SPECIAL)
    ids = {text: tokenizer.token_to_id(text) for text in SPECIAL}
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    files = {
        "generation_config.json": {"eos_token_id": [end_of_turn, end_of_text], "pad_token_id": end_of_text},
        "tokenizer_config.json": {
            "tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "bos_token": None, "eos_token": "<|im_end|>",
            "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 1024, "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE, "added_tokens_decoder": {str(i): {
                "content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False, "special": True}
                for text, i in ids.items()}},
        "config.json": {
            "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": tokenizer.get_vocab_size(), "hidden_size": 128,
            "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2, "hidden_act": "silu",
            "max_position_embeddings": 1024, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
            "use_sliding_window": False, "initializer_range": 0.02, "torch_dtype": "float32", "eos_token_id": end_of_turn}}
    folder.mkdir(parents=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    drop_twin_merges(folder / "tokenizer.json")
    for name, content in files.items():                                             # config.json last: the folder is whole then
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--vocab", type=int, default=2048)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bin", type=pathlib.Path, default=ROOT / "build")
    args = parser.parse_args()
    if not importlib.util.find_spec("tokenizers"):
        sys.exit("small-model: error: no tokenizers in this Python: run scripts/setup.sh --reference, then this by "
                 "~/.cache/nla/reference/bin/python")
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", args.text.read_text("utf-8")) if len(p) > 100]
    if len(paragraphs) < 100:
        sys.exit(f"small-model: error: '{args.text}' has {len(paragraphs)} paragraphs of more than 100 characters, want 100 or more")
    (args.out / "corpus").mkdir(parents=True, exist_ok=True)
    both = {"text": paragraphs, "chat": list(chats(paragraphs, args.seed))}
    for name, texts in both.items():
        lines = (json.dumps({"doc_id": f"{name}-{i}", "text": t}, ensure_ascii=False) + "\n" for i, t in enumerate(texts))
        (args.out / "corpus" / f"{name}.jsonl").write_text("".join(lines), "utf-8")
    if not (args.out / "start" / "config.json").exists():
        shutil.rmtree(args.out / "start", ignore_errors=True)
        write_start(args.out / "start", both["text"] + both["chat"], args.vocab)
    written = args.out / "lm" / "checkpoints" / f"step-{args.steps}"
    child = None

    def pass_on(number, _):                                             # nla-sft saves what it has; a second one soon after counts as the first
        if child:
            child.send_signal(number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, pass_on)
    child = subprocess.Popen([args.bin / "nla-sft", "--role", "lm", "--model", args.out / "start", "--corpus", args.out / "corpus", "--out",
                              args.out / "lm", "--resume", "--sft.init", "true", "--lr", "3e-3", "--batch", "32", "--sft.warmup", "50", "--sft.context",
                              "192", "--sft.held_out", "0.01", "--steps", str(args.steps), "--seed", str(args.seed), "--log.every", "20"])
    code = child.wait()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    if code or not written.exists():
        sys.exit(code or "small-model: error: nla-sft was stopped; the same command continues it")
    shutil.rmtree(args.out / "model", ignore_errors=True)
    shutil.copytree(written / "model", args.out / "model")
    print(args.out / "model")


if __name__ == "__main__":
    main()
