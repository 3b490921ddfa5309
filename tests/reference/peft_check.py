#!/usr/bin/env python3
"""Compares what our programs wrote with transformers and PEFT.

Exit 0: they agree; 1: they differ, or there is nothing to compare; 2: usage; 77: no transformers or PEFT here.

Logits of given ids:

	peft_check.py --model MODEL [--adapter A ...] --ids-file ids.json --logits-out logits.safetensors [--expect ours.safetensors]
	peft_check.py --model MODEL --adapter A --merged FOLDER       a merged checkpoint has the same logits

ids.json: a list of ids. Adapters given together are active together. Writes tensor `logits` [T, V]; --expect compares with that
tensor of another file.

Rows of `nla-eval` (sampled, or from --score):

	peft_check.py --model MODEL --av AV [--av RL ...] [--ref AV ...] --ar AR --data SET --rows OUT/rows.jsonl [--tolerance 1e-4]

Recomputes, one row at a time: logprob with the adapters of --av, ref_logprob with those of --ref (left alone without --ref),
and mse and cosine with the AR. The first --av folder holds the sidecar. --av-model names the whole checkpoint that takes
the place of MODEL for the AV (and holds the sidecar when there is no --av); --ar may be a whole truncated checkpoint (kitft's) or
nanoNLA's folder. A response is its text as ids, followed by the end of
the turn if the row has one log-probability more than the text has ids. A text whose ids are another number still (sampled ids
need not be those the tokenizer would choose) is counted and left out; more than a tenth of such rows is a failure too.
"""

import argparse
import json
import sys
from pathlib import Path

try:
    import peft  # noqa: F401
    import torch
    import transformers
    from safetensors.torch import load_file, save_file
except ImportError as missing:
    print(f"peft_check.py: skipped: {missing}", file=sys.stderr)
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).resolve().parent))
import nla_reference as ref  # noqa: E402


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True)
    p.add_argument("--adapter", action="append", default=[])
    p.add_argument("--ids-file")
    p.add_argument("--logits-out")
    p.add_argument("--merged", help="whole checkpoint that should be MODEL with the adapters merged in")
    p.add_argument("--av-model", help="whole checkpoint under the adapters of --av and --ref")
    p.add_argument("--expect", help="safetensors file with our `logits` [T, V]")
    p.add_argument("--av", action="append", default=[], help="adapters of the policy, the first with nla_meta.yaml")
    p.add_argument("--ref", action="append", default=[], help="adapters of the reference policy")
    p.add_argument("--ar")
    p.add_argument("--data")
    p.add_argument("--rows", help="rows.jsonl of nla-eval")
    p.add_argument("--temperature", type=float, default=1.0, help="at which logprob was taken")
    p.add_argument("--tolerance", type=float, default=1e-4)
    a = p.parse_args()
    if not (a.ids_file and (a.logits_out or a.expect)) and not a.merged and not (a.rows and a.data and (a.av or a.av_model or a.ar)):
        p.error("want --ids-file with --logits-out or --expect, or --rows and --data with --av, --ar or both")
    return a


def model_with(model_folder, adapters, n_blocks=None):
    base = ref.load_base(model_folder, n_blocks)
    return ref.with_adapters(base, adapters) if adapters else base


def check_logits(a):
    with open(a.ids_file, encoding="utf-8") as f:
        ids = json.load(f)
    logits = model_with(a.model, a.adapter)(input_ids=torch.tensor([ids]), use_cache=False).logits[0].contiguous()
    if a.logits_out:
        save_file({"logits": logits}, a.logits_out, {"format": "pt"})
    if not a.expect:
        print(json.dumps({"tokens": len(ids), "vocabulary": logits.shape[1], "std": logits.std().item()}))
        return True
    ours = load_file(a.expect)["logits"]
    if ours.shape != logits.shape:
        print(f"peft_check.py: logits are {list(ours.shape)}, want {list(logits.shape)}", file=sys.stderr)
        return False
    worst = (ours.float() - logits).abs().max().item()
    print(json.dumps({"tokens": len(ids), "logits_max_diff": worst}))
    return worst <= a.tolerance


def check_merged(a):
    """Logits of the merged checkpoint, loaded by transformers alone, against MODEL with the adapters in PEFT."""
    merged, report = transformers.AutoModelForCausalLM.from_pretrained(a.merged, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    if any(report.get(key) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")):
        print(f"peft_check.py: transformers says of '{a.merged}': {report}", file=sys.stderr)
        return False
    tokenizer = ref.load_tokenizer(a.merged)
    ids = torch.arange(tokenizer.vocab_size // 2)[None] % merged.config.vocab_size
    theirs = model_with(a.model, a.adapter)(input_ids=ids, use_cache=False).logits
    plain = ref.load_base(a.model)(input_ids=ids, use_cache=False).logits
    worst = (merged(input_ids=ids, use_cache=False).logits - theirs).abs().max().item()
    print(json.dumps({"merged_max_diff": worst, "adapter_changes_by": (plain - theirs).abs().max().item()}))
    return worst <= a.tolerance


def load_ar(a, block):
    """(model of block + 1 blocks, head, final norm or None) of whichever layout the folder has."""
    folder = Path(a.ar)
    facts = json.loads((folder / "ar_meta.json").read_text()) if (folder / "ar_meta.json").exists() else {}
    if (folder / "config.json").exists():
        model, head = ref.load_base(a.ar), ref.load_head(a.ar, ref.read_sidecar(a.ar)["d_model"])
        if model.config.num_hidden_layers != block + 1:
            raise ValueError(f"'{a.ar}' has {model.config.num_hidden_layers} blocks, want {block + 1}")
    elif (folder / "ar_lora_value_head.safetensors").exists():
        model, state = ref.load_base(a.model, block + 1), load_file(folder / "ar_lora_value_head.safetensors")
        peft.inject_adapter_in_model(peft.LoraConfig(r=facts["lora_r"], lora_alpha=facts["lora_alpha"], use_rslora=True,
                                                     target_modules=facts["target_modules"]), model)
        head = state.pop("value_head.weight").float()
        _, unexpected = model.load_state_dict({k.removeprefix("backbone."): v for k, v in state.items()}, strict=False)
        if unexpected:
            raise ValueError(f"unexpected keys {unexpected}")
    else:
        model, head = model_with(a.model, [a.ar], block + 1), ref.load_head(a.ar, ref.read_sidecar(a.ar)["d_model"])
    kept = facts and not facts.get("final_norm_stripped", False)
    return model, head, ref.decoder(model).norm if kept else None


class Differences:
    """Largest absolute difference and number of values compared, by name. NaN counts as infinite."""

    def __init__(self):
        self.worst, self.count = {}, {}

    def add(self, name, ours, theirs, where):
        ours, theirs = torch.as_tensor(ours, dtype=torch.float64), torch.as_tensor(theirs, dtype=torch.float64)
        diff = (ours - theirs).abs().max().item()
        if diff != diff:
            diff = float("inf")
        self.count[name] = self.count.get(name, 0) + ours.numel()
        if diff >= self.worst.get(name, (-1.0, None))[0]:
            self.worst[name] = (diff, where)


def response_ids(tokenizer, end_of_turn, text, length):
    ids = ref.encode(tokenizer, text)
    if length == len(ids) + 1:
        ids = ids + [end_of_turn]
    return ids if len(ids) == length else None


def check_policy(a, tokenizer, rows, vectors, adapters, field, diffs):
    """Returns how many rows have a text whose ids are not those that were scored."""
    model = model_with(a.av_model or a.model, adapters)
    meta = ref.read_sidecar(a.av[0] if a.av else a.av_model)
    prompt, at = ref.av_prompt(tokenizer, meta)
    end_of_turn = ref.stop_ids(model, tokenizer)[0]
    other_ids = 0
    for row in rows:
        if not row.get("response") or not row.get(field):
            continue
        ids = response_ids(tokenizer, end_of_turn, row["response"], len(row[field]))
        if ids is None:
            other_ids += 1
            continue
        logits = ref.response_logits(model, prompt, at, vectors[row["row"]], ids, **meta["inject"])
        diffs.add(field, row[field], ref.token_logprob(logits, ids, a.temperature), row["row"])
        if field == "logprob" and row.get("n_response") is not None:
            diffs.add("n_response", row["n_response"], len(ids), row["row"])
    return other_ids


def check_reconstruction(a, tokenizer, rows, vectors, diffs):
    meta = ref.read_sidecar(a.ar)
    block = meta["extraction"]["layer_index"]
    model, head, norm = load_ar(a, block)
    for row in rows:
        if row.get("failed"):
            continue
        text = row.get("explanation")
        if row.get("response"):
            found = ref.explanation_of(row["response"])
            if found != text:
                print(f"peft_check.py: row {row['row']}: explanation is {text!r}, want {found!r}", file=sys.stderr)
                diffs.add("explanation", 1.0, 0.0, row["row"])
        _, v_hat = ref.reconstruct(model, head, block, ref.ar_prompt(tokenizer, meta, text), norm)
        vector = vectors[row["row"]]
        diffs.add("mse", row["mse"], ref.mse_of(v_hat, vector), row["row"])
        if row.get("cosine") is not None:
            diffs.add("cosine", row["cosine"], torch.cosine_similarity(v_hat, vector, dim=0), row["row"])


def check_rows(a):
    tokenizer = ref.load_tokenizer(a.model)
    with open(a.rows, encoding="utf-8") as f:
        rows = [json.loads(line) for line in f if line.strip()]
    vectors = ref.read_vectors(a.data)
    diffs, wanted, other_ids = Differences(), [], 0
    if (a.av or a.av_model) and any(row.get("response") for row in rows):
        wanted.append("logprob")
        other_ids = check_policy(a, tokenizer, rows, vectors, a.av, "logprob", diffs)
        if a.ref:
            wanted.append("ref_logprob")
            check_policy(a, tokenizer, rows, vectors, a.ref, "ref_logprob", diffs)
    if a.ar:
        wanted.append("mse")
        check_reconstruction(a, tokenizer, rows, vectors, diffs)
    print(json.dumps({"rows": len(rows), "rows_with_other_ids": other_ids, "tolerance": a.tolerance,
                      "max_diff": {k: v for k, (v, _) in diffs.worst.items()},
                      "at_row": {k: r for k, (_, r) in diffs.worst.items()},
                      "compared": diffs.count}))
    absent = [name for name in wanted if not diffs.count.get(name)]
    if absent or not wanted:
        print(f"peft_check.py: nothing to compare for {', '.join(absent) or 'any key'} in '{a.rows}'", file=sys.stderr)
        return False
    return other_ids * 10 <= len(rows) and all(v <= a.tolerance for v, _ in diffs.worst.values())


def main():
    a = arguments()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    with torch.no_grad():
        ok = check_merged(a) if a.merged else check_logits(a) if a.ids_file else check_rows(a)
    sys.exit(0 if ok else 1)


if __name__ == "__main__":
    main()
