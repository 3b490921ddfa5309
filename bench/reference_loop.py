#!/usr/bin/env python3
"""The RL step as Python NLA trainers shape it, on Hugging Face transformers and PEFT: the baseline our speed is compared with.

	reference_loop.py --model MODEL --av AV --ar AR --data SET [--prompts 8 --group 4 --max-new-tokens 60 --steps 3 --threads 2]

The shape is that of the public nanoNLA trainer (https://github.com/ceselder/nanoNLA), not its code: `generate` with the G samples of
one prompt at a time; the AR's score once a group; the update in micro-batches of 2, policy and reference forwards with the logits of every position and
log_softmax over them. The mathematics are those of our contract, so it learns: the AV adapter is merged and is the reference
policy, a fresh rsLoRA on q k v o is the policy, sampling is from the full distribution at temperature 1, old log-probabilities
are those before the step (so the ratio is 1 at the only update), every stop token counts and is trained on, failed rows score
mse 2 and are trained on.

One JSON line a step: seconds by stage, and what was learned. --min-new-tokens N holds back the stop tokens for N tokens, so
that two programs can be given equal work; the samples are then no longer from the policy, which only a timing run may accept.
--check compares the sampler's log-probabilities with the trainer's and puts the mean difference into the line (slower).
"""

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import transformers
from peft import LoraConfig, get_peft_model

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "reference"))
import nla_reference as ref  # noqa: E402

FAIL_MSE = 2.0


def arguments():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--model", required=True, help="target, a Hugging Face folder")
    p.add_argument("--av", required=True, help="PEFT adapter of the warm-started AV, with nla_meta.yaml")
    p.add_argument("--ar", required=True, help="PEFT adapter of the AR, with value_head.safetensors and nla_meta.yaml")
    p.add_argument("--data", required=True, help="activation set")
    p.add_argument("--prompts", type=int, default=8, help="activations a step")
    p.add_argument("--group", type=int, default=4, help="samples an activation")
    p.add_argument("--max-new-tokens", type=int, default=60)
    p.add_argument("--min-new-tokens", type=int, default=0, help="no stop token before this many (timing runs)")
    p.add_argument("--micro-batch", type=int, default=2, help="samples a forward in the update")
    p.add_argument("--steps", type=int, default=3)
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--lambda", dest="lam", type=float, default=0.0, help="reward lost a response token, in units of --score")
    p.add_argument("--score", choices=["fve", "-mse"], default="fve")
    p.add_argument("--truncated", choices=["fail", "score"], default="fail")
    p.add_argument("--lr", type=float, default=1e-5)
    p.add_argument("--clip", type=float, default=0.2)
    p.add_argument("--kl", type=float, default=0.01, help="weight of the k3 term")
    p.add_argument("--lora-rank", type=int, default=16)
    p.add_argument("--lora-alpha", type=float, default=32)
    p.add_argument("--max-ar-tokens", type=int, default=1024)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--device", default="cpu")
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--attention", choices=["sdpa", "eager"], default="sdpa")
    p.add_argument("--check", action="store_true", help="compare the sampler's log-probabilities with the trainer's")
    args = p.parse_args()
    if args.group < 2:
        p.error("--group is 1: an advantage needs at least 2 samples a prompt")
    return args


class Loop:
    """Models, prompt and data of a run, and the stages of a step in order."""

    def __init__(self, args):
        self.args = args
        dtype = getattr(torch, args.dtype)
        self.tokenizer = ref.load_tokenizer(args.model)
        self.meta = ref.read_sidecar(args.av)
        self.ar_meta = ref.read_sidecar(args.ar)
        self.prompt, self.at = ref.av_prompt(self.tokenizer, self.meta)
        base = ref.load_base(args.model, attention=args.attention, dtype=dtype)
        self.stops = ref.stop_ids(base, self.tokenizer)
        self.pad = self.stops[-1]
        base = ref.with_adapters(base, [args.av], merge=True)
        config = LoraConfig(r=args.lora_rank, lora_alpha=args.lora_alpha, use_rslora=True, lora_dropout=0.0, bias="none",
                            target_modules=["q_proj", "k_proj", "v_proj", "o_proj"], task_type="CAUSAL_LM")
        self.policy = get_peft_model(base, config).to(args.device)
        self.params = [p for p in self.policy.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr=args.lr, betas=(0.9, 0.95), eps=1e-8, weight_decay=0.0)
        self.block = self.ar_meta["extraction"]["layer_index"]
        ar = ref.load_base(args.model, self.block + 1, args.attention, dtype)
        self.ar = ref.with_adapters(ar, [args.ar], merge=True).to(args.device)
        self.vectors = ref.read_vectors(args.data).to(args.device)
        self.head = ref.load_head(args.ar, self.vectors.shape[1]).to(args.device)
        stored = ref.read_sidecar(args.data).get("baseline") or {}
        self.baseline = stored.get("raw_variance") or ref.baselines(self.vectors.cpu())[0]
        self.order = torch.randperm(len(self.vectors), generator=torch.Generator().manual_seed(args.seed)).tolist()

    def inject(self, vectors):
        return ref.injected(self.policy, vectors, self.at, **self.meta["inject"])

    # ---- rollout

    def rollout(self, rows):
        """One prompt at a time: list of (vector [D], responses of G lists of ids, sampler's log-probabilities or None)."""
        a, groups = self.args, []
        ids = torch.tensor([self.prompt] * a.group, device=a.device)
        for row in rows:
            vectors = self.vectors[row].expand(a.group, -1)
            with torch.no_grad(), self.inject(vectors):
                # Every filter of the checkpoint's generation_config is set aside by name: the policy is the full distribution.
                out = self.policy.generate(
                    input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, temperature=1.0, top_k=0, top_p=1.0,
                    min_p=None, typical_p=1.0, repetition_penalty=1.0, no_repeat_ngram_size=0, eos_token_id=self.stops,
                    pad_token_id=self.pad, max_new_tokens=a.max_new_tokens, min_new_tokens=a.min_new_tokens or None,
                    return_dict_in_generate=True, output_scores=a.check)
            new = out.sequences[:, len(self.prompt):]
            sampled = None
            if a.check:
                scores = torch.stack(out.scores, 1).float().log_softmax(-1)
                sampled = scores.gather(-1, new[..., None])[..., 0].cpu()
            groups.append((self.vectors[row], [self.own_tokens(r) for r in new.tolist()], sampled))
        return groups

    def own_tokens(self, ids):
        """Up to and including the row's own first stop token: generate pads a group to its longest member."""
        for n, i in enumerate(ids):
            if i in self.stops:
                return ids[:n + 1]
        return ids

    # ---- score

    def explanation(self, response):
        if response[-1] not in self.stops and self.args.truncated == "fail":
            return None
        return ref.explanation_of(self.tokenizer.decode(response, skip_special_tokens=True))

    def score(self, groups):
        """mse of every sample and whether it failed, group by group."""
        mses, failed = [], []
        for vector, responses, _ in groups:
            prompts = {}
            for n, response in enumerate(responses):
                text = self.explanation(response)
                ids = ref.ar_prompt(self.tokenizer, self.ar_meta, text) if text else None
                if ids and len(ids) <= self.args.max_ar_tokens:
                    prompts[n] = ids
            mse = torch.full((len(responses),), FAIL_MSE)
            if prompts:
                found = ref.mse_of(self.reconstruct(list(prompts.values())), vector).cpu()
                mse[list(prompts)] = torch.where(found.isfinite(), found, torch.tensor(FAIL_MSE))
            mses.append(mse)
            failed += [n not in prompts for n in range(len(responses))]
        return torch.cat(mses), torch.tensor(failed)

    @torch.no_grad()
    def reconstruct(self, prompts):
        ids, mask = self.right_padded(prompts)
        h = ref.block_output(self.ar, self.block, input_ids=ids, attention_mask=mask).float()
        last = h[torch.arange(len(prompts), device=h.device), mask.sum(1) - 1]
        return ref.normalise(ref.normalise(last) @ self.head.T)

    def right_padded(self, rows):
        longest = max(map(len, rows))
        ids = torch.tensor([row + [self.pad] * (longest - len(row)) for row in rows], device=self.args.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=self.args.device)
        return ids, mask

    # ---- reward and advantage

    def reward(self, mse, lengths):
        score = 1 - mse / self.baseline if self.args.score == "fve" else -mse
        return score - self.args.lam * lengths

    def advantage(self, reward):
        r = reward.view(-1, self.args.group)
        return ((r - r.mean(1, keepdim=True)) / (r.std(1, keepdim=True) + 1e-6)).flatten()

    # ---- update

    def logprob(self, ids, mask, vectors):
        with self.inject(vectors):
            logits = self.policy(input_ids=ids, attention_mask=mask, use_cache=False).logits
        logp = torch.log_softmax(logits[:, :-1].float(), dim=-1)
        return logp.gather(-1, ids[:, 1:, None])[..., 0][:, len(self.prompt) - 1:]

    def micro_batch(self, samples, advantage, stats):
        """Sum over these samples of the mean loss over their own tokens."""
        ids, mask = self.right_padded([self.prompt + response for _, response, _ in samples])
        vectors = torch.stack([vector for vector, _, _ in samples])
        logp = self.logprob(ids, mask, vectors)
        with torch.no_grad(), self.policy.disable_adapter():
            reference = self.logprob(ids, mask, vectors)
        own = mask[:, len(self.prompt):].float()
        ratio = (logp - logp.detach()).exp()
        a = advantage.to(logp.device)[:, None]
        surrogate = torch.minimum(ratio * a, ratio.clamp(1 - self.args.clip, 1 + self.args.clip) * a)
        d = (reference - logp).clamp(max=12)
        kl = d.exp() - d - 1
        stats["kl"] += (kl.detach() * own).sum().item()
        for n, (_, response, sampled) in enumerate(samples):
            if sampled is not None:
                stats["gap"] += (sampled[:len(response)] - logp[n, :len(response)].detach().cpu()).abs().sum().item()
        return (-(surrogate - self.args.kl * kl) * own).sum(1).div(own.sum(1)).sum()

    def update(self, groups, advantage):
        samples = [(vector, response, sampled[n] if sampled is not None else None)
                   for vector, responses, sampled in groups for n, response in enumerate(responses)]
        stats = {"kl": 0.0, "gap": 0.0, "loss": 0.0}
        for first in range(0, len(samples), self.args.micro_batch):
            part = slice(first, first + self.args.micro_batch)
            loss = self.micro_batch(samples[part], advantage[part], stats) / len(samples)
            loss.backward()
            stats["loss"] += loss.item()
        norm = torch.nn.utils.clip_grad_norm_(self.params, 1.0)
        stats["grad_norm"] = norm.item()
        if torch.isfinite(norm):
            self.optimizer.step()
        self.optimizer.zero_grad()
        tokens = sum(len(response) for _, response, _ in samples)
        stats["kl"] /= tokens
        stats["gap"] /= tokens
        return stats

    def synchronise(self):
        if self.args.device.startswith("cuda"):
            torch.cuda.synchronize()
        return time.monotonic()

    def step(self, number):
        first = number * self.args.prompts
        rows = [self.order[(first + i) % len(self.order)] for i in range(self.args.prompts)]
        t0 = self.synchronise()
        groups = self.rollout(rows)
        t1 = self.synchronise()
        mse, failed = self.score(groups)
        lengths = torch.tensor([float(len(r)) for _, responses, _ in groups for r in responses])
        reward = self.reward(mse, lengths)
        t2 = self.synchronise()
        stats = self.update(groups, self.advantage(reward))
        t3 = self.synchronise()
        line = {"step": number + 1, "rollout": t1 - t0, "score": t2 - t1, "update": t3 - t2, "total": t3 - t0,
                "reward": reward.mean().item(), "mse": mse.mean().item(), "fve": 1 - mse.mean().item() / self.baseline,
                "failed": failed.float().mean().item(), "response_tokens": lengths.mean().item(), "kl": stats["kl"],
                "loss": stats["loss"], "grad_norm": stats["grad_norm"], "tokens": int(lengths.sum())}
        if self.args.check:
            line["sampler_gap"] = stats["gap"]
        return line


def main():
    args = arguments()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    loop = Loop(args)
    for number in range(args.steps):
        line = loop.step(number)
        print(json.dumps({k: round(v, 6) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


if __name__ == "__main__":
    main()
