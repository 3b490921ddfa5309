# Run folders: what a run resumes with is known by its content, and housekeeping that fails ends no run.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av

cp -R "$work/av" "$work/av-given"
ok nla-train --model "$tiny/model" --av "$work/av-given" --ar "$tiny/ar" --data "$work/train" --prompts 3 --group 6 --max-new-tokens 40 \
	--lora.rank 4 --lora.alpha 8 --lr 1e-3 --out "$work/changed" --steps 4

# Content decides, not the path: a link, '..', a relative path, a copy, a moved set, and a moved run.
mv "$work/train" "$work/moved"
ln -s moved "$work/link"
cp -R "$work/moved" "$work/copy"
same_run() { # STEPS DATA OPTION ...
	n=$1 data=$2
	shift 2
	ok nla-train --model "$tiny/../tiny/model/" --ar "$tiny/ar" --prompts 3 --group 6 --max-new-tokens 40 --lora.rank 4 --lora.alpha 8 \
		--lr 1e-3 --data "$data" --steps "$n" --resume "$@"
}
same_run 5 "$work/link" --av "$work/av-given" --out "$work/changed"
same_run 6 "$work/../$(basename "$work")/copy/" --av "$work/av-given" --out "$work/changed"
mv "$work/changed" "$work/run-moved"
(cd "$work" && same_run 7 moved --av av-given --out run-moved)
(cd "$work/run-moved" && same_run 7 ../moved --av ../av-given --out .) # where a path that is not set is no run
[ "$(wc -l <"$work/run-moved/metrics.jsonl")" -eq 7 ] || fail "not seven steps"
# Of the same texts, with one vector of another set: refused.
python3 - "$work/copy/activations.safetensors" <<'EOF'
import sys
with open(sys.argv[1], "r+b") as f:
    f.seek(-2, 2)
    two = f.read(2)
    f.seek(-2, 2)
    f.write(bytes([two[0] ^ 1, two[1]]))
EOF
run nla-train --model "$tiny/model" --av "$work/av-given" --ar "$tiny/ar" --prompts 3 --group 6 --max-new-tokens 40 --lora.rank 4 \
	--lora.alpha 8 --lr 1e-3 --data "$work/copy" --steps 8 --resume --out "$work/run-moved"
[ "$code" -eq 2 ] || fail "another vector: exits $code"
said "cannot resume: '.*copy' has another content than the 'data' that the run in '.*run-moved' began with"
# A run of an older version has no inputs.json: there the path counts.
rm "$work/run-moved/inputs.json"
run nla-train --model "$tiny/model" --av "$work/av-given" --ar "$tiny/ar" --prompts 3 --group 6 --max-new-tokens 40 --lora.rank 4 \
	--lora.alpha 8 --lr 1e-3 --data "$work/link" --steps 8 --resume --out "$work/run-moved"
[ "$code" -eq 2 ] || fail "an older run, another path: exits $code"
said "cannot resume: 'model' is .*tiny/../tiny/model/.* in '.*config.json' and .*tiny/model.* now"

# Housekeeping: what fails behind a good checkpoint is said once, and ends neither the run nor its resumed one.
set -- --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/moved" --prompts 3 --group 4 --max-new-tokens 20 \
	--lora.rank 4 --lora.alpha 8 --checkpoint.every 1 --checkpoint.keep 1
out=$work/linkless
for steps in 3 5; do
	denied symlink nla-train "$@" --out "$out" --steps $steps --resume
	[ "$(grep -c "cannot make the link '.*latest': .*; name '.*step-N' with the largest N" "$work/stderr")" -eq 1 ] ||
		fail "no link: $(cat "$work/stderr")"
	[ "$(ls -A "$out/checkpoints")" = step-$steps ] || fail "no link: $(ls -A "$out/checkpoints")"
done
ok nla-train "$@" --out "$out" --steps 6 --resume # where there are links again
[ "$(readlink "$out/checkpoints/latest")" = step-6 ] || fail "no link where links can be made"
out=$work/kept
for steps in 3 5; do
	denied rmdir nla-train "$@" --out "$out" --steps $steps --resume
	[ "$(grep -c "warning, said once: cannot remove '.*/.tmp-old-[0-9]*/" "$work/stderr")" -eq 1 ] || fail "kept: $(cat "$work/stderr")"
	[ "$(readlink "$out/checkpoints/latest")" = step-$steps ] || fail "an old checkpoint keeps 'latest' behind"
done
ok nla-train "$@" --out "$out" --steps 6 --resume
[ "$(ls -A "$out/checkpoints" | tr '\n' ' ')" = "latest step-6 " ] || fail "left: $(ls -A "$out/checkpoints")"
# `latest` copied as a folder is a checkpoint like others, and a link again after the next one.
cp -RL "$out" "$work/copied"
ok nla-train "$@" --out "$work/copied" --steps 7 --resume
[ "$(readlink "$work/copied/checkpoints/latest")" = step-7 ] || fail "'latest' stays a folder"
cp -RL "$out" "$work/alone"
rm -rf "$work/alone/checkpoints/step-6"
ok nla-train "$@" --out "$work/alone" --steps 7 --resume
grep -q "from step 6" "$work/stderr" || fail "it did not resume from 'latest': $(head -n 5 "$work/stderr")"
tool lines "$work/copied/metrics.jsonl" "$work/alone/metrics.jsonl"
# Where the file system has no locks, that is said.
denied flock nla-train "$@" --out "$work/unlocked" --steps 1
grep -q "'.*unlocked' cannot be locked (No locks available)" "$work/stderr" || fail "no locks: $(cat "$work/stderr")"
