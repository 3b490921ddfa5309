# PEFT loads what we write and we load what PEFT writes: log-probabilities and scores agree with transformers + PEFT.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
[ -x "${REFERENCE_PYTHON:-/nowhere}" ] || skip "no reference Python: scripts/setup.sh --reference installs it"
make_sets
make_av

check() { # ROWS ARGUMENTS: 77 without transformers or PEFT
	status=0
	"$REFERENCE_PYTHON" -B "$SOURCE_DIR/tests/reference/peft_check.py" --model "$tiny/model" --data "$work/held" \
		--rows "$@" --tolerance 1e-4 >"$work/peft" 2>&1 || status=$?
	[ "$status" -ne 77 ] || skip "$(tail -n 1 "$work/peft")"
	[ "$status" -eq 0 ] || fail "peft_check: $(tail -n 3 "$work/peft")"
	tail -n 1 "$work/peft"
}

# Ours: three steps of RL over a warm start, both joined in one adapter folder, and a co-trained AR with its head.
train --out "$work/run" --steps 3 --lr 2e-3 --ar_update.enabled true --ar_update.lr 1e-2 --ar_update.train_head
latest=$work/run/checkpoints/latest
# Sampled, and scored again by text, since sampled ids need not be those of their text; then some texts that have their tags.
evaluate() { # AV AR OUT
	ok nla-eval --model "$tiny/model" --av "$1" --ar "$2" --data "$work/held" --rows 12 --max-new-tokens 40 \
		--out "$3-sampled"
	python3 - "$3-sampled/rows.jsonl" "$3.jsonl" <<'END'
import json, sys

with open(sys.argv[1]) as rows, open(sys.argv[2], "w") as out:
    for row in map(json.loads, rows):
        out.write(json.dumps({"row": row["row"], "response": row["response"]}) + "\n")
    for row in range(4):
        out.write(json.dumps({"row": row, "response": f"<explanation>the red fox {row}</explanation>"}) + "\n")
END
	ok nla-eval --model "$tiny/model" --av "$1" --ar "$2" --data "$work/held" --score "$3.jsonl" --out "$3"
}
evaluate "$latest/av" "$latest/ar" "$work/ours"
check "$work/ours/rows.jsonl" --av "$latest/av" --ref "$work/run/reference" --ar "$latest/ar"

# Theirs: the adapters of the fixtures were written by PEFT.
evaluate "$tiny/av" "$tiny/ar" "$work/theirs"
check "$work/theirs/rows.jsonl" --av "$tiny/av" --ref "$tiny/av" --ar "$tiny/ar"
