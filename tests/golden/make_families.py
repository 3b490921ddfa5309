#!/usr/bin/env python3
"""Writes tests/data/families/NAME: a tiny random model of every family with an AV and an AR adapter, and the numbers of transformers
and PEFT on them.

	python tests/golden/make_families.py [--out tests/data/families]

No tokenizer: rows are ids. A row is a prompt with a marker and a response; its vector is injected at the marker in both modes. The
same numbers in bf16 say how far transformers itself is off there, which is what our bf16 is allowed.
"""

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

import peft
import torch
import transformers
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))
import nla_reference as ref  # noqa: E402

V, D, BLOCKS, K, F = 97, 32, 4, 2, 56
N, PROMPT, MARKER_AT, RESPONSE = 3, 9, 5, 24
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 64}
GEMMA3 = {"num_key_value_heads": 2, "head_dim": 16, "query_pre_attn_scalar": 12, "rms_norm_eps": 1e-6, "pad_token_id": 0}
GEMMA3_ROPE = {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
               "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0}}
VISION = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "image_size": 28, "patch_size": 14}
# name: (config class, fields, how its config.json is written, targets of its adapters, rsLoRA)
FAMILIES = {
    "qwen3": (transformers.Qwen3Config, {"num_key_value_heads": 2, "head_dim": 16, "tie_word_embeddings": False}, "new", SEVEN, True),
    "qwen2": (transformers.Qwen2Config, {"num_key_value_heads": 2, "tie_word_embeddings": True, "use_sliding_window": False,
                                         "sliding_window": 32, "max_window_layers": 4}, "old", SEVEN, False),
    "llama2": (transformers.LlamaConfig, {"num_key_value_heads": 4, "tie_word_embeddings": False, "rms_norm_eps": 1e-5}, "old",
               ["q_proj", "v_proj", "down_proj"], False),
    "llama3": (transformers.LlamaConfig, {"num_key_value_heads": 2, "tie_word_embeddings": False, "rope_parameters": LLAMA3}, "old",
               SEVEN, True),
    "gemma3": (transformers.Gemma3TextConfig, {**GEMMA3, "sliding_window": 8, "sliding_window_pattern": 2, "rope_parameters": GEMMA3_ROPE},
               "gemma", SEVEN, True),
    "gemma3long": (transformers.Gemma3TextConfig, {**GEMMA3, "sliding_window": 64, "sliding_window_pattern": 3, "head_dim": 8}, "new",
                   ["q_proj", "up_proj"], False),
    "gemma3mm": (transformers.Gemma3Config, {**GEMMA3, "sliding_window": 8, "sliding_window_pattern": 3, "rope_parameters": GEMMA3_ROPE},
                 "gemma", SEVEN, True),
    "smollm2": (transformers.LlamaConfig, {"num_key_value_heads": 1, "tie_word_embeddings": True,
                                           "rope_parameters": {"rope_type": "default", "rope_theta": 100000.0}}, "smollm",
                ["k_proj", "o_proj", "gate_proj", "up_proj"], True),
}


def key(name):
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name, *shape):
    return torch.randn(*shape, generator=key(name))


def integers(name, n):
    return torch.randint(V - 1, (n,), generator=key(name)).tolist()  # V - 1 is the marker


def check(ok, what):
    if not ok:
        sys.exit(f"make_families.py: these numbers could not tell right from wrong: {what}")


def rewrite_config(folder, style):
    """config.json as the family's published files have it: rope_theta at the top and rope_scaling, where 5.x has rope_parameters."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    if style == "gemma":
        text = config.get("text_config", config)
        rope = text.pop("rope_parameters")
        text.update(rope_theta=rope["full_attention"].pop("rope_theta"), rope_local_base_freq=rope["sliding_attention"]["rope_theta"],
                    rope_scaling=rope["full_attention"], sliding_window_pattern=text.pop("_sliding_window_pattern"))
        text.pop("layer_types")
        config["torch_dtype"] = config.pop("dtype")
    elif style != "new":
        rope = config.pop("rope_parameters")
        config["rope_theta"] = rope.pop("rope_theta")
        config["rope_scaling"] = rope if rope.get("rope_type", "default") != "default" else None
        config["torch_dtype"] = config.pop("dtype")
        config.pop("layer_types", None)
    if style == "smollm":
        config.update(rope_interleaved=False, is_llama_config=True, pretraining_tp=1,
                      **{"transformers.js_config": {"kv_cache_dtype": {"q4f16": "float16"}}})
    path.write_text(json.dumps(config, indent=1) + "\n")


def make_model(name, folder):
    kind, fields, style, _, _ = FAMILIES[name]
    sizes = {"vocab_size": V, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": BLOCKS, "num_attention_heads": 4,
             "max_position_embeddings": 256, "bos_token_id": None, "eos_token_id": 1, **fields}
    if kind is transformers.Gemma3Config:
        config = kind(text_config={**sizes, "model_type": "gemma3_text"}, vision_config=VISION, mm_tokens_per_image=1, dtype="float32")
    else:
        config = kind(dtype="float32", **sizes, **({} if name.startswith("gemma") else {"hidden_act": "silu"}))
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    for p_name, p in model.named_parameters():
        x = normal(f"{name}.{p_name}", *p.shape)
        if p_name.endswith("bias"):
            p.data = 0.5 * x
        elif p.dim() == 1:
            p.data = 0.2 * x if name.startswith("gemma") else 1 + 0.2 * x
        else:
            p.data = (0.25 if "embed" in p_name or "lm_head" in p_name else 0.17) * x
    model.save_pretrained(folder)
    (folder / "generation_config.json").unlink(missing_ok=True)
    rewrite_config(folder, style)


def make_adapter(name, folder, model, role):
    _, _, _, targets, rslora = FAMILIES[name]
    config = peft.LoraConfig(r=3, lora_alpha=5, use_rslora=rslora, target_modules=targets, lora_dropout=0.0, bias="none",
                             task_type="CAUSAL_LM", exclude_modules=".*vision_tower.*" if (name, role) == ("gemma3mm", "ar") else None)
    wrapped = peft.get_peft_model(model, config)
    for p_name, p in wrapped.named_parameters():
        if "lora_" in p_name:
            p.data = 0.15 * normal(f"{name}.{role}.{p_name}", *p.shape)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"] = sorted(saved["target_modules"])
    saved["base_model_name_or_path"] = name
    path.write_text(json.dumps(saved, indent=1) + "\n")


def rows_of():
    rows = [integers(f"row{n}", PROMPT + RESPONSE - 5 * n) for n in range(N)]
    for row in rows:
        row[MARKER_AT] = V - 1
    return rows


def logprobs(model, rows, vectors, mode=None, scale=None):
    """[N, RESPONSE], rows one by one; mode None: no vector."""
    out = torch.zeros(N, RESPONSE)
    for n, row in enumerate(rows):
        ids, tail = row[:PROMPT], row[PROMPT:]
        if mode:
            logits = ref.response_logits(model, ids, MARKER_AT, vectors[n], tail, mode, scale)
        else:
            logits = model(input_ids=torch.tensor([row]), use_cache=False).logits[0, PROMPT - 1:-1].float()
        out[n, :len(tail)] = ref.token_logprob(logits, tail)
    return out


def kl(model, rows, vectors):
    """[N, 2]: KL of the next token's distribution after each row when block K gives its last token this row's vector, or the next row's."""
    out = torch.zeros(N, 2)
    for n, row in enumerate(rows):
        ids, log_p = torch.tensor([row]), []
        for v in (None, vectors[n], vectors[(n + 1) % N]):
            def put(module, args, h):
                x = h[0] if isinstance(h, tuple) else h
                if v is not None:
                    x[:, -1] = v.to(x.dtype)
            hook = ref.decoder(model).layers[K].register_forward_hook(put)
            log_p.append(model(input_ids=ids, use_cache=False).logits[0, -1].double().log_softmax(-1))
            hook.remove()
        out[n] = torch.stack([(log_p[0].exp() * (log_p[0] - q)).sum() for q in log_p[1:]])
    return out


def gradient(model, rows, vectors):
    """Of the sum of all log-probabilities, with vectors added: of every A and B, flat, by block and projection."""
    named = {n: p.requires_grad_() for n, p in model.named_parameters() if "lora_" in n and "vision_tower" not in n}
    with torch.enable_grad():
        logprobs(model, rows, vectors, "residual_add").sum().backward()
    order = [n for block in range(BLOCKS) for p in SEVEN for side in "AB" for n in named if f".{block}." in n and f".{p}.lora_{side}." in n]
    return torch.cat([named[n].grad.flatten().float() for n in order])


def golden(out, name, dtype):
    """Names to tensors, in this type of the weights (adapters stay fp32)."""
    folder = out / name
    rows, vectors = rows_of(), 3 * normal("vectors", N, D)
    bare = ref.load_base(folder, dtype=dtype)
    adapted = ref.with_adapters(ref.load_base(folder, dtype=dtype), [folder / "av"])
    reader = ref.with_adapters(ref.load_base(folder, K + 1, dtype=dtype), [folder / "ar"])
    head = torch.eye(D) + 0.05 * normal(f"{name}.head", D, D)
    t = {"bare": logprobs(bare, rows, vectors), "adapter": logprobs(adapted, rows, vectors),
         "bare.residual_add": logprobs(bare, rows, vectors, "residual_add"),
         "adapter.residual_add": logprobs(adapted, rows, vectors, "residual_add"),
         "bare.embed_replace": logprobs(bare, rows, vectors, "embed_replace", 4.0),
         "adapter.embed_replace": logprobs(adapted, rows, vectors, "embed_replace", 4.0),
         "ar": torch.stack([ref.reconstruct(reader, head, K, row)[1] for row in rows]),
         "ar.kept": torch.stack([ref.reconstruct(reader, head, K, row, ref.decoder(bare).norm)[1] for row in rows])}
    t["kl"] = kl(bare, rows, vectors)
    t["gradient"] = gradient(adapted, rows, vectors)
    return t, head


def tell(name, t):
    """Each known slip must move these numbers by far more than rounding."""
    names = [n for n in t if not n.startswith(("ar", "kl", "gradient"))]
    check((t["ar"] - t["ar.kept"]).abs().mean() > 0.01, f"{name}: the AR's final norm does not matter")
    check(t["kl"].min() > 0.1 and (t["kl"][:, 0] - t["kl"][:, 1]).abs().min() > 0.01, f"{name}: a replaced vector does not matter")
    for i, a in enumerate(names):
        for b in names[:i]:
            check((t[a] - t[b]).abs().mean() > 0.01, f"{name}: {a} is nearly {b}")


def without(out, name, field, value, t):
    """The same weights under another config must give other numbers: the fact that makes the family is visible."""
    model = ref.load_base(out / name)
    setattr(model.config, field, value)
    again = type(model)(model.config).eval()
    again.load_state_dict(model.state_dict(), strict=False)
    check((logprobs(again, rows_of(), None) - t["bare"]).abs().max() > 0.01, f"{name}: {field} does not matter")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "data" / "families")
    out = parser.parse_args().out
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    tensors = {"ids": torch.tensor([row + [-1] * (PROMPT + RESPONSE - len(row)) for row in rows_of()]), "vectors": 3 * normal("vectors", N, D)}
    for name in FAMILIES:
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
        make_model(name, out / name)
        make_adapter(name, out / name / "av", ref.load_base(out / name), "av")
        make_adapter(name, out / name / "ar", ref.load_base(out / name, K + 1), "ar")
        with torch.no_grad():
            exact, head = golden(out, name, torch.float32)
            coarse, _ = golden(out, name, torch.bfloat16)
            tell(name, exact)
            if name == "llama3":
                without(out, name, "rope_parameters", {"rope_type": "default", "rope_theta": 10000.0}, exact)
            if name == "gemma3":
                for field, value in (("sliding_window", 7), ("sliding_window", 64), ("query_pre_attn_scalar", 16),
                                     ("layer_types", ["full_attention"] * BLOCKS), ("hidden_activation", "silu"),
                                     ("rope_parameters", {**GEMMA3_ROPE, "full_attention": {"rope_type": "default", "rope_theta": 100000.0}}),
                                     ("rope_parameters", {**GEMMA3_ROPE, "sliding_attention": {"rope_type": "default", "rope_theta": 100000.0}})):
                    without(out, name, field, value, exact)
        tensors[f"{name}.head"] = head
        for what, x in exact.items():
            tensors[f"{name}.{what}"] = x
            if what == "gradient":
                continue
            tensors[f"{name}.{what}.bf16"] = coarse[what]
            print(f"{name} {what}: transformers' bf16 is off by at most {(coarse[what] - x).abs().max():.3f}, mean {(coarse[what] - x).abs().mean():.4f}")
    save_file({n: x.detach().clone().contiguous() for n, x in sorted(tensors.items())}, out / "golden.safetensors",
              {"format": "pt", "versions": f"torch {torch.__version__} transformers {transformers.__version__} peft {peft.__version__}"})


if __name__ == "__main__":
    main()
