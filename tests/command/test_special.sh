# Special tokens in front, through the programs: vectors of an extraction and scores of given explanations are transformers' with tok(text)
# (tests/golden/make_special.py), Llama-3- and Llama-2-shaped; tokens.add_special leaves them out; a set and an AR that disagree are an error.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
cd "$work"
cat >check.py <<'END'
import gzip, json, os, struct, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
import tool

folder, golden, special = sys.argv[1], tool.read_json(sys.argv[2] + "/golden.json"), sys.argv[3] == "true"
rows = [json.loads(line) for line in gzip.open(folder + "/rows.jsonl.gz", "rt", encoding="utf-8")]
_, (n, d), data = tool.read_tensors(folder + "/activations.safetensors")[0]["activations"]
with open("given.jsonl", "w", encoding="utf-8") as given:
    for doc, (row, ar) in enumerate(zip(golden["rows"], golden["ar"], strict=True)):
        at = [i for i, r in enumerate(rows) if r["doc_id"] == str(doc) and r["n_raw_tokens"] == row["position"] + special]
        assert len(at) == 1 and row["text"].startswith(rows[at[0]]["text"]), (doc, at)     # the BOS is counted, and is no part of a text
        v = struct.unpack_from(f"<{d}f", data, 4 * d * at[0])
        apart = max(abs(x - y) for x, y in zip(v, row["v" if special else "bare"], strict=True))
        assert apart < 1e-4, f"{folder}: the vector of text {doc} differs by {apart}"
        given.write(json.dumps({"row": at[0], "explanation": ar["explanation"]}) + "\n")
if len(sys.argv) > 4:
    scores = [json.loads(line)["mse"] for line in open(sys.argv[4] + "/rows.jsonl")]
    assert all(abs(mse - ar["mse"]) < 1e-4 for mse, ar in zip(scores, golden["ar"], strict=True)), (scores, golden["ar"])
END
cat >identity.py <<'END'
import os, struct, sys
sys.path.insert(0, os.path.join(os.environ["SOURCE_DIR"], "tests", "command"))
import tool
tool.write_tensors(sys.argv[1], {"weight": ("F32", [16, 16], b"".join(struct.pack("<f", i % 17 == 0) for i in range(256)))})
END
for name in llama3 llama2; do
	model=$SOURCE_DIR/tests/data/special/$name
	python3 -c 'import json, sys
for i, row in enumerate(json.load(open(sys.argv[1] + "/golden.json"))["rows"]):
    print(json.dumps({"doc_id": str(i), "text": row["text"]}))' "$model" >texts.jsonl
	set -- --model "$model" --chat.format $name --chat.system ''
	for option in auto false; do
		[ $option = auto ] && special=true || special=false
		mkdir $name-$option && python3 -B identity.py $name-$option/value_head.safetensors
		for out in $name-$option $name-av-$option; do
			cp -R "$model/." $out
			ok nla-extract --sidecar "$@" --layer 1 --templates.ar 'A text: {explanation} Vector:' --tokens.add_special $option --out $out
		done
		ok nla-extract "$@" --corpus texts.jsonl --layer 1 --extract.per_doc 4096 --extract.min_position 1 --extract.dtype fp32 \
			--templates.ar 'A text: {explanation} Vector:' --tokens.add_special $option --out $name-set-$option
		grep -q "add_special: $special" $name-set-$option/nla_meta.yaml || fail "$name, $option: the set says $(cat $name-set-$option/nla_meta.yaml)"
		python3 -B check.py $name-set-$option "$model" $special
	done
	python3 -B check.py $name-set-auto "$model" true
	ok nla-eval "$@" --av $name-av-auto --ar $name-auto --data $name-set-auto --score given.jsonl --out $name-eval
	python3 -B check.py $name-set-auto "$model" true $name-eval
	refused 1 "'$name-set-auto' was made with special tokens in front of its texts, the AR's prompts get none: want the same" nla-eval "$@" \
		--av $name-av-auto --ar $name-false --data $name-set-auto --score given.jsonl --out no
	run nla-eval "$@" --av $name-av-auto --ar $name-auto --eval.start_ar $name-false --data $name-set-auto --score given.jsonl --out no
	[ "$code" -eq 1 ] || fail "eval.start_ar without special tokens scores texts with them"
	said "'$name-set-auto' was made with special tokens in front of its texts, the AR's prompts get none: want the same"
	refused 1 "tokens.add_special is true there, the option says false" nla-eval "$@" --av $name-av-auto --ar $name-auto --data $name-set-auto \
		--score given.jsonl --out no --tokens.add_special false
done
