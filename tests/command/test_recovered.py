"""nla-eval --eval.recovered_kl on the demo against transformers and PEFT: the reconstruction and the mean vector in the place of the
activation, by a hook, and what that does to the next token's distribution. Needs the reference environment."""
import gzip
import json
import os
import subprocess
import sys
import tempfile

sys.dont_write_bytecode = True
import reference  # noqa: E402

reference.need("torch", "transformers", "peft")
import torch  # noqa: E402

SOURCE = os.environ["SOURCE_DIR"]
DEMO = os.path.join(SOURCE, "demo")
sys.path.insert(0, os.path.join(SOURCE, "tests", "reference"))
import nla_reference as ref  # noqa: E402


def next_token(model, block, ids, put=None):
    """Log-probabilities after the ids, when `put` stands after the block at the last of them."""
    def replace(module, args, out):
        (out[0] if isinstance(out, tuple) else out)[:, -1] = put
    hook = model.model.layers[block].register_forward_hook(replace) if put is not None else None
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].double()
    if hook:
        hook.remove()
    return logits.log_softmax(-1)


def main():
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as work:
        out = os.path.join(work, "out")
        done = subprocess.run([os.path.join(os.environ["BUILD_DIR"], "nla-eval"), "--device", "cpu", "--threads", "1",
                               os.path.join(DEMO, "config.json"), "--eval.rows", "24", "--eval.batch", "10", "--max-new-tokens", "25",
                               "--eval.recovered_kl", "true", "--out", out], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        summary, rows = json.loads(done.stdout), [json.loads(line) for line in open(os.path.join(out, "rows.jsonl"))]
    failed = [row["failed"] is not None for row in rows]
    assert any(failed) and not all(failed), f"{sum(failed)} of {len(rows)} rows fail: both kinds are wanted"

    tokenizer, meta = ref.load_tokenizer(os.path.join(DEMO, "model")), ref.read_sidecar(os.path.join(DEMO, "ar"))
    block = meta["extraction"]["layer_index"]
    model = ref.load_base(os.path.join(DEMO, "model"))
    reader = ref.with_adapters(ref.load_base(os.path.join(DEMO, "model"), block + 1), [os.path.join(DEMO, "ar")])
    vectors = ref.read_vectors(os.path.join(DEMO, "eval"))
    texts = [json.loads(line)["text"] for line in gzip.open(os.path.join(DEMO, "eval", "rows.jsonl.gz"), "rt")]
    head, mean = ref.load_head(os.path.join(DEMO, "ar"), vectors.shape[1]), vectors[[row["row"] for row in rows]].mean(0)
    worst, kl, of_mean = 0.0, [], []
    for row in rows:
        ids, v, put = ref.encode(tokenizer, texts[row["row"]]), vectors[row["row"]], mean
        if row["failed"] is None:
            _, v_hat = ref.reconstruct(reader, head, block, ref.ar_prompt(tokenizer, meta, row["explanation"]))
            put = v_hat * v.norm() / v_hat.norm()
        log_p = next_token(model, block, ids)
        assert (next_token(model, block, ids, v) - log_p).abs().max() < 0.1, "the vector is not this text's"
        for x, name, into in ((put, "kl_next", kl), (mean, "kl_next_mean", of_mean)):
            into.append((log_p.exp() * (log_p - next_token(model, block, ids, x))).sum().item())
            worst = max(worst, abs(into[-1] - row[name]))
    assert worst < 1e-4, f"KL differs by {worst}"
    for name, some in (("recovered_kl", [not f for f in failed]), ("recovered_kl_all", [True] * len(rows))):
        want = 1 - sum(x for x, s in zip(kl, some) if s) / sum(x for x, s in zip(of_mean, some) if s)
        assert abs(want - summary[name]) < 1e-4, f"{name} is {summary[name]}, want {want}"
        print(f"{name} {summary[name]:.4f}")
    print(f"{len(rows)} rows, {sum(failed)} failed: KL within {worst:.1e} of PyTorch's")


if __name__ == "__main__":
    with torch.no_grad():
        main()
