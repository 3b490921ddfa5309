# docs/transformers.md: its command and its code as they stand, on the demo, with transformers alone: the text and the cosine are
# nla-explain's.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
"$REFERENCE_PYTHON" -c 'import transformers' 2>/dev/null || skip "no transformers: scripts/setup.sh --reference installs it"
page=$SOURCE_DIR/docs/transformers.md
ln -s "$SOURCE_DIR/demo" "$work/demo"
ln -s "$BUILD_DIR" "$work/build"
cd "$work"
sed -n 's/^    \(build\/nla-export .*\)/\1/p' "$page" >export.sh
sed -n '/^```python$/,/^```$/p' "$page" | sed '1d;$d' >page.py
[ -s export.sh ] && [ -s page.py ] || fail "no command or no code in $page"
sh -e export.sh >/dev/null 2>&1 || fail "the page's command fails: $(cat export.sh)"
"$REFERENCE_PYTHON" -B page.py >said 2>stderr || fail "the page's code fails: $(tail -n 3 stderr)"
cat said

# The same on the first held-out texts, of adapters and of the export: a wrong place or size of the vector changes some of the texts.
gzip -dc demo/eval/rows.jsonl.gz | head -n 8 >rows.jsonl
"$REFERENCE_PYTHON" -B - >theirs 2>stderr <<'END' || fail "the page's code fails on another text: $(tail -n 3 stderr)"
import json, re
code = open("page.py").read()
for line in open("rows.jsonl"):
    exec(re.sub(r'(target, text = .*?, )".*"', lambda m: m[1] + repr(json.loads(line)["text"]), code, count=1))
END
for halves in demo exported; do
	for row in 0 1 2 3 4 5 6 7; do
		ok nla-explain --model demo/model --av $halves/av --ar $halves/ar --temperature 0 --text "$(sed -n $((row + 1))p rows.jsonl | python3 -c 'import json, sys; print(json.loads(sys.stdin.read())["text"])')"
		cat stdout
	done >ours
	python3 - ours theirs <<'END' || fail "$halves: the page's code says something else than nla-explain"
import json, sys
ours, theirs = [json.loads(x) for x in open(sys.argv[1])], open(sys.argv[2]).read().splitlines()
assert len(ours) == 8 and len(theirs) == 24, theirs
for mine, text, cosine, fve in zip(ours, theirs[::3], theirs[1::3], theirs[2::3]):
    assert text == mine["explanation"], (text, mine["explanation"])
    assert abs(float(cosine.split()[1]) - mine["cosine"]) < 2e-4, (cosine, mine["cosine"])
    assert abs(float(fve.split()[1]) - (1 - mine["mse"] / 0.8846447)) < 2e-3, (fve, mine["mse"])
END
done
