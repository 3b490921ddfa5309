# The layouts of the field: whole AVs and truncated ARs, nanoNLA's AR, adapters over whole checkpoints, what nla-export writes.
# Every layout of one model must say what the adapter folders say.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
cd "$work"
model=$tiny/model ar=$tiny/ar
score() { # OUT ARGUMENTS
	out=$1
	shift
	ok nla-eval --data held --score given.jsonl --out "$out" "$@"
}
for row in 0 1 2 3 4 5; do
	echo "{\"row\": $row, \"response\": \"<explanation>the red fox $row and a river</explanation>\"}"
done >given.jsonl
same_scores() { # A B: two evaluations agree
	tool near "$1/rows.jsonl" "$2/rows.jsonl" logprob 1e-4
	tool near "$1/rows.jsonl" "$2/rows.jsonl" mse 1e-5
}
score adapters --model "$model" --av av --ar "$ar"

# ---- export, whole; the target may then be left out ----
ok nla-export --model "$model" --av av --ar "$ar" --out merged --export.dtype fp32
[ "$(cat stdout)" = "merged/av
merged/ar" ] || fail "nla-export says $(cat stdout)"
tool tensors merged/ar/model.safetensors | grep -Eq 'lm_head|model.norm|layers.3' && fail "the AR was not cut"
[ "$(tool get merged/ar/config.json num_hidden_layers)" = 3 ] || fail "the AR's config.json has another depth"
score whole --model "$model" --av merged/av --ar merged/ar
same_scores adapters whole
score alone --av merged/av --ar merged/ar
same_scores adapters alone
refused 2 "'model' is 'merged/av', an AV, and eval.recovered_kl asks the model that the vectors are from" nla-eval --av merged/av --ar merged/ar \
	--data held --rows 4 --eval.recovered_kl true --out no-kl
score mixed --model "$model" --av merged/av --ar "$ar"
same_scores adapters mixed
refused 2 "'model' is not set" nla-eval --av merged/av --ar "$ar" --data held --score given.jsonl --out no
refused 2 "'model' is not set" nla-explain --av merged/av --ar merged/ar --text 'the cat'
refused 2 "merged/av/config.json' is there already" nla-export --model "$model" --av av --ar "$ar" --out merged
refused 2 "neither 'av' nor 'ar'" nla-export --model "$model" --out no
# in bf16, several files
ok nla-export --model "$model" --av av --out shards --export.shard 0.0001
[ -e shards/model.safetensors.index.json ] && [ -e shards/model-00002-of-*.safetensors ] || fail "no shards"
score shards-eval --model "$model" --av shards --ar "$ar"
tool near adapters/rows.jsonl shards-eval/rows.jsonl logprob 0.5 # bf16
ok nla-export --model "$model" --av shards --out one --export.dtype bf16 # nothing to add: the same bits in one file
ok nla-export --model "$model" --av av --out direct
tool equal one/model.safetensors direct/model.safetensors

# --overwrite takes an earlier export's index away, and never what is exported
ok nla-export --model "$model" --av av --out shards --overwrite
[ ! -e shards/model.safetensors.index.json ] || fail "an old index is left"
tool equal shards/model.safetensors direct/model.safetensors
refused 2 "'out' is 'direct', which is what is exported" nla-export --model "$model" --av direct --out direct --overwrite
cp -R av over && echo "base_folder: ../direct" >>over/nla_meta.yaml
run nla-export --model "$model" --av over --out direct --overwrite
[ "$code" -eq 2 ] && grep -q "^'over' says that it stands on '$work/direct'$" "$work/stderr" || fail "exits $code: $(cat "$work/stderr")"
said "'out' is 'direct', whose weights are exported"

# another half's export in the folder, and another half's adapter
ok nla-export --model "$model" --ar "$ar" --out halves
refused 2 "'halves/config.json' is there already: give --overwrite" nla-export --model "$model" --av av --out halves
rm halves/config.json
refused 2 "'halves/nla_meta.yaml' is there already: give --overwrite" nla-export --model "$model" --av av --out halves
ok nla-export --model "$model" --av av --out halves --overwrite
diff -r direct halves >&2 || fail "of the AR's export are left: $(ls halves)"
ok nla-export --model "$model" --ar "$ar" --out halves --overwrite
[ "$(ls halves)" = "$(ls merged/ar)" ] && [ "$(tool get halves/config.json num_hidden_layers)" = 3 ] || fail "the AR over an AV has $(ls halves)"
cp -R "$ar" adapter
refused 2 "'adapter/adapter_config.json' is an adapter's" nla-export --model "$model" --av av --out adapter --overwrite

# ---- nanoNLA's AR: final norm stripped, as ours; kept, another prediction; merged, the same one ----
tool nano "$ar" nano true
score nano-eval --model "$model" --av av --ar nano
same_scores adapters nano-eval
tool nano "$ar" kept false
score kept-eval --model "$model" --av av --ar kept
apart near adapters/rows.jsonl kept-eval/rows.jsonl mse 1e-3 # the final norm changed nothing
ok nla-export --model "$model" --ar kept --out kept-merged --export.dtype fp32
tool tensors kept-merged/model.safetensors | grep -q model.norm || fail "the final norm was not kept"
score kept-merged-eval --model "$model" --av av --ar kept-merged
same_scores kept-eval kept-merged-eval
tool drop-key kept/ar_meta.json final_norm_stripped # files of before the key: kept
score kept-old --model "$model" --av av --ar kept
same_scores kept-eval kept-old

# ---- other spellings of an adapter's keys ----
cp -R av spelled && tool rekey spelled/adapter_model.safetensors .weight .default.weight
tool rekey spelled/adapter_model.safetensors base_model.model.model. base_model.model.
score spelled-eval --model "$model" --av spelled --ar "$ar"
same_scores adapters spelled-eval

# ---- training over a whole AV: the checkpoint names it, and is the policy that was trained ----
av=merged/av
train --out run --steps 2 --checkpoint.every 1
latest=run/checkpoints/latest
grep -q "^base_folder: \".*/merged/av\"" $latest/av/nla_meta.yaml || fail "the sidecar does not name the whole AV"
[ "$(tool get $latest/av/adapter_config.json base_model_name_or_path)" = "$(cd merged/av && pwd -P)" ] || fail "PEFT is not told of the base"
score trained --model "$model" --av $latest/av --ar "$ar"
apart near adapters/rows.jsonl trained/rows.jsonl logprob 1e-3 # training changed nothing
tool near whole/rows.jsonl trained/rows.jsonl mse 1e-6
python3 - trained/rows.jsonl adapters/rows.jsonl <<'END'
import json, sys
a, b = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
worst = max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p["ref_logprob"], q["logprob"]))
assert worst < 1e-4, f"the whole AV is not the reference: {worst}"
END
train --out run --steps 3 --resume
ok nla-export --model "$model" --av $latest/av --out trained-merged --export.dtype fp32
score trained-last --model "$model" --av $latest/av --ar "$ar"
score trained-merged-eval --model "$model" --av trained-merged --ar "$ar"
same_scores trained-last trained-merged-eval
mv merged/av moved
refused 1 "stands on the checkpoint '.*merged/av', which is not there: say where it is with av_base" nla-eval --model "$model" \
	--av $latest/av --ar "$ar" --data held --score given.jsonl --out no
score moved-eval --model "$model" --av $latest/av --ar "$ar" --av_base moved
same_scores trained-last moved-eval
mv moved merged/av

# ---- a warm start over whole checkpoints ----
for role in av ar; do
	ok nla-sft --role $role --model "$model" --data train --$role merged/$role --out sft-$role --steps 2 --batch 4 --lr 1e-3 --lora.rank 2 \
		--sft.warmup 0 --sft.held_every 1000 --sft.held_out 0.1
	grep -q "^base_folder: \".*/merged/$role\"" sft-$role/checkpoints/latest/$role/nla_meta.yaml || fail "nla-sft does not name the whole $role"
done
score sft-eval --model "$model" --av sft-av/checkpoints/latest/av --ar sft-ar/checkpoints/latest/ar
apart near adapters/rows.jsonl sft-eval/rows.jsonl logprob 1e-4 # nla-sft changed nothing

# ---- a whole AR in a run: named while it is frozen, with an adapter of its own when it is trained ----
train --out run-ar --steps 1 --ar merged/ar
[ ! -e run-ar/checkpoints/latest/ar/adapter_config.json ] || fail "a frozen whole AR got an adapter"
score frozen --model "$model" --av merged/av --ar run-ar/checkpoints/latest/ar
same_scores adapters frozen
train --out run-co --steps 2 --ar merged/ar --ar_update.enabled true --ar_update.lr 1e-2
[ -e run-co/checkpoints/latest/ar/adapter_config.json ] || fail "a trained whole AR got no adapter"
score co --model "$model" --av merged/av --ar run-co/checkpoints/latest/ar
apart near adapters/rows.jsonl co/rows.jsonl mse 1e-4 # the AR was not trained
train --out run-co --steps 3 --ar merged/ar --ar_update.enabled true --ar_update.lr 1e-2 --resume

# ---- an adapter that was only read is written bit for bit ----
av=$tiny/av
train --out run-ref --steps 1
tool equal "$tiny/av/adapter_model.safetensors" run-ref/reference/adapter_model.safetensors

# ---- slim sets: texts whose vectors the target gives, at their last token ----
mkdir slim
gzip -dc held/rows.jsonl.gz | python3 -c '
import json, sys
for n, line in enumerate(sys.stdin):
    row = json.loads(line)
    if n == 3: row["n_raw_tokens"] += 1
    if n == 4: row["text"] *= 40
    print(json.dumps(row))' | gzip >slim/rows.jsonl.gz
cp held/nla_meta.yaml slim
ok nla-extract --model "$model" --corpus slim --extract.meta slim --extract.at last --extract.max_tokens 200 --out filled
grep -q "1 texts are longer than extract.max_tokens = 200" stderr || fail "no word of the long text: $(cat stderr)"
grep -q "1 of 23 texts are another number of tokens" stderr || fail "no word of the other tokens: $(cat stderr)"
python3 - held filled <<'END'
import gzip, json, sys
sys.path.insert(0, sys.argv[0] or ".")
def read(folder):
    return [json.loads(line) for line in gzip.open(f"{folder}/rows.jsonl.gz", "rt")]
def vectors(folder):
    raw = open(f"{folder}/activations.safetensors", "rb").read()
    size = int.from_bytes(raw[:8], "little")
    n, d = json.loads(raw[8:8 + size])["activations"]["shape"]
    return [raw[8 + size + 2 * d * i:8 + size + 2 * d * (i + 1)] for i in range(n)]
held, filled = read("held"), read("filled")
del held[4]
for a, b in zip(held, filled):
    assert {**a, "n_raw_tokens": 0} == {**b, "n_raw_tokens": 0}, (a, b)
assert filled[3]["n_raw_tokens"] == held[3]["n_raw_tokens"] + 1
v, w = vectors("held"), vectors("filled")
del v[4]
bits = lambda x: [int.from_bytes(x[i:i + 2], "little") for i in range(0, len(x), 2)]
far = sum(abs(p - q) > 1 for x, y in zip(v, w) for p, q in zip(bits(x), bits(y)))
assert len(v) == len(w) == 23 and far == 0, f"{far} numbers differ by more than bf16 rounding"
END
# counts that are all one more than here: a set of a model with a BOS, and that is said
mkdir more && cp held/nla_meta.yaml more
for least in 0 1; do
	gzip -dc held/rows.jsonl.gz | python3 -c '
import json, sys
for n, line in enumerate(sys.stdin):
    row = json.loads(line)
    print(json.dumps({**row, "n_raw_tokens": row["n_raw_tokens"] + (n >= int(sys.argv[1]))}))' $least | gzip >more/rows.jsonl.gz
	ok nla-extract --model "$model" --corpus more --extract.meta more --extract.at last --overwrite --out filled
	[ $least = 0 ] && want="all n_raw_tokens are one more than the texts' tokens here: that set has a special token in front of its texts (tokens.add_special, now false)" ||
		want="23 of 24 texts are another number of tokens here than their n_raw_tokens: another tokenizer, or text that does not encode back"
	grep -Fqx "$want" stderr || fail "not said: $want: $(cat stderr)"
done
refused 1 "gave no row: its 24 texts are empty or longer than extract.max_tokens = 2 tokens" nla-extract --model "$model" --corpus slim \
	--extract.meta slim --extract.at last --extract.max_tokens 2 --out none

# ---- the chat format and system turn of an AV: kept, taken where nothing is asked for, and printed by its export ----
ok nla-sft --role av --model "$model" --data train --av av --chat.format chatml --out brief --steps 1 --batch 4 --sft.warmup 0 --sft.held_out 0.1
brief=brief/checkpoints/latest/av
grep -q 'system: ""' $brief/nla_meta.yaml || fail "nla-sft does not say that there is no system turn"
refused 1 "chat format chatml without a system turn, here it is chatml with system turn 'x'" nla-eval --model "$model" --av $brief --ar "$ar" \
	--chat.system x --data held --score given.jsonl --out no
ok nla-sft --role av --model "$model" --data train --chat.system 'Be "brief".' --out brief --overwrite --steps 1 --batch 4 --sft.warmup 0 --sft.held_out 0.1
grep -q 'system: "Be .*brief' $brief/nla_meta.yaml || fail "nla-sft does not keep the system turn: $(cat $brief/nla_meta.yaml)"
score brief-eval --model "$model" --av $brief --ar "$ar"
score brief-said --model "$model" --av $brief --ar "$ar" --chat.system 'Be "brief".' --chat.format chatml
same brief-eval/rows.jsonl brief-said/rows.jsonl
refused 1 "chatml without a system turn, here it is chatml with system turn 'Be \"brief\".'" nla-eval --model "$model" --av $brief --ar "$ar" --ref av \
	--data held --score given.jsonl --out no
av=$brief
train --out brief-run --steps 1 --max-new-tokens 4
grep -q 'system: "Be' brief-run/checkpoints/latest/av/nla_meta.yaml || fail "nla-train does not keep the system turn"
ok nla-export --model "$model" --av $brief --ar "$ar" --out brief-whole --export.dtype fp32
score brief-whole-eval --av brief-whole/av --ar brief-whole/ar
same_scores brief-eval brief-whole-eval
[ ! -e merged/av/chat_template.jinja ] && [ -e brief-whole/av/chat_template.jinja ] || fail "an export has another chat template than its AV wants"
echo '{"before": "<|im_start|>user\n", "after": "<|im_end|>\n<|im_start|>assistant\n", "strip": "none", "stop": ["<|im_end|>"]}' >file.json
score file-eval --model "$model" --av merged/av --ar "$ar" --chat.file file.json # the same prompts
same_scores adapters file-eval
ok nla-export --model "$model" --av av --out file-whole --chat.file file.json --export.dtype fp32
same file.json file-whole/nla_chat.json
score file-whole-eval --av file-whole --ar merged/ar
same_scores adapters file-whole-eval
sed '/^chat:/,/^  after:/d' $brief/nla_meta.yaml >bare.yaml && cp -R $brief bare && cp bare.yaml bare/nla_meta.yaml
score bare-eval --model "$model" --av bare --ar "$ar" --chat.system 'Be "brief".' # an older one
same brief-eval/rows.jsonl bare-eval/rows.jsonl
grep -q "'bare/nla_meta.yaml' does not say which chat format and system turn it was trained with: here chatml, system turn 'Be" stderr ||
	fail "no word of an AV without a system turn: $(cat stderr)"

# ---- made elsewhere: nla-extract --sidecar ----
cp -R train bare-set && rm bare-set/nla_meta.yaml
for part in av:bare ar:bare-ar set:bare-set; do
	[ "$part" != ar:bare-ar ] || cp -R "$ar" bare-ar
	rm -f "${part#*:}/nla_meta.yaml"
	refused 2 "'extract.layer' is not set: say of which block" nla-extract --sidecar --model "$model" --out "${part#*:}"
	ok nla-extract --sidecar --model "$model" --layer 2 --out "${part#*:}" --chat.system 'Be "brief".' \
		--templates.av "$(tool golden av_template)" --templates.ar "$(tool golden ar_template)" --templates.marker "$(tool golden marker)"
	same stdout "${part#*:}/nla_meta.yaml"
done
grep -q "'bare-set' stores no baselines: of its first 48 rows, raw variance" stderr || fail "no word of the baselines: $(cat stderr)"
[ "$(grep -A2 '^baseline' bare-set/nla_meta.yaml)" = "$(grep -A2 '^baseline' train/nla_meta.yaml)" ] || fail "other baselines than nla-extract stores"
refused 2 "'bare/nla_meta.yaml' is there already: remove it" nla-extract --sidecar --model "$model" --layer 2 --out bare
mkdir nothing
refused 1 "'nothing' holds neither an adapter" nla-extract --sidecar --model "$model" --layer 2 --out nothing
[ ! -e nothing/nla_meta.yaml ] || fail "a folder of nothing kept its sidecar"
score bare-all --model "$model" --av bare --ar bare-ar
same_scores brief-eval bare-all
sed -i '/^baseline:/,/^  mean/d' bare-set/nla_meta.yaml
ok nla-train --model "$model" --av bare --ar bare-ar --data bare-set --prompts 2 --group 2 --max-new-tokens 4 --steps 1 --out bare-run
grep -q "'bare-set' stores no baselines: of its first 48 rows, raw variance" stderr || fail "nla-train: no word of the baselines: $(cat stderr)"

# ---- the marker: chosen where it is a token of its own; this tokenizer has one for " ~" and its like ----
cp -R "$model" merging
python3 - merging <<'END'
import json, sys
path, config = f"{sys.argv[1]}/tokenizer.json", f"{sys.argv[1]}/tokenizer_config.json"
text = open(config, encoding="utf-8").read().replace("\u320e", "<|pad|>").replace("\\u320e", "<|pad|>")
open(config, "w", encoding="utf-8").write(text)
tok = json.load(open(path, encoding="utf-8"))
merges = [["\u00c2", "\u00a7"], ["\u0120", "\u00c2\u00a7"]] + [["\u0120", c] for c in "~^|#@*"]
vocab, old = tok["model"]["vocab"], tok["model"]["merges"][-len(merges):]
for (a, b), (x, y) in zip(merges, old):
    vocab[a + b] = vocab.pop(x + y)
tok["model"]["merges"][-len(merges):] = merges
tok["added_tokens"][-1]["content"] = "<|pad|>"
json.dump(tok, open(path, "w", encoding="utf-8"))
END
mark() { ok nla-extract --model merging --corpus train.jsonl --layer 2 --extract.min_position 5 --rows 4 --overwrite --out marked "$@"; }
mark # the default template has a line break in front of it
grep -q "^marker '§': the vector's place in a prompt$" stderr && grep -q 'injection_char: "\\u00A7"' marked/nla_meta.yaml ||
	fail "another marker: $(cat stderr marked/nla_meta.yaml)"
mark --templates.av 'Vector: {injection_char}'
grep -q "^marker '§': the vector's place in a prompt, with a line break" stderr && grep -q 'av: "Vector: \\n{injection_char}"' marked/nla_meta.yaml ||
	fail "no line break: $(cat stderr marked/nla_meta.yaml)"
mark --templates.av 'Vector:{injection_char}' --templates.marker '^' # asked for, and taken
refused 2 "'templates.marker' is '㈎': the marker '㈎' is 3 tokens.* these work: '§', '~', '\^'$" nla-extract --model merging --corpus train.jsonl \
	--out no --templates.marker ㈎
refused 2 "is '§': .* 0 times as one token .* and a line break around .* these work: '§', '~', '\^'$" nla-extract --model merging --corpus train.jsonl \
	--out no --templates.marker § --templates.av 'Vector: {injection_char}'

# ---- a pad token whose id is beyond the model's vocabulary: the same numbers; an error only of a text that has it ----
cp -R "$model" padded
python3 - padded <<'END'
import json, sys
def change(name, change):
    path = f"{sys.argv[1]}/{name}"
    whole = json.load(open(path, encoding="utf-8"))
    change(whole)
    json.dump(whole, open(path, "w", encoding="utf-8"))
change("tokenizer.json", lambda tok: tok["added_tokens"].append({**tok["added_tokens"][-1], "id": 380, "content": "<pad>"}))
change("tokenizer_config.json", lambda config: config.update(pad_token="<pad>"))
for name in ("config.json", "generation_config.json"):
    change(name, lambda config: config.update(pad_token_id=380))
END
ok nla-extract --model padded --corpus held.jsonl --layer 2 --extract.min_position 5 --extract.per_doc 2 --templates.av "$(tool golden av_template)" \
	--templates.ar "$(tool golden ar_template)" --templates.marker "$(tool golden marker)" --out padded-set
same held/activations.safetensors padded-set/activations.safetensors
score unpadded --model "$model" --av "$tiny/av" --ar "$ar"
ok nla-eval --model padded --av "$tiny/av" --ar "$ar" --data padded-set --score given.jsonl --out padded-eval
same unpadded/rows.jsonl padded-eval/rows.jsonl
printf '%s\n' '{"row": 0, "explanation": "a <pad>"}' '{"row": 1, "explanation": "a"}' >spelled.jsonl # a sampled one is read by the same words
ok nla-eval --model padded --av "$tiny/av" --ar "$ar" --data padded-set --score spelled.jsonl --out pad-eval
python3 -c 'import json; assert [json.loads(x)["failed"] for x in open("pad-eval/rows.jsonl")] == ["unreadable", None]' || fail "a text with <pad>"
for text in '"explanation": "caf\351"' '"response": "<explanation>caf\351</explanation>"'; do # Latin-1 is no such token
	printf "{\"row\": 0, $text}\n" >spelled.jsonl
	run nla-eval --model padded --av "$tiny/av" --ar "$ar" --data padded-set --score spelled.jsonl --out pad-latin
	[ "$code" -eq 1 ] || fail "Latin-1 exits $code"
	said "'spelled.jsonl line 1': cannot tokenise a text of [0-9]* bytes: byte [0-9]* is not valid UTF-8"
done
echo '{"row": 0, "response": "<explanation>a <pad></explanation>"}' >spelled.jsonl
run nla-eval --model padded --av "$tiny/av" --ar "$ar" --data padded-set --score spelled.jsonl --out pad-response
[ "$code" -eq 1 ] || fail "a response with <pad> exits $code"
said "'spelled.jsonl line 1': cannot tokenise a text: it has token 380"
refused 1 "cannot tokenise a text: it has token 380, the model has ids below 380$" nla-explain --model padded --av "$tiny/av" --ar "$ar" --text 'the <pad>'
printf '%s\n' '{"doc_id": "fine", "text": "a text"}' '{"doc_id": "odd", "text": "the <pad>"}' >spells.jsonl
refused 1 "document 'odd': cannot tokenise a text: it has token 380" nla-extract --model padded --corpus spells.jsonl --layer 2 --extract.min_position 1 --out no
run nla-sft --role lm --model padded --sft.corpus spells.jsonl --sft.held_out 0 --steps 1 --batch 1 --out no-lm
[ "$code" -eq 1 ] || fail "a document with <pad> exits $code"
said "document 'odd': cannot tokenise a text: it has token 380"
cp -R padded-set spelled-set # a row of a set made elsewhere: without its text it has no recovered KL; and it cannot be learnt from
python3 - spelled-set/rows.jsonl.gz <<'END'
import gzip, json, sys
rows = [json.loads(line) for line in gzip.open(sys.argv[1], "rt")]
for row in rows:
    row["explanation"] = "fine"
rows[1] |= {"text": "the <pad>", "explanation": "a <pad>"}
with gzip.open(sys.argv[1], "wt") as f:
    f.writelines(json.dumps(row) + "\n" for row in rows)
END
ok nla-eval --model padded --av "$tiny/av" --ar "$ar" --data spelled-set --rows 4 --max-new-tokens 8 --eval.recovered_kl true --out spelled-kl
grep -q "^recovered KL: 1 of 4 rows are left out" stderr || fail "recovered KL next to a text with <pad>: $(cat stderr)"
for role in av ar; do
	run nla-sft --role $role --model padded --data spelled-set --steps 1 --batch 2 --lora.rank 2 --out no-$role
	[ "$code" -eq 1 ] || fail "an explanation with <pad> exits $code"
	said "row 1 of 'spelled-set': cannot tokenise a text: it has token 380"
done

# ---- a sentencepiece tokenizer's likeliest next words keep their space ----
mkdir piece && cp "$SOURCE_DIR"/tests/data/tokenizer/llama2/tokenizer.* piece && cp "$SOURCE_DIR/tests/data/families/llama2/config.json" piece
tool set piece/config.json vocab_size 700
echo '{"text": "the work of the license and the work of the other"}' >words.jsonl
ok nla-sft --role lm --model piece --chat.format llama2 --sft.init true --dtype fp32 --sft.corpus words.jsonl --sft.held_out 0 --steps 1 --batch 1 --out piece-lm
ok nla-extract --model piece-lm/checkpoints/latest/model --chat.format llama2 --corpus words.jsonl --extract.layer 0 --extract.per_doc 4 --extract.min_position 2 \
	--extract.next 100 --out piece-set
gzip -dc piece-set/rows.jsonl.gz | python3 -c '
import json, sys
words = [word for line in sys.stdin for word in json.loads(line)["next"]]
spaced = [word for word in words if word.startswith(" ") and word.strip()]
assert len(words) >= 100 and len(spaced) > len(words) / 10, f"{len(spaced)} of {len(words)} next words begin with a space"' || fail "the space of next words"

# ---- a set that says little: what is trained on it is bound to its tokenizer all the same ----
cp -r train little
awk '/injection_left|injection_right|tokenizer_crc/ { next } /critic_suffix_ids/ { cut = 1; next } cut && /^ *- / { next } { cut = 0; print }' \
	train/nla_meta.yaml >little/nla_meta.yaml
for role in av ar; do
	ok nla-sft --role $role --model "$model" --data little --out "bound-$role" --steps 1 --batch 4 --lora.rank 2 --sft.warmup 0
	for key in injection_left_neighbor_id injection_right_neighbor_id tokenizer_crc critic_suffix_ids; do
		grep -q "$key" train/nla_meta.yaml && [ "$(grep -A 3 "$key" train/nla_meta.yaml)" = "$(grep -A 3 "$key" "bound-$role/checkpoints/latest/$role/nla_meta.yaml")" ] ||
			fail "the $role of a set without it has no $key"
	done
done
