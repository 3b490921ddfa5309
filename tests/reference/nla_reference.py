"""The NLA's mathematics in transformers, PEFT and plain torch: what our C programs are compared with.

Used by tests/golden/make_golden.py (numbers committed for the C tests), tests/reference/peft_check.py (a run's rows against
PEFT) and bench/reference_loop.py (the loop our speed is compared with). Written from the same contract as the C code and
sharing nothing with it, so an error has to be made twice to go unseen.

Rows are computed one at a time where correctness matters (no padding, no cache: nothing to get wrong); the bench batches.
"""

import json
import re
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

INJECT_BLOCK = 1  # residual_add works on the output of the second block
EXPLANATION = re.compile(r"<explanation>(.*?)</explanation>", re.DOTALL)


# ---- prompts and sidecar

def read_sidecar(folder):
    with open(Path(folder) / "nla_meta.yaml", encoding="utf-8") as f:
        meta = yaml.safe_load(f)
    extraction = meta.get("extraction") or {}
    scale = extraction.get("injection_scale")
    mode = extraction.get("injection_mode") or ("embed_replace" if scale is not None else "residual_add")
    templates = meta.get("prompt_templates") or {}
    meta["inject"] = {"mode": mode, "scale": meta["d_model"] ** 0.5 if scale == "sqrt_d_model" else scale}
    meta["av_template"] = templates.get("av", templates.get("actor"))
    meta["ar_template"] = templates.get("ar", templates.get("critic"))
    return meta


def chat_text(content):
    return f"<|im_start|>user\n{content}<|im_end|>\n<|im_start|>assistant\n"


def encode(tokenizer, text, special=False):
    return tokenizer(text, add_special_tokens=special)["input_ids"]


def av_prompt(tokenizer, meta):
    """Ids of the AV prompt and the marker's position, checked against the sidecar."""
    tokens = meta["tokens"]
    content, chat = meta["av_template"].replace("{injection_char}", tokens["injection_char"]), meta.get("chat") or {}
    ids = encode(tokenizer, chat["before"] + content.strip() + chat["after"] if chat.get("format") == "gemma" else chat_text(content))
    marker = tokens["injection_token_id"]
    if ids.count(marker) != 1:
        raise ValueError(f"marker id {marker} occurs {ids.count(marker)} times in the AV prompt {ids}")
    at = ids.index(marker)
    want = (tokens["injection_left_neighbor_id"], tokens["injection_right_neighbor_id"])
    if (ids[at - 1], ids[at + 1]) != want:
        raise ValueError(f"marker stands between ids {ids[at - 1]} and {ids[at + 1]}, want {want}")
    return ids, at


def ar_prompt(tokenizer, meta, explanation):
    ids = encode(tokenizer, meta["ar_template"].replace("{explanation}", explanation), bool(meta["tokens"].get("add_special")))
    suffix = meta["tokens"]["critic_suffix_ids"]
    if ids[-len(suffix):] != list(suffix):
        raise ValueError(f"AR prompt ends with {ids[-len(suffix):]}, want {suffix}")
    return ids


def explanation_of(response):
    """What stands between the tags, stripped; None when the tags are not closed or nothing stands between them."""
    found = EXPLANATION.search(response)
    return (found.group(1).strip() or None) if found else None


def read_vectors(folder):
    """Raw activations [N, D] fp32 of a set, shards in row order."""
    folder = Path(folder)
    index = folder / "activations.safetensors.index.json"
    if not index.exists():
        return load_file(folder / "activations.safetensors")["activations"].float()
    with open(index, encoding="utf-8") as f:
        where = json.load(f)["weight_map"]
    names = sorted(where, key=lambda name: int(name.rsplit(".", 1)[1]))
    return torch.cat([load_file(folder / where[name])[name].float() for name in names])


# ---- models

def load_tokenizer(model_folder):
    return AutoTokenizer.from_pretrained(model_folder)


def stop_ids(model, tokenizer):
    """Every id that ends a response; the first is the end of a turn."""
    eos = model.generation_config.eos_token_id
    eos = [eos] if isinstance(eos, int) else list(eos or [])
    vocab = tokenizer.get_vocab()
    end_of_turn = vocab.get("<end_of_turn>", vocab.get("<|im_end|>"))
    return [end_of_turn] + [i for i in eos if i != end_of_turn]


def load_base(model_folder, n_blocks=None, attention="eager", dtype=torch.float32):
    """The target, frozen; n_blocks keeps only the first of them (an AR)."""
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=dtype, attn_implementation=attention)
    if n_blocks is not None:
        body = decoder(model)
        body.layers = body.layers[:n_blocks]
        body.config.num_hidden_layers = n_blocks
    return model.requires_grad_(False).eval()


def with_adapters(model, folders, merge=False):
    """Base plus PEFT adapters, all active at once (their sum), or merged into the weights one after the other."""
    from peft import PeftModel

    if merge:
        for folder in folders:
            model = PeftModel.from_pretrained(model, folder).merge_and_unload()
        return model.requires_grad_(False).eval()
    names = [f"adapter{i}" for i in range(len(folders))]
    for i, folder in enumerate(folders):
        if i == 0:
            model = PeftModel.from_pretrained(model, folder, adapter_name=names[0])
        else:
            model.load_adapter(folder, adapter_name=names[i])
    if len(names) > 1:
        model.base_model.set_adapter(names)
    return model.requires_grad_(False).eval()


def decoder(model):
    """The module that holds embed_tokens and layers, under PEFT or not, of a model with other modalities or not."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return getattr(inner.model, "language_model", inner.model)


def load_head(ar_folder, d):
    path = Path(ar_folder) / "value_head.safetensors"
    return load_file(path)["weight"].float() if path.exists() else torch.eye(d)


def wide(x):
    """fp32, or fp64 where the model is."""
    return x if x.dtype == torch.float64 else x.float()


# ---- injection and log-probabilities

@contextmanager
def injected(model, vectors, position, mode="residual_add", scale=None):
    """Within, a forward over whole prompts gets vectors [rows, D] at `position`; later one-token steps of a cached generation
    are left alone. Leaving without exactly one injection for every row is an error."""
    sites = 0
    unit = vectors / (vectors.norm(dim=-1, keepdim=True) + 1e-9)

    def put(h):
        nonlocal sites
        if h.shape[1] <= position:
            return h
        if h.shape[0] != vectors.shape[0]:
            raise ValueError(f"{h.shape[0]} rows for {vectors.shape[0]} vectors")
        at = wide(h[:, position])
        if mode == "residual_add":
            new = at + at.norm(dim=-1, keepdim=True) * unit
        else:
            new = vectors * (scale / vectors.norm(dim=-1, keepdim=True))
        sites += h.shape[0]
        h = h.clone()
        h[:, position] = new.to(h.dtype)
        return h

    def hook(_module, _args, output):
        return (put(output[0]),) + output[1:] if isinstance(output, tuple) else put(output)

    body = decoder(model)
    handle = (body.layers[INJECT_BLOCK] if mode == "residual_add" else body.embed_tokens).register_forward_hook(hook)
    try:
        yield
        if sites != vectors.shape[0]:
            raise ValueError(f"{sites} sites injected for {vectors.shape[0]} rows")
    finally:
        handle.remove()


def response_logits(model, prompt, position, vector, response, mode="residual_add", scale=None):
    """Logits [len(response), V] that predict each response token, one row, no padding."""
    ids = torch.tensor([list(prompt) + list(response)])
    with injected(model, vector[None], position, mode, scale):
        logits = model(input_ids=ids, use_cache=False).logits
    return wide(logits[0, len(prompt) - 1:-1])


def token_logprob(logits, response, temperature=1.0):
    logp = torch.log_softmax(logits / temperature, dim=-1)
    return logp.gather(-1, torch.as_tensor(response)[:, None])[:, 0]


# ---- reconstruction and score

def normalise(x, eps=1e-12):
    x = x.float()
    return x * x.shape[-1] ** 0.5 / x.norm(dim=-1, keepdim=True).clamp_min(eps)


def block_output(model, block, **inputs):
    """The residual stream after a block, as the block hands it on: no final norm. Gradients flow."""
    kept = []
    handle = decoder(model).layers[block].register_forward_hook(
        lambda _module, _args, out: kept.append(out[0] if isinstance(out, tuple) else out))
    try:
        decoder(model)(**inputs, use_cache=False)
    finally:
        handle.remove()
    if len(kept) != 1:
        raise ValueError(f"block {block} ran {len(kept)} times")
    return kept[0]


def reconstruct(model, head, block, ids, norm=None):
    """(h, v_hat), each [D], of one AR prompt; norm: the final norm, of an AR that was trained with it."""
    h = block_output(model, block, input_ids=torch.tensor([ids]))[0, -1]
    h = (norm(h) if norm is not None else h).float()
    return h, normalise(normalise(h) @ head.T)


def mse_of(v_hat, vector):
    return (v_hat - normalise(vector)).square().mean(-1)


def baselines(vectors):
    """(raw variance, mean-normalised) of a set's normalised vectors."""
    n = normalise(vectors.double().float()).double()
    mu = n.mean(0)
    mean = mu * mu.shape[0] ** 0.5 / mu.norm().clamp_min(1e-12)
    return (n - mu).square().mean().item(), (n - mean).square().mean().item()
