#!/usr/bin/env python3
"""An NLA in the shape of a released one, as sparse files: zeros for weights, a small tokenizer in the place of the model's.

    tests/tools/released.py NAME OUT        NAME: qwen2.5-7b, gemma3-12b, gemma3-27b, llama3.3-70b

OUT/av  the whole AV: config.json as the base model's is published, shards of 5 GB with an index, tokenizer, chat template, sidecar
OUT/ar  the truncated AR: blocks 0..K without head and final norm, value_head.safetensors, sidecar
OUT/set an activation set of 4 rows of ones

12B has its language model inside the folder of all modalities, as transformers 4.52 names it, 27B as transformers 5 and those before
do. Sidecars are in the terms of version 1 (actor, critic), as kitft and EasyNLA write them.
"""
import gzip
import json
import shutil
import struct
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HERE / "golden"))
from chat_templates import TEMPLATES  # noqa: E402

SHARD = 5_000_000_000
GEMMA = {"architectures": ["Gemma3ForConditionalGeneration"], "boi_token_index": 255999, "eoi_token_index": 256000, "image_token_index": 262144,
         "initializer_range": 0.02, "mm_tokens_per_image": 256, "model_type": "gemma3", "torch_dtype": "bfloat16",
         "vision_config": {"hidden_size": 1152, "image_size": 896, "intermediate_size": 4304, "model_type": "siglip_vision_model",
                           "num_attention_heads": 16, "num_hidden_layers": 27, "patch_size": 14, "vision_use_head": False}}
GEMMA_TEXT = {"model_type": "gemma3_text", "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024}
# name: (K, injection_scale, tokenizer, chat template, prefix of tensors, config.json)
RELEASED = {
    "qwen2.5-7b": (20, 150, "small", "qwen2.5", "model.", {
        "architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "hidden_act": "silu", "hidden_size": 3584, "initializer_range": 0.02,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2",
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
        "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "use_sliding_window": False,
        "vocab_size": 152064}),
    "gemma3-12b": (32, 80000, "gemma", "gemma3", "model.language_model.", {**GEMMA, "text_config": {
        **GEMMA_TEXT, "hidden_size": 3840, "intermediate_size": 15360, "num_attention_heads": 16, "num_hidden_layers": 48, "num_key_value_heads": 8}}),
    "gemma3-27b": (41, 60000, "gemma", "gemma3", "language_model.model.", {**GEMMA, "text_config": {
        **GEMMA_TEXT, "head_dim": 128, "hidden_size": 5376, "intermediate_size": 21504, "num_attention_heads": 32, "num_hidden_layers": 62,
        "num_key_value_heads": 16, "query_pre_attn_scalar": 168}}),
    "llama3.3-70b": (53, 10, "llama", "llama3.1", "model.", {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 8192, "initializer_range": 0.02, "intermediate_size": 28672, "max_position_embeddings": 131072, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 64, "num_hidden_layers": 80, "num_key_value_heads": 8, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
        "vocab_size": 128256, "rope_scaling": {"factor": 8.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
                                               "original_max_position_embeddings": 8192, "rope_type": "llama3"}}),
}


def block(c):
    """(name, shape) of a block's tensors."""
    gemma, d, f = c["model_type"] == "gemma3_text", c["hidden_size"], c["intermediate_size"]
    head = c.get("head_dim", 256 if gemma else d // c["num_attention_heads"])
    q, kv = c["num_attention_heads"] * head, c["num_key_value_heads"] * head
    yield "input_layernorm.weight", (d,)
    yield "post_attention_layernorm.weight", (d,)
    for name in ("pre_feedforward", "post_feedforward") if gemma else ():
        yield f"{name}_layernorm.weight", (d,)
    for name in "qk" if gemma else "":
        yield f"self_attn.{name}_norm.weight", (head,)
    for name, out in (("q", q), ("k", kv), ("v", kv)):
        yield f"self_attn.{name}_proj.weight", (out, d)
        if c["model_type"] == "qwen2":
            yield f"self_attn.{name}_proj.bias", (out,)
    yield "self_attn.o_proj.weight", (d, q)
    yield "mlp.gate_proj.weight", (f, d)
    yield "mlp.up_proj.weight", (f, d)
    yield "mlp.down_proj.weight", (d, f)


def tensors(c, prefix, depth, whole):
    yield prefix + "embed_tokens.weight", (c.get("vocab_size", 262208), c["hidden_size"])
    for layer in range(depth):
        for name, shape in block(c):
            yield f"{prefix}layers.{layer}.{name}", shape
    if whole:
        yield prefix + "norm.weight", (c["hidden_size"],)
        if not c.get("tie_word_embeddings", True):
            yield "lm_head.weight", (c["vocab_size"], c["hidden_size"])
        if "language_model" in prefix:
            yield prefix.replace("language_model.", "").removesuffix("model.") + "vision_tower.post_layernorm.weight", (1152,)


def size_of(shape):
    return 2 * shape[0] * (shape[1] if len(shape) > 1 else 1)


def write_shard(path, named):
    header, at = {}, 0
    for name, shape in named:
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + size_of(shape)]}
        at += size_of(shape)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        f.truncate(8 + len(text) + at)


def write_weights(folder, named):
    shards, size = [[]], 0
    for name, shape in named:
        if size + size_of(shape) > SHARD and shards[-1]:
            shards.append([])
            size = 0
        shards[-1].append((name, shape))
        size += size_of(shape)
    weight_map, total = {}, 0
    for i, shard in enumerate(shards):
        file = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write_shard(folder / file, shard)
        weight_map.update({name: file for name, _ in shard})
        total += sum(size_of(shape) for _, shape in shard)
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_folder(folder, tokenizer, template, config, meta):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    shutil.copy(HERE / "data" / "tokenizer" / tokenizer / "tokenizer.json", folder)
    _, _, bos, text = next(t for t in TEMPLATES if t[0] == template)
    kind = {"gemma": "GemmaTokenizer"}.get(tokenizer, "PreTrainedTokenizerFast")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, "bos_token": bos, "chat_template": text}))
    (folder / "nla_meta.yaml").write_text(json.dumps(meta, indent=1))  # JSON is YAML


def main():
    name, out = sys.argv[1], Path(sys.argv[2])
    k, scale, tokenizer, template, prefix, config = RELEASED[name]
    text = config.get("text_config", config)
    d = text["hidden_size"]
    meta = {"kind": "nla_model", "schema_version": 1, "d_model": d, "tokens": {"injection_char": "^"},
            "prompt_templates": {"actor": "Say what this holds, inside <explanation> tags.\nVector: {injection_char} .\n",
                                 "critic": "A text: {explanation} Vector:"}}
    write_folder(out / "av", tokenizer, template, config, {**meta, "role": "actor", "extraction": {"injection_scale": scale, "mse_scale": "sqrt_d_model"}})
    write_weights(out / "av", tensors(text, prefix, text["num_hidden_layers"], True))
    cut = {**text, "num_hidden_layers": k + 1, "architectures": ["NLACriticModel"]}
    write_folder(out / "ar", tokenizer, template, cut, {**meta, "role": "critic", "critic": {"extraction_layer_index": k},
                                                        "extraction": {"injection_scale": None, "mse_scale": "sqrt_d_model"}})
    write_weights(out / "ar", tensors(text, "model.", k + 1, False))
    write_shard(out / "ar" / "value_head.safetensors", [("weight", (d, d))])
    (out / "set").mkdir()
    with open(out / "set" / "activations.safetensors", "wb") as f:
        header = json.dumps({"activations": {"dtype": "F32", "shape": [4, d], "data_offsets": [0, 16 * d]}}).encode()
        header += b" " * (-len(header) % 8)
        f.write(struct.pack("<Q", len(header)) + header)
        for row in range(4):
            f.write(struct.pack(f"<{d}f", *(1.0 + (j + row) % 3 for j in range(d))))
    with gzip.open(out / "set" / "rows.jsonl.gz", "wt") as f:
        for row in range(4):
            f.write(json.dumps({"doc_id": str(row), "n_raw_tokens": 3, "text": "a b", "explanation": "a text"}) + "\n")
    (out / "set" / "nla_meta.yaml").write_text(json.dumps({**meta, "kind": "nla_dataset", "extraction": {"d_model": d, "layer_index": k}}))


if __name__ == "__main__":
    main()
