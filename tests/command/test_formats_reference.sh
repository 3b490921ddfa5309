# The Python examples of docs/formats.md, and every layout against transformers and PEFT: merged exports have the adapters' logits; log-probabilities and scores agree for both
# injection modes, both AR layouts and nanoNLA's, with and without adapters; PEFT's adapters come back byte for byte.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
[ -x "${REFERENCE_PYTHON:-/nowhere}" ] || skip "no reference Python: scripts/setup.sh --reference installs it"
make_sets
cd "$work"
model=$tiny/model
check() { # ARGUMENTS: 77 without transformers or PEFT
	status=0
	"$REFERENCE_PYTHON" -B "$SOURCE_DIR/tests/reference/peft_check.py" --model "$model" --tolerance 1e-4 "$@" >peft 2>&1 || status=$?
	[ "$status" -ne 77 ] || skip "$(tail -n 1 peft)"
	[ "$status" -eq 0 ] || fail "peft_check $*: $(tail -n 3 peft)"
	tail -n 1 peft
}
for row in 0 1 2 3; do
	echo "{\"row\": $row, \"response\": \"<explanation>the red fox $row</explanation>\"}"
done >given.jsonl

# ---- adapters of every kind that PEFT writes: read, and written as they were ----
"$REFERENCE_PYTHON" -B - "$model" "$tiny/av/nla_meta.yaml" <<'END' >made 2>&1 || fail "PEFT: $(tail -n 1 made)"
import shutil, sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
everywhere = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
kinds = {"all": dict(target_modules=everywhere, use_rslora=True), "plain": dict(target_modules=["q_proj", "down_proj"], use_rslora=False),
         "ranks": dict(target_modules=everywhere, use_rslora=True, rank_pattern={"q_proj": 2, "mlp.up_proj": 6}, alpha_pattern={"o_proj": 3, "self_attn.q_proj": 5})}
spellings = {"regex": dict(target_modules=r".*\.(q|v)_proj"), "linear": dict(target_modules="all-linear"),
             "names": dict(target_modules=["model.layers.1.self_attn.q_proj", "layers.3.mlp.up_proj", "self_attn.o_proj"]),
             "layers": dict(target_modules=["q_proj", "down_proj"], layers_to_transform=[0, 1, 2, 3, 4], layers_pattern="layers"),
             "some": dict(target_modules=["k_proj"], layers_to_transform=[1, 3]), "not": dict(target_modules=["q_proj", "v_proj"], exclude_modules=["v_proj"])}
for name, kind in {**kinds, **spellings}.items():
    for dtype in (torch.float32, torch.bfloat16, torch.float16) if name in kinds else (torch.float32,):
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **kind))
        for key, p in model.named_parameters():
            if "lora_" in key:
                p.data = torch.randn_like(p.data).mul(0.1).to(dtype)
        out = f"peft-{name}-{str(dtype)[6:]}"
        model.save_pretrained(out)
        shutil.copy(sys.argv[2], out)
END
for adapter in peft-*; do
	av=$adapter
	train --out "run-$adapter" --steps 1 --max-new-tokens 4
	tool equal "$adapter/adapter_model.safetensors" "run-$adapter/reference/adapter_model.safetensors"
	ok nla-export --model "$model" --av "$adapter" --out "merged-$adapter" --export.dtype fp32
	case $adapter in
	*float32) check --adapter "$adapter" --merged "merged-$adapter" ;;
	esac
done
check --adapter "run-peft-ranks-bfloat16/reference" --merged merged-peft-ranks-bfloat16 # PEFT reads what we wrote

# ---- both injection modes, AV as an adapter, whole, and over a whole one; AR in every layout ----
tool nano "$tiny/ar" nano true
tool nano "$tiny/ar" kept false
ok nla-export --model "$model" --ar "$tiny/ar" --out cut --export.dtype fp32
ok nla-export --model "$model" --ar kept --out cut-kept --export.dtype fp32
for mode in residual_add embed_replace; do
	cp -R "$tiny/av" "av-$mode"
	[ "$mode" = residual_add ] || sed -i 's/injection_mode: .*/injection_mode: embed_replace/; s/injection_scale: null/injection_scale: 7.5/' "av-$mode/nla_meta.yaml"
	ok nla-export --model "$model" --av "av-$mode" --out "whole-$mode" --export.dtype fp32
	av=whole-$mode
	train --out "over-$mode" --steps 1 --max-new-tokens 8 --lr 1e-2
	over=over-$mode/checkpoints/latest/av
	evaluate() { # AV AR OUT
		ok nla-eval --model "$model" --av "$1" --ar "$2" --data held --score given.jsonl --out "$3"
	}
	evaluate "av-$mode" "$tiny/ar" "adapter-$mode"
	check --data held --rows "adapter-$mode/rows.jsonl" --av "av-$mode" --ar "$tiny/ar"
	evaluate "whole-$mode" cut "cut-$mode"
	check --data held --rows "cut-$mode/rows.jsonl" --av-model "whole-$mode" --ar cut
	evaluate "$over" nano "nano-$mode"
	check --data held --rows "nano-$mode/rows.jsonl" --av-model "whole-$mode" --av "$over" --ar nano
done
evaluate "av-residual_add" kept kept-eval
check --data held --rows kept-eval/rows.jsonl --av av-residual_add --ar kept
evaluate "av-residual_add" cut-kept cut-kept-eval
check --data held --rows cut-kept-eval/rows.jsonl --av av-residual_add --ar cut-kept

# ---- docs/formats.md: what an AV, an AR and a set made in Python need ----
python() { "$REFERENCE_PYTHON" -B "$@" >python.out 2>&1 || fail "$1: $(tail -n 3 python.out)"; }
mkdir elsewhere && cd elsewhere && ln -s "$model" model
awk -v at=0 '/^```python$/ { inside = 1; at++; next } /^```$/ { inside = 0 } inside { print >("example-" at ".py") }' "$SOURCE_DIR/docs/formats.md"
[ "$(ls example-*.py | wc -l)" -eq 3 ] || fail "docs/formats.md has another number of examples"
for example in example-*.py; do
	[ "$(wc -l <"$example")" -le 13 ] || fail "$example is long"
	python "$example"
done
ok nla-sft --role av --model model/ --av av --data set --sft.held_out 0 --batch 3 --steps 2 --lr 1e-2 --sft.warmup 0 --out warm
ok nla-train --model model/ --av warm/checkpoints/latest/av --ar ar --data set --prompts 2 --group 2 --max-new-tokens 4 --steps 1 --out run
grep -q "'set' stores no baselines: of its first 3 rows" "$work/stderr" || fail "no word of the baselines: $(cat "$work/stderr")"
ok nla-sft --role ar --model model --ar ar --data set --sft.held_out 0 --batch 3 --steps 1 --sft.warmup 0 --out sft
ok nla-extract --model model --corpus set --extract.at last --layer 2 --extract.dtype fp32 --out again
ok nla-explain --model model --av av --ar ar --data again --row 0 --max-new-tokens 4
python - <<'END'
from safetensors.torch import load_file
a, b = (load_file(f"{name}/activations.safetensors")["activations"] for name in ("set", "again"))
assert a.shape == b.shape and (a - b).abs().max() < 1e-4, (a - b).abs().max()
END

# ---- PEFT alone finds the base of what a run wrote, from any folder ----
mkdir away && cd away
python - ../run/checkpoints/latest/av <<'END'
import sys
import torch
from peft import AutoPeftModelForCausalLM
model = AutoPeftModelForCausalLM.from_pretrained(sys.argv[1])
ids = torch.arange(20)[None]
with torch.no_grad():
    trained = model(ids).logits
    with model.disable_adapter():
        assert (model(ids).logits - trained).abs().max() > 1e-6, "the adapter changes nothing"
END
cd "$work"

# ---- the chat template of an export prints what the AV was trained with ----
for system in '' 'Be "brief" {{ x }}'; do
	ok nla-sft --role av --model "$model" --data train --chat.system "$system" --overwrite --out chat --steps 1 --batch 4 --sft.warmup 0 --sft.held_out 0.1
	ok nla-export --model "$model" --av chat/checkpoints/latest/av --overwrite --out whole
	python - whole <<'END'
import sys
import yaml
from transformers import AutoTokenizer
meta = yaml.safe_load(open(f"{sys.argv[1]}/nla_meta.yaml"))
content = meta["prompt_templates"]["av"].replace("{injection_char}", meta["tokens"]["injection_char"])
text = AutoTokenizer.from_pretrained(sys.argv[1]).apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True, tokenize=False)
assert text == meta["chat"]["before"] + content + meta["chat"]["after"], text
assert meta["chat"]["system"] in text and ("<|im_start|>system" in text) == (meta["chat"]["system"] != "")
END
done
