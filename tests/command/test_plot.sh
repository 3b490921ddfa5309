# scripts/plot-run.sh: a point a step and a running mean, of several runs and of nla-sft. gnuplot's stand-in keeps what it was given.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
mkdir "$work/bin" "$work/rl" "$work/other" "$work/av" "$work/empty"
cat >"$work/bin/gnuplot" <<END
cat >"$work/script"
rm -rf "$work/data"
cp -R . "$work/data"
echo "a warning" >&2
[ -e "$work/broken" ] || echo picture >run.png
END
chmod +x "$work/bin/gnuplot"
plot() { PATH=$work/bin:$PATH sh "$SOURCE_DIR/scripts/plot-run.sh" "$@"; }
for step in 1 2 3 4 5 6 7 8 9 10 11 12; do
	echo "{\"step\":$step,\"reward_mean\":0,\"fve\":$((step % 2)).5,\"fve_meannorm\":9,\"response_tokens_mean\":$((50 - step)),\"loss\":1}" >>"$work/rl/metrics.jsonl"
	echo "{\"step\":$step,\"fve\":null,\"response_tokens_mean\":7,\"seconds\":1}" >>"$work/other/metrics.jsonl"
	held=""
	[ "$step" -ne 6 ] || held=',"held_loss":1.5,"held_loss_other_vector":2.25'
	echo "{\"step\":$step,\"loss\":2.5,\"grad_norm\":null$held}" >>"$work/av/metrics.jsonl"
done
plot "$work/rl" "$work/other"
[ "$(grep -c '^plot' "$work/script")" -eq 2 ] || fail "want two panels: $(cat "$work/script")"
[ "$(wc -l <"$work/data/fve.1")" -eq 12 ] && [ ! -s "$work/data/fve.2" ] || fail "points of fve: $(cat "$work"/data/fve.*)"
[ "$(sed -n '1p;6p' "$work/data/fve.1" | tr '\n' ' ')" = "1 1.5 1 6 0.5 1.16667 " ] || fail "running mean: $(cat "$work/data/fve.1")"
[ "$(sed -n 2p "$work/data/response_tokens_mean.2")" = "2 7 7" ] || fail "the second run: $(cat "$work"/data/response*)"
grep -q "title 'other response_tokens_mean'" "$work/script" || fail "the second run has no title"
plot "$work/av"
[ "$(cat "$work/data/held_loss_other_vector.3")" = "6 2.25 2.25" ] || fail "of nla-sft: $(ls "$work/data")"
[ "$(wc -l <"$work/data/loss.1")" -eq 12 ] || fail "loss of nla-sft: $(ls "$work/data")"
plot "$work/rl" "$work/av" # whichever comes first; a step of nla-train has a loss of its own
[ "$(wc -l <"$work/data/loss.1")" -eq 12 ] && ! grep -q "title 'rl loss'" "$work/script" || fail "loss beside nla-train: $(cat "$work/script")"
grep -v held "$work/av/metrics.jsonl" >"$work/without" && mv "$work/without" "$work/av/metrics.jsonl" # --sft.held_out 0
plot "$work/av"
[ "$(grep -c '^plot' "$work/script")" -eq 1 ] || fail "nothing held out: $(cat "$work/script")"
! plot "$work/none" 2>"$work/stderr" && grep -q "cannot read '$work/none/metrics.jsonl'" "$work/stderr" || fail "a missing run: $(cat "$work/stderr")"
: >"$work/empty/metrics.jsonl"
! plot "$work/empty" 2>"$work/stderr" && grep -q "has no step" "$work/stderr" || fail "an empty run: $(cat "$work/stderr")"
# Nothing in a folder's name is a command or an escape, and without a picture it is a failure.
odd="$work/a\\t%d \"@x\" \`touch hacked\` d'e"
cp -R "$work/rl" "$odd" && rm -f "$odd/run.png"
plot "$odd" "$work/other" && [ "$(cat "$odd/run.png")" = picture ] || fail "an odd name: $(ls "$odd")"
grep -Fq "title 'a\\t%d \"@x\" \`touch hacked\` d''e fve'" "$work/script" || fail "the odd name's title: $(cat "$work/script")"
: >"$work/broken"
rm "$odd/run.png"
! plot "$odd" 2>"$work/stderr" && [ ! -e "$odd/run.png" ] && [ "$(cat "$work/stderr")" = "plot-run: no picture: gnuplot says: a warning" ] ||
	fail "without a picture: $(cat "$work/stderr")"
command -v gnuplot >/dev/null || skip "the scripts for gnuplot are right; without gnuplot none was drawn"
(cd "$work" && sh "$SOURCE_DIR/scripts/plot-run.sh" "$odd" && [ ! -e hacked ]) && [ "$(head -c 4 "$odd/run.png" | tail -c 3)" = PNG ] || fail "no picture of an odd name"
sh "$SOURCE_DIR/scripts/plot-run.sh" "$work/rl" "$work/other" "$work/av" && [ "$(head -c 4 "$work/rl/run.png" | tail -c 3)" = PNG ] || fail "no picture"
