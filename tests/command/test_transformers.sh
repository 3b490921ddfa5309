# docs/transformers.md: its command and its code as they stand, on the demo, with transformers alone: the text and the cosine are
# nla-explain's.
. "$SOURCE_DIR/tests/command/lib.sh"
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
text=$(sed -n 's/.*, text = .*"\(Finn .*\)"$/\1/p' page.py)
for halves in demo exported; do
	ok nla-explain --model demo/model --av $halves/av --ar $halves/ar --temperature 0 --text "$text"
	python3 - stdout said <<'END' || fail "$halves: the page's code says something else than nla-explain"
import json, sys
ours, (text, cosine, fve) = json.loads(open(sys.argv[1]).read()), open(sys.argv[2]).read().splitlines()
assert text == ours["explanation"], (text, ours["explanation"])
assert abs(float(cosine.split()[1]) - ours["cosine"]) < 2e-4, (cosine, ours["cosine"])
assert abs(float(fve.split()[1]) - (1 - ours["mse"] / 0.8846447)) < 2e-3, (fve, ours["mse"])
END
done
