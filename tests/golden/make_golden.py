#!/usr/bin/env python3
"""Writes tests/data/tiny: a tiny random target, its adapters, and the numbers our C code must reproduce on them.

	python tests/golden/make_golden.py [--out tests/data/tiny]

Everything is fp32, on one thread, computed with transformers and PEFT one row at a time: no padding, no cache. All randomness
is keyed by a name (torch CPU generator), so a second run writes the same bytes. The weights are larger than a fresh model's, so
that attention, logits and adapters have a spread that makes a wrong index, scale or sign visible; `check` refuses numbers that
could not tell. golden.json explains every tensor of golden.safetensors (key "about"), and states the library versions.
"""

import argparse
import json
import platform
import shutil
import sys
import tempfile
import zlib
from pathlib import Path

import peft
import tokenizers
import torch
import transformers
import yaml
from safetensors.torch import load_file, save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "reference"))
import nla_reference as ref  # noqa: E402
from golden_rewards import reward_cases  # noqa: E402

D, BLOCKS, K = 48, 5, 2
B, G, T_MAX, M = 3, 4, 20, 8
CLIP, BETA, LR = 0.2, 0.01, 1e-2
MARKER = "\u320e"
AV_TEMPLATE = "Explain the vector <v>{injection_char}</v> in <explanation> tags."
AR_TEMPLATE = "Text: {explanation}\nVector:"
SENTENCES = [
    "The red fox found a silver key by the river, and the river was cold.",
    "Explain the vector in <explanation> tags. The vector ends with the word river.",
    "<explanation>The text ends \"the red fox\"; next \"found\".</explanation>",
    "Mina walked to the old mill in the rain; she was happy to see the fox again.",
    "Text: the fox opened the door of the mill with the silver key.\nVector: the key.",
    "It's raining, and they've seen 3 foxes, 12 keys and 40 birds: that's enough!",
    "user\nassistant\nThe next words are likely \"of the river\" or \"in the rain\".",
]
AR_TEXTS = [
    "fox",
    "The text ends \"the red fox\"; next \"found\".",
    "Mina walked to the mill in the rain",
    "3 foxes, 12 keys and 40 birds!",
    "caf\u00e9 na\u00efve \u2014 \u96ea\u304c\u964d\u308b \U0001f98a",
    "The river was cold.\nThe old mill stands by the river; next \"and\" or \"in\".",
    "ends \"silver key\" / next \"by\"",
    "The red fox found a silver key by the river, and the river was cold, and Mina, who was happy to see the fox again, walked "
    "to the old mill in the rain and opened the door with the silver key: that's what the text says, and it ends \"the key\".",
]
SEVEN = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
CHAT_TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
                 "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")


def key(name):
    return torch.Generator().manual_seed(zlib.crc32(name.encode()))


def normal(name, *shape):
    return torch.randn(*shape, generator=key(name))


def integers(name, high, n):
    return torch.randint(high, (n,), generator=key(name)).tolist()


def check(ok, what):
    if not ok:
        sys.exit(f"make_golden.py: these numbers could not tell right from wrong: {what}")


def write_json(path, value):
    path.write_text(json.dumps(value, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")


# ---- the target

def make_tokenizer():
    """Byte-level BPE laid out as Qwen2's and Qwen3's files are; added tokens after the vocabulary."""
    tok = Tokenizer(models.BPE(continuing_subword_prefix="", end_of_word_suffix="", fuse_unk=False, byte_fallback=False))
    tok.normalizer = normalizers.NFC()
    pattern = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
               r"|\s+(?!\S)|\s+")
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)])
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tok.train_from_iterator(SENTENCES * 4, trainers.BpeTrainer(
        vocab_size=376, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.add_special_tokens([AddedToken(t, normalized=False, special=True)
                            for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tok.add_tokens([AddedToken(MARKER, normalized=False, special=False)])
    return tok


def save_tokenizer(tok, folder):
    tok.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", {
        "tokenizer_class": "PreTrainedTokenizerFast", "bos_token": None, "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>", "unk_token": None, "clean_up_tokenization_spaces": False, "model_max_length": 512,
        "chat_template": CHAT_TEMPLATE})


def randomise(model, tag):
    """Every parameter keyed by its name. Norm weights around 1; queries and keys sharp enough that attention is not uniform."""
    for name, p in model.named_parameters():
        x = normal(tag + name, *p.shape)
        if name.endswith(("q_norm.weight", "k_norm.weight")):
            p.data = 1.4 + 0.3 * x
        elif p.dim() == 1:
            p.data = 1 + 0.2 * x
        elif "embed_tokens" in name:
            p.data = 0.2 * x
        elif "lm_head" in name:
            p.data = 0.25 * x
        else:
            p.data = 0.14 * x


def make_model(tok, folder, tag, **shape):
    vocab = tok.get_vocab_size()
    end = tok.token_to_id("<|im_end|>")
    text_end = tok.token_to_id("<|endoftext|>")
    config = Qwen3Config(vocab_size=vocab, max_position_embeddings=512, rms_norm_eps=1e-6, attention_bias=False,
                         attention_dropout=0.0, hidden_act="silu", eos_token_id=end, bos_token_id=None,
                         dtype="float32", **shape)
    model = Qwen3ForCausalLM(config).eval()
    randomise(model, tag)
    # A checkpoint's own sampling settings, as Qwen3 ships them, are a trap: training and evaluation must not use them.
    model.generation_config = transformers.GenerationConfig(
        eos_token_id=[end, text_end], pad_token_id=text_end, do_sample=True, temperature=0.6, top_k=20, top_p=0.95)
    model.save_pretrained(folder)
    save_tokenizer(tok, folder)


def old_style_config(folder, theta):
    """Published Qwen3 configs have rope_theta at the top; transformers 5 writes rope_parameters. One folder of each kind."""
    path = folder / "config.json"
    config = json.loads(path.read_text())
    config.pop("rope_parameters")
    config.pop("layer_types", None)
    config["torch_dtype"] = config.pop("dtype")
    config.update(rope_theta=theta, rope_scaling=None)
    write_json(path, config)


# ---- adapters

def make_adapter(model, folder, tag, rank, alpha, targets, spread):
    config = peft.LoraConfig(r=rank, lora_alpha=alpha, use_rslora=True, target_modules=list(targets), lora_dropout=0.0,
                             bias="none", task_type="CAUSAL_LM")
    wrapped = peft.get_peft_model(model, config)
    for name, p in wrapped.named_parameters():
        if "lora_A" in name:
            bound = p.shape[1] ** -0.5
            p.data = (torch.rand(p.shape, generator=key(tag + name)) * 2 - 1) * bound
        elif "lora_B" in name:
            p.data = spread * normal(tag + name, *p.shape)
    wrapped.save_pretrained(folder)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    saved = json.loads(path.read_text())
    saved["target_modules"] = sorted(saved["target_modules"])  # a set: its order differs between runs
    saved["base_model_name_or_path"] = "tiny/model"
    write_json(path, saved)


def common_tail(lists):
    n = 0
    while all(len(x) > n and x[-1 - n] == lists[0][-1 - n] for x in lists):
        n += 1
    return lists[0][len(lists[0]) - n:]


def write_sidecar(tok, folder, role):
    av_ids = tok.encode(ref.chat_text(AV_TEMPLATE.replace("{injection_char}", MARKER)), add_special_tokens=False).ids
    at = av_ids.index(tok.token_to_id(MARKER))
    # A full stop joins the line break after it, so only what follows the line break is the same after every explanation.
    endings = ["fox", "fox.", "fox!", "\"fox\"", "12", "caf\u00e9", "\u964d\u308b"]
    suffix = common_tail([tok.encode(AR_TEMPLATE.replace("{explanation}", e), add_special_tokens=False).ids for e in endings])
    meta = {
        "kind": "nla_model", "schema_version": 2, "role": role, "stage": "sft", "base_checkpoint": "tiny/model", "d_model": D,
        "extraction": {"layer_index": K, "injection_mode": "residual_add", "injection_scale": None,
                       "mse_scale": "sqrt_d_model"},
        "tokens": {"injection_char": MARKER, "injection_token_id": av_ids[at], "injection_left_neighbor_id": av_ids[at - 1],
                   "injection_right_neighbor_id": av_ids[at + 1], "critic_suffix_ids": suffix},
        "prompt_templates": {"av": AV_TEMPLATE, "ar": AR_TEMPLATE},
        "critic": {"extraction_layer_index": K},
    }
    with open(folder / "nla_meta.yaml", "w", encoding="utf-8") as f:
        yaml.safe_dump(meta, f, sort_keys=False, allow_unicode=True, width=120)


def make_files(out):
    tok = make_tokenizer()
    make_model(tok, out / "model", "model", hidden_size=D, num_hidden_layers=BLOCKS, num_attention_heads=6,
               num_key_value_heads=2, head_dim=16, intermediate_size=80, tie_word_embeddings=False,
               rope_parameters={"rope_type": "default", "rope_theta": 10000.0})
    make_model(tok, out / "tied", "tied", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=1,
               head_dim=8, intermediate_size=56, tie_word_embeddings=True,
               rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    old_style_config(out / "tied", 500000.0)
    make_adapter(ref.load_base(out / "model"), out / "av", "av", 4, 8, SEVEN, 0.06)
    write_sidecar(tok, out / "av", "av")
    make_adapter(ref.load_base(out / "model"), out / "rl", "rl", 3, 6, SEVEN[:4], 0.03)
    make_adapter(ref.load_base(out / "model", K + 1), out / "ar", "ar", 4, 8, SEVEN, 0.06)
    write_sidecar(tok, out / "ar", "ar")
    save_file({"weight": torch.eye(D) + 0.05 * normal("head", D, D)}, out / "ar" / "value_head.safetensors", {"format": "pt"})


# ---- golden numbers: each function fills tensors t and scalars s

def golden_lm(out, t, s):
    model = ref.load_base(out / "model")
    ids = integers("lm.ids", model.config.vocab_size, 40)
    hidden = []
    handles = [layer.register_forward_hook(lambda _m, _a, o: hidden.append(o)) for layer in model.model.layers]
    result = model(input_ids=torch.tensor([ids]), output_attentions=True, use_cache=False)
    for handle in handles:
        handle.remove()
    t["lm.ids"] = torch.tensor(ids)
    t["lm.logits"] = result.logits[0]
    t["lm.hidden"] = torch.stack([h[0] for h in hidden])
    # Against a uniform look-back, the last token's attention has at most half the entropy's headroom left.
    last = torch.stack([a[0, :, -1] for a in result.attentions])
    entropy = -(last * last.clamp_min(1e-30).log()).sum(-1).mean().item()
    s["lm.attention_entropy"] = entropy
    check(entropy < 0.85 * torch.tensor(40.0).log().item(), "attention is nearly uniform")
    check(result.logits.std().item() > 1, "logits have no spread")
    tied = ref.load_base(out / "tied")
    ids = integers("tied.ids", tied.config.vocab_size, 16)
    t["tied.ids"] = torch.tensor(ids)
    t["tied.logits"] = tied(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def make_responses(tok, vocab):
    """Even rows are explanations as text with the stop token, odd ones random ids; lengths from 1 to T_MAX; one row holds the
    marker, one both of the stop ids."""
    end, text_end, marker = (tok.convert_tokens_to_ids(x) for x in ("<|im_end|>", "<|endoftext|>", MARKER))
    lengths = [14, 1, 12, 20, 7, 3, 16, 9, 20, 2, 11, 18]
    rows = []
    for n, length in enumerate(lengths):
        text = ref.encode(tok, f"<explanation>\n{AR_TEXTS[n % M]} {AR_TEXTS[(n + 3) % M]}")
        row = (text if n % 2 == 0 else integers(f"response{n}", vocab - 4, T_MAX))[:length]
        row += integers(f"fill{n}", vocab - 4, length - len(row))
        if n % 4 == 0:
            row[-1] = end
        rows.append(row)
    rows[4][3] = marker
    rows[6][-1] = text_end
    return rows


def pad(rows, value):
    return torch.stack([torch.nn.functional.pad(torch.as_tensor(r), (0, T_MAX - len(r)), value=value) for r in rows])


def policy_rows(model, case, temperature=1.0, **mode):
    """Log-probabilities of every response's tokens, a list of [length]."""
    return [ref.token_logprob(ref.response_logits(model, case["prompt"], case["at"], case["vectors"][n // G], row, **mode), row,
                              temperature) for n, row in enumerate(case["rows"])]


def golden_av(out, t, s):
    tok = ref.load_tokenizer(out / "model")
    meta = ref.read_sidecar(out / "av")
    policy = ref.with_adapters(ref.load_base(out / "model"), [out / "av", out / "rl"])
    prompt, at = ref.av_prompt(tok, meta)
    directions = normal("av.vectors", B, D)
    vectors = directions / directions.norm(dim=-1, keepdim=True) * torch.tensor([[0.5], [6.0], [50.0]])
    case = {"prompt": prompt, "at": at, "vectors": vectors, "rows": make_responses(tok, policy.config.vocab_size)}
    logp = policy_rows(policy, case)
    reference = policy_rows(ref.with_adapters(ref.load_base(out / "model"), [out / "av"]), case)
    embed = {"mode": "embed_replace", "scale": 7.5}
    logits = [ref.response_logits(policy, prompt, at, vectors[n // G], row) for n, row in enumerate(case["rows"])]
    entropy = [torch.distributions.Categorical(logits=x).entropy() for x in logits]
    t["av.prompt_ids"] = torch.tensor(prompt)
    t["av.vectors"] = vectors
    t["av.responses"] = pad(case["rows"], -1)
    t["av.lengths"] = torch.tensor([len(row) for row in case["rows"]])
    t["av.logp"], t["av.ref_logp"], t["av.entropy"] = pad(logp, 0.0), pad(reference, 0.0), pad(entropy, 0.0)
    t["av.logp_t07"] = pad(policy_rows(policy, case, temperature=0.7), 0.0)
    t["av.logits0"] = logits[0]
    t["embed.logp"] = pad(policy_rows(policy, case, **embed), 0.0)
    s["av.prompt"] = ref.chat_text(AV_TEMPLATE.replace("{injection_char}", MARKER))
    s["av.marker_position"] = at
    s["sft.loss"] = -sum(x.sum().item() for x in logp) / sum(len(x) for x in logp)
    message = {"role": "user", "content": AV_TEMPLATE.replace("{injection_char}", MARKER)}
    check(tok.apply_chat_template([message], tokenize=False, add_generation_prompt=True) == s["av.prompt"],
          "the chat template disagrees with the prompt")
    check_av(out, t, case, policy)
    golden_greedy(policy, case, t, s)
    return case


def check_av(out, t, case, policy):
    """Each known way to get the policy wrong must show in these numbers by far more than rounding does."""
    merged = ref.with_adapters(ref.load_base(out / "model"), [out / "av", out / "rl"], merge=True)
    check((pad(policy_rows(merged, case), 0.0) - t["av.logp"]).abs().max() < 2e-5, "merged adapters give another policy")
    swapped = dict(case, vectors=case["vectors"].roll(1, 0))
    check((pad(policy_rows(policy, swapped), 0.0) - t["av.logp"]).abs().mean() > 0.02, "the vector hardly matters")
    row = case["rows"][4]
    ids = torch.tensor([case["prompt"] + row])
    with ref.injected(policy, case["vectors"][1:2], case["at"]), \
            ref.injected(policy, case["vectors"][1:2], len(case["prompt"]) + 3):
        both = ref.token_logprob(policy(input_ids=ids, use_cache=False).logits[0, len(case["prompt"]) - 1:-1], row)
    check((both - t["av.logp"][4, :len(row)]).abs().max() > 0.02, "a marker injected in the response does not show")
    for name in ("av.ref_logp", "embed.logp", "av.logp_t07"):
        check((t[name] - t["av.logp"]).abs().mean() > 0.02, f"{name} is nearly av.logp")


def golden_greedy(policy, case, t, s):
    rows, margin = [], float("inf")
    for vector in case["vectors"]:
        row = []
        for _ in range(24):
            logits = ref.response_logits(policy, case["prompt"], case["at"], vector, row + [0])[-1]
            top = logits.topk(2)
            margin = min(margin, (top.values[0] - top.values[1]).item())
            row.append(top.indices[0].item())
        rows.append(row)
    t["greedy.ids"] = torch.tensor(rows)
    s["greedy.least_margin"] = margin
    check(margin > 1e-3 and rows[0] != rows[1], "greedy choices are ties")


def golden_ar(out, t, s):
    tok = ref.load_tokenizer(out / "model")
    meta = ref.read_sidecar(out / "ar")
    model = ref.with_adapters(ref.load_base(out / "model", K + 1), [out / "ar"])
    head = ref.load_head(out / "ar", D).requires_grad_(True)
    params = {name.replace(".adapter0", ""): p for name, p in model.named_parameters() if "lora_" in name}
    for p in params.values():
        p.requires_grad_(True)
    ids = [ref.ar_prompt(tok, meta, text) for text in AR_TEXTS]
    pairs = [ref.reconstruct(model, head, K, row) for row in ids]
    # Targets between the prediction and chance, so that scores cover a range.
    mix = torch.linspace(0, 1, M)[:, None]
    targets = (3 * (1 - mix) * torch.stack([v.detach() for _, v in pairs]) + 4 * mix * normal("ar.targets", M, D)) * (0.2 + mix)
    mse = torch.stack([ref.mse_of(v, target) for (_, v), target in zip(pairs, targets)])
    mse.mean().backward()
    t["ar.ids"] = torch.tensor(sum(ids, []))
    t["ar.offsets"] = torch.tensor([0] + [len(row) for row in ids]).cumsum(0)
    t["ar.h"], t["ar.v_hat"] = (torch.stack([p[i].detach() for p in pairs]) for i in (0, 1))
    t["ar.mse"], t["ar.targets"] = mse.detach(), targets
    for name, p in params.items():
        t[f"ar_sft.grad.{name}"] = p.grad
    t["ar_sft.grad.head"] = head.grad
    s["ar_sft.loss"] = mse.mean().item()
    s["ar.texts"] = AR_TEXTS
    s["ar.prompts"] = [AR_TEMPLATE.replace("{explanation}", text) for text in AR_TEXTS]
    s["ar.suffix_ids"] = meta["tokens"]["critic_suffix_ids"]
    s["ar.ids_tail"] = [row[-6:] for row in ids]
    check(head.grad.norm() > 1e-3 and all(p.grad.norm() > 1e-6 for p in params.values()), "an AR gradient vanishes")


def rl_policy(out):
    """The policy with gradients on the RL adapter alone, and its parameters by their names in the adapter file."""
    model = ref.with_adapters(ref.load_base(out / "model"), [out / "av", out / "rl"])
    params = {name.replace(".adapter1", ""): p for name, p in model.named_parameters() if ".adapter1." in name}
    for p in params.values():
        p.requires_grad_(True)
    return model, params


def grpo(model, case, old, reference, advantage):
    """(loss, list of k3 [length], share of tokens whose clipped term is the smaller) as the contract's section 6 has it."""
    losses, kls, clipped, tokens = [], [], 0, 0
    for n, logp in enumerate(policy_rows(model, case)):
        size, a = len(logp), advantage[n]
        ratio = (logp - old[n, :size]).exp()
        plain, limited = ratio * a, ratio.clamp(1 - CLIP, 1 + CLIP) * a
        d = (reference[n, :size] - logp).clamp(max=12)
        kl = d.exp() - d - 1
        losses.append(-(torch.minimum(plain, limited) - BETA * kl).mean())
        kls.append(kl.detach())
        clipped += (limited < plain).sum().item()
        tokens += size
    return torch.stack(losses).mean(), kls, clipped / tokens


def golden_grpo(out, case, t, s):
    model, params = rl_policy(out)
    noise = 0.15 * normal("grpo.old", B * G, T_MAX)
    old = torch.where(t["av.responses"] >= 0, t["av.logp"] + noise, torch.zeros(()))
    reward = normal("grpo.reward", B, G)
    advantage = ((reward - reward.mean(1, keepdim=True)) / (reward.std(1, keepdim=True) + 1e-6)).flatten()
    fixed = (old, t["av.ref_logp"], advantage)
    loss, kls, clip_frac = grpo(model, case, *fixed)
    loss.backward()
    t["grpo.old"], t["grpo.reward"], t["grpo.advantage"] = old, reward.flatten(), advantage
    for name, p in params.items():
        t[f"grpo.grad.{name}"] = p.grad.clone()
    s["grpo.loss"] = loss.item()
    s["grpo.kl"] = torch.cat(kls).mean().item()
    s["grpo.kl_sample_mean"] = torch.stack([k.mean() for k in kls]).mean().item()
    s["grpo.clip_frac"] = clip_frac
    s["grpo.grad_norm"] = torch.stack([p.grad.norm() for p in params.values()]).norm().item()
    s["grpo.hyper"] = {"clip": CLIP, "beta": BETA, "temperature": 1.0, "lora_rank": 3, "lora_alpha": 6}
    check(0.02 < clip_frac < 0.5 and s["grpo.kl"] > 0.01, "clipping or the KL term is idle")
    golden_adamw(model, params, case, fixed, t, s)


def golden_adamw(model, params, case, fixed, t, s):
    """In float64: Adam's first step divides a gradient by its own size, so an fp32 reference's rounding would go whole into it."""
    model.double()
    fixed = tuple(x.double() for x in fixed)
    optimizer = torch.optim.AdamW(params.values(), lr=LR, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0, foreach=False)
    losses, norms = [], []
    for _ in range(3):
        optimizer.zero_grad()
        loss, _, _ = grpo(model, case, *fixed)
        loss.backward()
        norms.append(torch.nn.utils.clip_grad_norm_(params.values(), 1.0).item())
        losses.append(loss.item())
        optimizer.step()
    for name, p in params.items():
        t[f"adamw.step3.{name}"] = p.detach().float()
    s["adamw.losses"], s["adamw.grad_norms"] = losses, norms
    s["adamw.hyper"] = {"lr": LR, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8, "weight_decay": 0.0, "grad_clip": 1.0, "steps": 3}
    check(max(norms) > 1, "the gradient is never clipped")


def golden_fve(t, s):
    vectors = normal("fve.vectors", 20, D) * normal("fve.norms", 20, 1).exp() + 0.8 * normal("fve.mean", D)
    t["fve.vectors"] = vectors
    s["fve.baseline_var"], s["fve.baseline_mean"] = ref.baselines(vectors)


# What an adapter_config.json may say of its modules: the same A and B of av/, under PEFT's reading of each.
SPELLED = {
    "all-linear": {"target_modules": "all-linear"},
    "regex": {"target_modules": r".*\.(q|v)_proj"},
    "regex of blocks": {"target_modules": r"model\.layers\.[13]\.(mlp\.up|self_attn\.o)_proj"},
    "names": {"target_modules": ["model.layers.1.self_attn.q_proj", "layers.3.mlp.up_proj", "self_attn.o_proj"]},
    "all layers": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 1, 2, 3, 4]},
    "all layers by pattern": {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 1, 2, 3, 4], "layers_pattern": "layers"},
    "some layers": {"target_modules": ["k_proj"], "layers_to_transform": [1, 3]},
    "one layer": {"target_modules": ["k_proj"], "layers_to_transform": 2},
    "excluded": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": ["v_proj"]},
    "excluded by regex": {"target_modules": ["q_proj", "v_proj"], "exclude_modules": r".*\.v_proj"},
}


def golden_spelled(out, t):
    """spelled.json: which modules PEFT adapts (null: all), and log-probabilities of a response; of an AR whose adapter spans all blocks
    the mse. Vectors: ar.targets."""
    tok, response = ref.load_tokenizer(out / "model"), "<explanation>the red fox</explanation>"
    prompt, at = ref.av_prompt(tok, ref.read_sidecar(out / "av"))
    ids = ref.encode(tok, response) + [tok.convert_tokens_to_ids("<|im_end|>")]
    weights, known = load_file(out / "av" / "adapter_model.safetensors"), json.loads((out / "av" / "adapter_config.json").read_text())
    cases, every = {}, {name.rpartition(".lora_")[0] for name in weights}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)

        def spelled(n_blocks, config):
            write_json(folder / "adapter_config.json", {**known, **config})
            shaped = peft.get_peft_model(ref.load_base(out / "model", n_blocks), peft.LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **config))
            adapted = {name.rpartition(".lora_A")[0] for name, _ in shaped.named_modules() if name.endswith(".lora_A.default")}
            kept = {k: v for k, v in weights.items() if k.rpartition(".lora_")[0] in adapted}
            save_file(kept, folder / "adapter_model.safetensors", {"format": "pt"})
            return ref.with_adapters(ref.load_base(out / "model", n_blocks), [folder]), adapted

        for what, config in SPELLED.items():
            model, adapted = spelled(None, config)
            logits = [ref.response_logits(model, prompt, at, t["ar.targets"][row], ids) for row in range(2)]
            cases[what] = {"config": config, "modules": None if adapted == every else sorted(x.removeprefix("base_model.model.model.") for x in adapted),
                           "logprob": [[round(x, 6) for x in ref.token_logprob(x, ids).tolist()] for x in logits]}
        reader, _ = spelled(K + 1, {"target_modules": SEVEN})
    head, meta = ref.load_head(out / "ar", D), ref.read_sidecar(out / "ar")
    hats = [ref.reconstruct(reader, head, K, ref.ar_prompt(tok, meta, text))[1] for text in AR_TEXTS]
    mse = [round(ref.mse_of(hat, v).item(), 6) for hat, v in zip(hats, t["ar.targets"])]
    told = [x for c in cases.values() for row in c["logprob"] for x in row]
    check(len(set(told)) > 7 * 2 * (len(ids) - 1), "adapters of other modules give the same numbers")
    text = ",\n".join(f"{json.dumps(what)}: {json.dumps(c)}" for what, c in cases.items())
    (out / "spelled.json").write_text(f'{{"response": {json.dumps(response)}, "deeper_mse": {json.dumps(mse)}, "cases": {{\n{text}\n}}}}\n')


ABOUT = {
    "shapes": "D 48, 5 blocks, K 2, B 3 vectors, G 4 samples a vector, N = B*G = 12, Tmax 20, M 8; row n has vector n / G",
    "lm.hidden": "[L, T, D]: residual stream after each block, no final norm",
    "av.*": "policy = base + av + rl adapters; responses padded with -1, values beyond a row's length are 0; logp at T 1",
    "av.ref_logp": "base + av only: the reference policy", "av.logp_t07": "at temperature 0.7",
    "av.entropy": "nats, of the whole distribution at T 1",
    "av.logits0": "[length of row 0, V]: logits that predict row 0's tokens",
    "embed.logp": "the policy with embed_replace and injection_scale 7.5", "greedy.ids": "no stop handling",
    "sft.loss": "-sum of av.logp / sum of lengths", "ar.h": "output of block K at the last token, raw",
    "ar_sft": "loss = mean of ar.mse; gradients of the ar adapter by their names in its file, and of value_head's weight",
    "grpo.loss": "mean over samples of the mean over own tokens of -(surrogate - beta k3)",
    "grpo.kl": "k3, mean over all response tokens; kl_sample_mean: mean over samples of the mean over own tokens",
    "grpo.clip_frac": "share of response tokens where the clipped term is the smaller, so no gradient flows",
    "grpo.grad": "of grpo.loss, by names in rl/adapter_model.safetensors; grad_norm over all of them, before clipping",
    "adamw": "three steps from rl/, each on grpo.loss at the new parameters, old and ref fixed, in float64; losses, norms: before each",
    "fve": "over fve.vectors: mean over rows and D, double precision", "scalars": "also in golden.safetensors as [1] F32",
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "data" / "tiny")
    out = parser.parse_args().out
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    for part in ("model", "tied", "av", "rl", "ar"):
        shutil.rmtree(out / part, ignore_errors=True)
        (out / part).mkdir(parents=True)
    make_files(out)
    t, s = {}, {}
    with torch.no_grad():
        golden_lm(out, t, s)
        case = golden_av(out, t, s)
        golden_fve(t, s)
    golden_ar(out, t, s)
    golden_grpo(out, case, t, s)
    with torch.no_grad():
        golden_spelled(out, t)
    for name, value in s.items():
        if isinstance(value, float):
            t[name] = torch.tensor([value])
    save_file({name: x.detach().clone().contiguous() for name, x in sorted(t.items())}, out / "golden.safetensors",
              {"format": "pt"})
    versions = {m.__name__: m.__version__ for m in (torch, transformers, peft, tokenizers)}
    versions["python"] = platform.python_version()
    write_json(out / "golden.json", {
        "about": ABOUT, "versions": versions, "marker": MARKER, "av_template": AV_TEMPLATE, "ar_template": AR_TEMPLATE,
        "scalars": s, "rewards": reward_cases()})
    total = sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
    print(json.dumps({"bytes": total, "tensors": len(t), **{k: v for k, v in s.items() if isinstance(v, float)}}, indent=1))


if __name__ == "__main__":
    main()
