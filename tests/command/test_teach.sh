# nla-teach on the demo's model: its chats are requests to explain a story, so it can answer. A killed run continues to the same bytes.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
demo=$SOURCE_DIR/demo
prompt='Explain in <explanation> tags the last words, what comes next and the facts so far.
{text}'
cp -R "$demo/eval" "$work/bare"
tool unexplain "$work/bare"
cp "$work/bare/rows.jsonl.gz" "$work/before.gz"
teach() { ok nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt "$prompt" --max-new-tokens 60 --teach.tries 3 "$@"; }

# Most rows are explained; the set is the source's but for that; the log and the summary say what the set holds.
teach --rows 96 --batch 16 --teach.show 2 --out "$work/taught"
[ "$(grep -c '^  -> ' "$work/stderr")" -eq 2 ] || fail "--teach.show 2 shows other than 2: $(cat "$work/stderr")"
cp "$work/stdout" "$work/summary"
cat >"$work/check.py" <<'END'
import gzip, json, os, sys
work, folder, asked = sys.argv[1], sys.argv[2], int(sys.argv[3])
rows = lambda name: [json.loads(line) for line in gzip.open(os.path.join(work, name, "rows.jsonl.gz"), "rt", encoding="utf-8")]
before, after = rows("bare"), rows(folder)
summary = json.load(open(work + "/summary"))
header, *answers = [json.loads(line) for line in open(os.path.join(work, folder, "teach.jsonl"))]
assert header["teach.context"] == 128 and header["teach.temperature"] == 0.7, header
bare = lambda row: {k: v for k, v in row.items() if k != "explanation"}
assert [bare(r) for r in after] == before, "something other than the explanation changed"
explained = {i: r["explanation"] for i, r in enumerate(after) if "explanation" in r}
assert summary["rows"] == len(before) and summary["taught"] == len(explained) >= 0.8 * asked, summary
assert summary["failed"] == asked - len(explained) and summary["kept"] == summary["no_text"] == 0
assert not set(explained) - set(range(asked)), "rows that nobody asked for"
assert all(e and e == e.strip() and "<explanation>" not in e for e in explained.values())
assert sum(summary["answers"].values()) == len(answers)
kinds = {None: "fit"}
for name in summary["answers"]:
    assert summary["answers"][name] == sum(kinds.get(a["failed"], a["failed"]) == name for a in answers), name
tokens = 0
for row in range(asked):
    own = [a for a in answers if a["row"] == row]
    assert [a["try"] for a in own] == list(range(len(own))), "tries count from 0"
    assert all(a["failed"] for a in own[:-1]) and (not own[-1]["failed"] or len(own) == 3), "asked again until one serves"
    if not own[-1]["failed"]:
        assert explained[row] == own[-1]["text"]
        tokens += own[-1]["tokens"]
    assert all(1 <= a["tokens"] <= 60 for a in own)
if not summary["cut"]:
    assert abs(summary["mean_tokens"] - tokens / len(explained)) < 1e-9
# What it wrote is about the text: the demo's explanations name the story's animal or its last words.
about = sum(any(word.strip('.,"') in before[i]["text"] for word in e.split() if len(word) > 4) for i, e in explained.items())
assert about >= 0.9 * len(explained), (about, len(explained))
END
python3 "$work/check.py" "$work" taught 96 || fail "the taught set is not what its log says"
same "$work/before.gz" "$work/bare/rows.jsonl.gz"
[ "$work/bare/activations.safetensors" -ef "$work/taught/activations.safetensors" ] || same "$work/bare/activations.safetensors" "$work/taught/activations.safetensors"
same "$work/bare/nla_meta.yaml" "$work/taught/nla_meta.yaml"

# The texts depend neither on the batch nor on when the run was killed.
teach --rows 96 --batch 5 --out "$work/small"
same "$work/taught/rows.jsonl.gz" "$work/small/rows.jsonl.gz"
signalled teach.jsonl 30 KILL nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt "$prompt" --max-new-tokens 60 \
	--teach.tries 3 --rows 96 --batch 16 --out "$work/killed"
[ "$code" -eq 137 ] || fail "not killed: $code"
[ ! -e "$work/killed/nla_meta.yaml" ] || fail "killed after its end"
printf '{"row":3,"try":0,"tokens":9,"failed":null,"text":"Not this","left":5}\n{"row":4,"tr' >>"$work/killed/teach.jsonl"
refused 2 'teach.jsonl.*--resume' nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt "$prompt" --out "$work/killed"
refused 2 "cannot resume: 'teach.prompt'" nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt "$prompt!" --resume \
	--max-new-tokens 60 --out "$work/killed"
# Stopped by a signal on top: no failure, and no set yet.
signalled teach.jsonl 60 USR1 nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt "$prompt" --max-new-tokens 60 \
	--teach.tries 3 --rows 96 --batch 16 --out "$work/killed" --resume
[ "$code" -eq 3 ] || fail "USR1: exits $code, $(tail -n 2 "$work/stderr")"
grep -q "^nla-teach: stopped: '$work/killed/teach.jsonl' holds the answers so far; to continue: .* --teach.prompt 'Explain" "$work/stderr" ||
	fail "no last line: $(cat "$work/stderr")"
sed -n '/; to continue: /,$p' "$work/stderr" | sed '1s/.*; to continue: //' >"$work/command" # the prompt has a line break
[ ! -e "$work/killed/nla_meta.yaml" ] || fail "stopped after its end"
cp -R "$work/killed" "$work/commanded"
sh "$work/command" >"$work/stdout" 2>"$work/stderr" || fail "'$(cat "$work/command")' exits $?: $(tail -n 1 "$work/stderr")"
same "$work/taught/teach.jsonl" "$work/killed/teach.jsonl"
tail -n 1 "$work/stderr" | grep -q "^'$work/killed' is explained; next: nla-sft " || fail "no last line: $(tail -n 1 "$work/stderr")"
rm -r "$work/killed"
mv "$work/commanded" "$work/killed"
mv "$work/bare" "$work/bare-moved" # the set's content counts, not where it lies
ln -s bare-moved "$work/bare"
teach --rows 96 --batch 16 --out "$work/killed" --resume
rm "$work/bare"
mv "$work/bare-moved" "$work/bare"
same "$work/taught/rows.jsonl.gz" "$work/killed/rows.jsonl.gz"
same "$work/taught/teach.jsonl" "$work/killed/teach.jsonl"
# A finished run has nothing left to ask; more rows may be asked for.
teach --rows 96 --batch 16 --out "$work/killed" --resume
same "$work/taught/rows.jsonl.gz" "$work/killed/rows.jsonl.gz"
teach --rows 100 --batch 16 --out "$work/killed" --resume
[ "$(tool get "$work/stdout" taught)" -gt "$(tool get "$work/summary" taught)" ] || fail "four more rows, none taught"

# A warm start takes the set, rows without explanation left out.
ok nla-sft --role av --model "$demo/model" --data "$work/taught" --out "$work/sft" --steps 2 --batch 4 --lr 1e-3 --sft.held_out 0.1 \
	--checkpoint.every 0
rows=$(sed -n 's/.*av: \([0-9]*\) rows to train on, \([0-9]*\) held out.*/\1+\2/p' "$work/stderr")
[ "$((rows))" -eq "$(tool get "$work/summary" taught)" ] || fail "nla-sft trains on $rows rows"
cp -R "$work/bare" "$work/none"
refused 1 'no row has an explanation' nla-sft --role av --model "$demo/model" --data "$work/none" --out "$work/sft2" --steps 2

# Rows that have an explanation keep it, unless teach.again says otherwise.
ok nla-teach --model "$demo/model" --data "$work/taught" --teach.prompt "$prompt" --rows 3 --out "$work/more"
[ "$(tool get "$work/stdout" kept)" -eq "$(tool get "$work/summary" taught)" ] || fail "explanations were not kept"
ok nla-teach --model "$demo/model" --data "$work/taught" --teach.prompt "$prompt" --rows 3 --seed 9 --teach.again --out "$work/again"
[ "$(tool get "$work/stdout" kept)" -eq 0 ] || fail "--teach.again keeps rows"
# A row for which the second teacher has no answer has no explanation, not the first one's; the others' stay.
ok nla-teach --model "$demo/model" --data "$work/taught" --teach.prompt "$prompt" --rows 3 --max-new-tokens 1 --teach.again --out "$work/mute"
python3 - "$work" <<'END' || fail "--teach.again leaves a former teacher's texts"
import gzip, json, sys
before, after = ([json.loads(line) for line in gzip.open(f"{sys.argv[1]}/{name}/rows.jsonl.gz", "rt")] for name in ("taught", "mute"))
summary = json.load(open(sys.argv[1] + "/stdout"))
assert summary["failed"] == 3 and all("explanation" not in row for row in after[:3]), (summary, after[:3])
assert before[3:] == after[3:]
END
# Nor has a row whose own words hold a tag; it is counted as failed.
echo '{"doc_id": "d", "text": "The hen and the fox said <explanation> and went home to the small house in the wood."}' >"$work/tag.jsonl"
ok nla-extract --model "$demo/model" --corpus "$work/tag.jsonl" --layer 3 --extract.min_position 6 --extract.per_doc 20 --out "$work/tag"
ok nla-teach --model "$demo/model" --data "$work/tag" --teach.prompt "$prompt" --teach.explanation '{answer} {end}' --teach.max_end 60 \
	--out "$work/tagged"
python3 - "$work" <<'END' || fail "the summary counts explanations that were dropped for a tag"
import gzip, json, sys
rows = [json.loads(line) for line in gzip.open(sys.argv[1] + "/tagged/rows.jsonl.gz", "rt")]
summary = json.load(open(sys.argv[1] + "/stdout"))
taught = sum("explanation" in row for row in rows)
assert 0 < taught < len(rows) and summary["taught"] == taught and summary["failed"] == len(rows) - taught, (taught, summary)
END

# Truncated answers: cut at a whole sentence where they have one. {next} puts the row's next tokens in.
ok nla-teach --model "$demo/model" --data "$work/bare" --teach.prompt 'Who is the story about? {next}
{text}' --rows 16 --max-new-tokens 9 --teach.tries 1 --teach.temperature 0 --out "$work/short"
python3 - "$work/short" <<'END' || fail "truncated answers are not cut at a sentence's end"
import gzip, json, sys
rows = [json.loads(line) for line in gzip.open(sys.argv[1] + "/rows.jsonl.gz", "rt")]
for a in [json.loads(line) for line in open(sys.argv[1] + "/teach.jsonl")][1:]:
    said = rows[a["row"]].get("explanation")
    if a["failed"] == "truncated":
        ends = [i + 1 for i, c in enumerate(a["text"]) if c in ".!?" and a["text"][i + 1:i + 2] in ("", " ", "\n")]
        assert said == (a["text"][:ends[-1]] if ends else None), (said, a)
    else:
        assert said == (None if a["failed"] else a["text"]), (said, a)
END

# ---- one clear line each ----
bad() { w=$1 p=$2; shift 2; refused "$w" "$p" nla-teach --model "$demo/model" --data "$work/bare" "$@"; }
bad 2 "'out' is not set"
bad 2 "teach.prompt' has '.text.' nowhere" --teach.prompt 'Say something' --out "$work/x"
bad 2 "teach.prompt' has '.text.' more than once" --teach.prompt '{text}{text}' --out "$work/x"
bad 2 "'out' and 'data' are both" --out "$work/bare" --overwrite
bad 2 "holds an activation set that nla-teach did not write" --out "$work/none"
bad 1 "no such folder|cannot" --teacher "$work/nowhere" --out "$work/x"
run nla-teach --model "$demo/model" --data "$work/bare" --max-new-tokens 500 --out "$work/y"
[ "$code" -eq 1 ] || fail "a prompt beyond the teacher's positions exits $code"
said "row [0-9]+: a prompt of [0-9]+ tokens and an answer of 500 are more than the teacher's 512 positions"
make_set held 100 12
cp -R "$work/bare" "$work/slim"
python3 - "$work/slim/rows.jsonl.gz" <<'END'
import gzip, json, sys
rows = [json.loads(line) for line in gzip.open(sys.argv[1], "rt")]
with gzip.open(sys.argv[1], "wt") as f:
    for row in rows:
        f.write(json.dumps({"doc_id": row["doc_id"], "n_raw_tokens": row["n_raw_tokens"]}) + "\n")
END
refused 1 "row 0 of '.*held' has no next tokens" nla-teach --model "$demo/model" --data "$work/held" --teach.again --teach.prompt '{next} {text}' --out "$work/x"
refused 1 "cannot teach '.*slim': its rows have no texts" nla-teach --model "$demo/model" --data "$work/slim" --out "$work/x"
[ ! -e "$work/x" ] || fail "a refused run left '$work/x'"

# A model that thinks unless it is told not to is told: 60 tokens would end within the thought.
cp -R "$demo/model" "$work/thinks"
python3 -c '
import json, sys
print(next(c["template"] for c in json.load(open(sys.argv[1])) if c["name"] == "qwen3"), end="")' "$SOURCE_DIR/tests/data/chat/golden.json" >"$work/thinks/chat_template.jinja"
teach --rows 2 --out "$work/not-thinking" --model "$work/thinks"
grep -q '^the teacher answers without thinking first: its prompts end with an empty think block$' "$work/stderr" || fail "$(cat "$work/stderr")"
