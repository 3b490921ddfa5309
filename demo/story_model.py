"""The demo model's tokenizer and configuration: a byte-level BPE in Qwen2's layout and a Qwen3 of some 1.4 million parameters.

Ids run as in Qwen's own files: entries in merge order, then the special tokens, then the marker as an ordinary added token.
The words of the stories are few: a vocabulary of 1536 gives nearly every word a token of its own, with and without a space.
"""

import json
import os

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
         r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def train_tokenizer(texts, vocab, special, marker=None):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.train_from_iterator(texts, trainers.BpeTrainer(
        vocab_size=vocab - len(special) - bool(marker), min_frequency=2, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    tokenizer.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in special])
    if marker:
        tokenizer.add_tokens([AddedToken(marker, normalized=False, special=False)])
    return tokenizer


def drop_twin_merges(path):
    """Two merges with one result, which training may leave, tell apart nothing that a story needs and differ between engines:
    the later one goes."""
    with open(path, encoding="utf-8") as file:
        model = json.load(file)
    seen, kept = set(), []
    for merge in model["model"]["merges"]:
        result = "".join(merge if isinstance(merge, list) else merge.split(" "))
        if result not in seen:
            kept.append(merge)
        seen.add(result)
    dropped = len(model["model"]["merges"]) - len(kept)
    model["model"]["merges"] = kept
    with open(path, "w", encoding="utf-8") as file:
        json.dump(model, file, ensure_ascii=False, indent=1)
    return dropped


CHAT_TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def model_configs(vocab_size, ids, special, marker):
    end_of_text, end_of_turn = ids["<|endoftext|>"], ids["<|im_end|>"]
    config = {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "vocab_size": vocab_size, "hidden_size": 128,
              "intermediate_size": 384, "num_hidden_layers": 6, "num_attention_heads": 4, "num_key_value_heads": 2,
              "head_dim": 32, "hidden_act": "silu", "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0,
              "rope_scaling": None, "attention_bias": False, "attention_dropout": 0.0, "tie_word_embeddings": True,
              "use_cache": True, "use_sliding_window": False, "sliding_window": None, "max_window_layers": 6,
              "initializer_range": 0.02, "torch_dtype": "float32", "bos_token_id": end_of_text, "eos_token_id": end_of_turn}
    generation = {"bos_token_id": end_of_text, "pad_token_id": end_of_text, "eos_token_id": [end_of_turn, end_of_text],
                  "do_sample": True, "temperature": 1.0}
    tokenizer = {"tokenizer_class": "Qwen2Tokenizer", "add_prefix_space": False, "add_bos_token": False, "bos_token": None,
                 "eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "unk_token": None, "model_max_length": 512,
                 "clean_up_tokenization_spaces": False, "errors": "replace", "split_special_tokens": False,
                 "additional_special_tokens": special[1:], "chat_template": CHAT_TEMPLATE,
                 "added_tokens_decoder": {str(ids[text]): {
                     "content": text, "lstrip": False, "rstrip": False, "normalized": False, "single_word": False,
                     "special": text != marker} for text in special + [marker]}}
    return {"config.json": config, "generation_config.json": generation, "tokenizer_config.json": tokenizer}


def write_model_files(texts, vocab, special, marker, out):
    """Writes tokenizer.json and the configuration beside it; returns figures about the first 500 texts."""
    tokenizer = train_tokenizer(texts, vocab, special, marker)
    tokenizer.save(out)
    dropped = drop_twin_merges(out)
    tokenizer = Tokenizer.from_file(out)
    ids = {text: tokenizer.token_to_id(text) for text in special + [marker]}
    size = tokenizer.get_vocab_size()
    for name, content in model_configs(size, ids, special, marker).items():
        with open(os.path.join(os.path.dirname(os.path.abspath(out)), name), "w", encoding="utf-8") as file:
            json.dump(content, file, indent=2)
            file.write("\n")
    sample = texts[:500]
    tokens = [len(tokenizer.encode(text, add_special_tokens=False).ids) for text in sample]
    return {"vocab_size": size, "tokens_per_word": round(sum(tokens) / sum(len(text.split()) for text in sample), 3),
            "tokens_per_story": round(sum(tokens) / len(sample), 1), "longest_story": max(tokens),
            "twin_merges_dropped": dropped}
