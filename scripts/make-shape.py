#!/usr/bin/env python3
"""A checkpoint of Qwen3-8B's shape with random weights, and what an RL run needs next to it: to try memory, loading and speed
where the real one is not at hand. Plain Python, no packages; 17 GB on disk.

    scripts/make-shape.py [--tokenizer DIR] --out DIR [--sparse]
    build/nla-train --check --memory 24G DIR/config.json

DIR/model   config.json, tokenizer, and five bf16 shards cut as the published ones are; --sparse: holes instead of numbers
DIR/av      a fresh adapter of rank 64 on all projections (B = 0), DIR/ar the same over blocks 0..24 with the identity as head
DIR/set     an activation set of 512 random rows

--tokenizer is a folder with Qwen3's tokenizer.json and tokenizer_config.json. Without it the demo's stands in: prompts are longer, and
ids beyond its vocabulary have no text.
"""
import argparse
import gzip
import json
import os
import random
import shutil
import struct

CONFIG = {
    "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "head_dim": 128, "hidden_act": "silu", "hidden_size": 4096, "initializer_range": 0.02,
    "intermediate_size": 12288, "max_position_embeddings": 40960, "max_window_layers": 36, "model_type": "qwen3",
    "num_attention_heads": 32, "num_hidden_layers": 36, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
    "use_sliding_window": False, "vocab_size": 151936,
}
SHARD = 4_000_000_000  # bytes: with it the published shards come out
LAYER, RANK, ROWS = 24, 64, 512
D, F, Q, KV = 4096, 12288, 32 * 128, 8 * 128
PROJECTIONS = {"self_attn.q_proj": (Q, D), "self_attn.k_proj": (KV, D), "self_attn.v_proj": (KV, D), "self_attn.o_proj": (D, Q),
               "mlp.gate_proj": (F, D), "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
META = """kind: "%s"
schema_version: 2
%sbase_checkpoint: "model"
d_model: 4096
extraction:
  d_model: 4096
  layer_index: %d
  injection_scale: null
  mse_scale: sqrt_d_model
  injection_mode: residual_add
tokens:
  injection_char: "\\u320E"
prompt_templates:
  av: "Say what this vector holds, inside <explanation> tags.\\nVector: {injection_char}\\n"
  ar: "A text and what the model has in mind at its end: {explanation} Vector:"
%s"""


def block():
    """Some 16 MB of bf16 numbers of either sign with sizes from 2^-7 to 2^-5; of an odd length, so that rows differ."""
    n = 8_388_593
    low, sign = random.randbytes(n), random.randbytes(n)
    out = bytearray(2 * n)
    out[0::2] = low
    out[1::2] = sign.translate(bytes(0x3C if b < 128 else 0xBC for b in range(256)))
    return bytes(out)


def numel(shape):
    n = 1
    for size in shape:
        n *= size
    return n


def write(path, tensors, numbers, dtype="BF16"):
    """tensors: (name, shape, kind): 'random', 'ones', 'zeros' or bytes."""
    header, at = {}, 0
    for name, shape, _ in tensors:
        size = numel(shape) * (2 if dtype == "BF16" else 4)
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + size]}
        at += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for name, _, kind in tensors:
            start, end = header[name]["data_offsets"]
            size = end - start
            if isinstance(kind, bytes):
                f.write(kind)
            elif kind == "ones":
                f.write(b"\x80\x3f" * (size // 2))
            elif kind == "random" and numbers:
                for _ in range(size // len(numbers)):
                    f.write(numbers)
                f.write(numbers[: size % len(numbers)])
            else:
                f.seek(size, os.SEEK_CUR)
        f.truncate(8 + len(text) + at)


def model_tensors():
    yield "model.embed_tokens.weight", (CONFIG["vocab_size"], D), "random"
    for i in range(CONFIG["num_hidden_layers"]):
        parts = {name: (shape, "random") for name, shape in PROJECTIONS.items()}
        parts.update({"input_layernorm": ((D,), "ones"), "post_attention_layernorm": ((D,), "ones"),
                      "self_attn.q_norm": ((128,), "ones"), "self_attn.k_norm": ((128,), "ones")})
        for name in sorted(parts):
            yield f"model.layers.{i}.{name}.weight", *parts[name]
    yield "model.norm.weight", (D,), "ones"
    yield "lm_head.weight", (CONFIG["vocab_size"], D), "random"


def make_model(folder, tokenizer, numbers):
    os.makedirs(folder, exist_ok=True)
    shards, size = [[]], 0
    for tensor in model_tensors():
        bytes_ = numel(tensor[1]) * 2
        if size + bytes_ > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += bytes_
    names, total = {}, 0
    for i, tensors in enumerate(shards):
        name = f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors"
        write(os.path.join(folder, name), tensors, numbers)
        names.update({tensor[0]: name for tensor in tensors})
        total += sum(numel(tensor[1]) * 2 for tensor in tensors)
    dump(folder, "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": names})
    with open(os.path.join(tokenizer, "tokenizer.json")) as f:
        ids = {token["content"]: token["id"] for token in json.load(f)["added_tokens"]}
    end, pad = ids["<|im_end|>"], ids["<|endoftext|>"]
    dump(folder, "config.json", {**CONFIG, "bos_token_id": pad, "eos_token_id": end})
    dump(folder, "generation_config.json", {"bos_token_id": pad, "do_sample": True, "eos_token_id": [end, pad], "pad_token_id": pad})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(os.path.join(tokenizer, name), os.path.join(folder, name))


def dump(folder, name, value):
    with open(os.path.join(folder, name), "w") as f:
        json.dump(value, f, indent=2)


def make_adapter(folder, role, layers, numbers):
    os.makedirs(folder, exist_ok=True)
    tensors = []
    for i in range(layers):
        for name, (out, in_) in PROJECTIONS.items():
            key = f"base_model.model.model.layers.{i}.{name}"
            tensors += [(key + ".lora_A.weight", (RANK, in_), "random"), (key + ".lora_B.weight", (out, RANK), "zeros")]
    write(os.path.join(folder, "adapter_model.safetensors"), tensors, numbers)
    config = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": "model", "r": RANK, "lora_alpha": 2 * RANK,
              "lora_dropout": 0, "use_rslora": True, "bias": "none", "fan_in_fan_out": False, "inference_mode": True,
              "target_modules": [name.split(".")[1] for name in PROJECTIONS], "rank_pattern": {}, "alpha_pattern": {}}
    dump(folder, "adapter_config.json", config)
    with open(os.path.join(folder, "nla_meta.yaml"), "w") as f:
        f.write(META % ("nla_model", f'role: "{role}"\nstage: "sft"\n', LAYER, ""))


def make_head(folder):
    zero, one = b"\0\0\0\0", struct.pack("<f", 1)
    rows = b"".join(zero * i + one + zero * (D - 1 - i) for i in range(D))
    write(os.path.join(folder, "value_head.safetensors"), [("weight", (D, D), rows)], None, "F32")


def make_set(folder, numbers):
    os.makedirs(folder, exist_ok=True)
    write(os.path.join(folder, "activations.safetensors"), [("activations", (ROWS, D), numbers[: ROWS * D * 2])], numbers)
    with gzip.open(os.path.join(folder, "rows.jsonl.gz"), "wt") as f:
        for i in range(ROWS):
            f.write(json.dumps({"doc_id": f"doc-{i}", "n_raw_tokens": 60, "text": f"Text number {i}."}) + "\n")
    with open(os.path.join(folder, "nla_meta.yaml"), "w") as f:
        f.write(META % ("nla_dataset", "", LAYER, f"baseline:\n  raw_variance: 0.98\n  mean_normalised: 1.97\nrow_count: {ROWS}\n"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    demo = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "demo", "model")
    parser.add_argument("--tokenizer", default=demo, help="default: the demo's")
    parser.add_argument("--out", required=True)
    parser.add_argument("--sparse", action="store_true", help="weights are holes in the files: zeros that take no room")
    args = parser.parse_args()
    random.seed(0)
    numbers = block()
    make_model(os.path.join(args.out, "model"), args.tokenizer, None if args.sparse else numbers)
    make_adapter(os.path.join(args.out, "av"), "av", CONFIG["num_hidden_layers"], numbers)
    make_adapter(os.path.join(args.out, "ar"), "ar", LAYER + 1, numbers)
    make_head(os.path.join(args.out, "ar"))
    make_set(os.path.join(args.out, "set"), numbers)
    dump(args.out, "config.json", {"model": "model", "av": "av", "ar": "ar", "data": "set",
                                   "lora": {"rank": 16, "alpha": 32, "targets": "q,k,v,o"},
                                   "rollout": {"prompts": 8, "group": 4, "max_new_tokens": 160}})


main()
