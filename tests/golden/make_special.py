"""Writes tests/data/special/NAME: a tiny random model with a tokenizer that puts a BOS in front, Llama-3- and Llama-2-shaped, and
what transformers computes on it with tok(text) as it is by default. Run by hand after make_tokenizer_golden.py:

    ~/.cache/nla/reference/bin/python tests/golden/make_special.py

golden.json: rows: text, ids, position, v (output of block K at it) and v without special tokens; ar: explanation, mse against the v
of the same row, by blocks 0..K and a head that is the identity, and the mse without special tokens.
"""
import json
import pathlib
import shutil

import torch
import transformers

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
TOKENIZERS = REPOSITORY / "tests" / "data" / "tokenizer"
OUT = REPOSITORY / "tests" / "data" / "special"
D, BLOCKS, K = 16, 3, 1
AR_TEMPLATE = "A text: {explanation} Vector:"
TEXTS = ["The quick brown fox jumps over the lazy dog.", "caf\u00e9 and 1234", "the license of the software"]
EXPLANATIONS = ["a fox", "coffee, and a number", "the terms of a license"]
BOS = {"llama3": ("llama", "<|begin_of_text|>"), "llama2": ("llama2json", "<s>")}


def template(token, number):
    return {"type": "TemplateProcessing", "special_tokens": {token: {"id": token, "ids": [number], "tokens": [token]}},
            "single": [{"SpecialToken": {"id": token, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}]}


def normal(x):
    return x * D**0.5 / x.norm().clamp(min=1e-12)


def main():
    for name, (tokenizer, token) in BOS.items():
        folder = OUT / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        text = json.loads((TOKENIZERS / tokenizer / "tokenizer.json").read_text())
        if name == "llama2":
            text["post_processor"] = template(token, text["model"]["vocab"][token])
        (folder / "tokenizer.json").write_text(json.dumps(text, ensure_ascii=False, separators=(",", ":")) + "\n")
        (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n")
        tok = transformers.AutoTokenizer.from_pretrained(folder)
        torch.manual_seed(len(name) + ord(name[-1]))
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(
            vocab_size=len(tok), hidden_size=D, intermediate_size=24, num_hidden_layers=BLOCKS, num_attention_heads=2,
            num_key_value_heads=1, tie_word_embeddings=True, max_position_embeddings=64, initializer_range=0.3,
            eos_token_id=None, bos_token_id=None)).eval()
        model.save_pretrained(folder)
        (folder / "generation_config.json").unlink(missing_ok=True)

        @torch.no_grad()
        def residual(ids):
            return model(torch.tensor([ids]), output_hidden_states=True).hidden_states[K + 1][0]

        golden = {"rows": [], "ar": []}
        for one, explanation in zip(TEXTS, EXPLANATIONS):
            ids, bare = tok(one)["input_ids"], tok(one, add_special_tokens=False)["input_ids"]
            assert ids[1:] == bare and tok.convert_ids_to_tokens(ids[0]) == token
            at = len(ids) - 2
            v = residual(ids)[at]
            golden["rows"].append({"text": one, "ids": ids, "position": at, "v": v.tolist(), "bare": residual(bare)[at - 1].tolist()})
            prompt = AR_TEMPLATE.format(explanation=explanation)
            mse = [((normal(residual(tok(prompt, add_special_tokens=s)["input_ids"])[-1]) - normal(v)) ** 2).mean().item()
                   for s in (True, False)]
            assert abs(mse[0] - mse[1]) > 0.002, mse
            golden["ar"].append({"explanation": explanation, "mse": mse[0], "bare": mse[1]})
        (folder / "golden.json").write_text(json.dumps(golden, indent=1) + "\n")


if __name__ == "__main__":
    main()
