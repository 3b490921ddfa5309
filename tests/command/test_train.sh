# nla-train: what a run writes, that it repeats, what it refuses, and that only what is trained moves.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av

# No steps: the start is evaluated once and saved, and what it fixes for a sweep, the micro-batch, is written down.
train --out "$work/start" --steps 0 --eval.data "$work/held" --rows 8
[ "$(grep -c 'eval at step' "$work/stderr")" = 1 ] || fail "the start is evaluated $(grep -c 'eval at step' "$work/stderr") times"
grep -Eq '"micro_batch": [1-9]' "$work/start/checkpoints/step-0/state.json" || fail "no micro-batch: $(cat "$work/start/checkpoints/step-0/state.json")"
# So it is without anything to evaluate, and in supervised training.
train --out "$work/bare" --steps 0
ok nla-sft --role ar --model "$tiny/model" --data "$work/train" --out "$work/bare-ar" --steps 0 --batch 4 --sft.held_out 0.1
[ -e "$work/bare/checkpoints/step-0/state.json" ] && [ -d "$work/bare-ar/checkpoints/step-0/ar" ] && grep -q '"step":0,' "$work/bare-ar/metrics.jsonl" ||
	fail "no steps save nothing: $(cat "$work/stderr")"
# Its new A is of random numbers of its own, not those that a warm start of the same seed began with, whose B of zeros is warned of.
fresh=$work/fresh/checkpoints/latest/av
ok nla-sft --role av --model "$tiny/model" --data "$work/train" --out "$work/fresh" --steps 1 --batch 4 --lr 0 --sft.held_out 0.1 \
	--lora.rank 4 --lora.alpha 8
tool distance "$fresh/adapter_model.safetensors" "$work/start/checkpoints/step-0/adapter/adapter_model.safetensors" \
	base_model.model.model.layers.0.self_attn.q_proj.lora_A >"$work/distance"
[ "$(cat "$work/distance")" != 0 ] || fail "RL's new A is that of the warm start"
av=$fresh train --out "$work/untrained" --steps 0
grep -q 'every B is zero, so it changes nothing' "$work/stderr" || fail "no word of a B of zeros: $(cat "$work/stderr")"
ok nla-eval "$work/start" --rows 8
cmp -s "$work/start/eval-0.rows.jsonl" "$work/start/evaluations/step-0/rows.jsonl" || python3 - "$work/start" <<'END'
import json, sys
one, other = ([json.loads(line) for line in open(sys.argv[1] + name)] for name in ("/eval-0.rows.jsonl", "/evaluations/step-0/rows.jsonl"))
assert [r["ids"] for r in one] == [r["ids"] for r in other]
END

# --quiet: nothing but warnings and errors on stderr; log.txt has the rest.
train --out "$work/quiet" --steps 1 --quiet
[ ! -s "$work/stderr" ] || fail "--quiet says: $(cat "$work/stderr")"
grep -q '^step 1/1 ' "$work/quiet/log.txt" && grep -q '^done: 1 steps' "$work/quiet/log.txt" || fail "log.txt of a quiet run: $(cat "$work/quiet/log.txt")"
refused 1 "no_such_set" nla-train --quiet --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/no_such_set" --out "$work/none"

train --out "$work/a" --steps 4 --checkpoint.every 2 --eval.data "$work/held" --rows 8 --log.samples_every 2 --lambda 0.002
grep -q 'lambda 0.002 in units of fve a token' "$work/stderr" || fail "the unit of lambda is not said"
grep -q '^FVE (raw variance)' "$work/stdout" || fail "no table of before and after"
grep -q '^row [0-9]' "$work/stdout" || fail "no explanations before and after"

# The run folder, and nothing else in it.
names=$(ls "$work/a" | tr '\n' ' ')
evals="eval-0.json eval-0.rows.jsonl eval-4.json eval-4.rows.jsonl"
[ "$names" = "checkpoints config.json $evals inputs.json log.txt metrics.jsonl reference samples.jsonl " ] ||
	fail "the run folder holds: $names"
[ "$(ls "$work/a/checkpoints" | tr '\n' ' ')" = "latest step-2 step-4 " ] || fail "checkpoints: $(ls "$work/a/checkpoints")"
[ "$(ls -A "$work/a/checkpoints" | wc -l)" -eq 3 ] || fail "something is left in checkpoints: $(ls -A "$work/a/checkpoints")"
[ "$(readlink "$work/a/checkpoints/latest")" = step-4 ] || fail "latest points to $(readlink "$work/a/checkpoints/latest")"
for file in config.json state.json optimizer.safetensors av/adapter_model.safetensors av/adapter_config.json av/nla_meta.yaml \
	ar/adapter_model.safetensors ar/value_head.safetensors ar/nla_meta.yaml; do
	[ -s "$work/a/checkpoints/latest/$file" ] || fail "the checkpoint has no $file"
done
grep -q 'step 4/4' "$work/a/log.txt" || fail "log.txt has no last step"
[ "$(wc -l <"$work/a/eval-4.rows.jsonl")" -eq 8 ] || fail "eval-4.rows.jsonl has not 8 rows"
# Samples of the first step and every second, a failed one where there are any; the probes' explanations from before the first step on.
cat >"$work/samples.py" <<'END'
import json, sys

samples = [json.loads(line) for line in open(sys.argv[1])]
assert all({"step", "row", "probe", "response", "fve", "tokens", "reward", "advantage", "failed"} <= s.keys() for s in samples)
steps = {s["step"] for s in samples if not s["probe"]}
assert steps == {1, 2, 4}, steps
failing = [json.loads(line)["failed_rate"] > 0 for line in open(sys.argv[2])]
for step in steps:
    causes = [s["failed"] for s in samples if s["step"] == step and not s["probe"]]
    assert len(causes) in (4, 5) and any(causes) == failing[step - 1], (step, causes)
    assert not any(causes[:4]) or len(causes) == 4, causes
probes = {step: [s["row"] for s in samples if s["step"] == step and s["probe"]] for step in (0, 2, 4)}
assert len(set(probes[0])) == 3 and probes[0] == probes[2] == probes[4], probes
assert sum(s["probe"] for s in samples) == 9
assert all(s["response"] and s["reward"] is None and s["advantage"] is None for s in samples if s["probe"])
END
python3 "$work/samples.py" "$work/a/samples.jsonl" "$work/a/metrics.jsonl"
[ "$(grep -Ec '^  row [0-9]+, .* -> .*[0-9]+ tokens(, failed, [a-z_]+)?: ' "$work/a/log.txt")" -eq 9 ] || fail "no probes in log.txt"
tail -n 1 "$work/a/log.txt" | grep -Eq "^done: 4 steps, '$work/a/checkpoints/step-4', after .*; next: nla-explain " || fail "no last line"
# The command that it names is one.
sed -n "\$s|.*; next: nla-explain|$BUILD_DIR/nla-explain --threads 1 $on|p" "$work/a/log.txt" >"$work/next"
sh "$work/next" >"$work/stdout" 2>"$work/stderr" && grep -q '"explanation"' "$work/stdout" || fail "$(cat "$work/next"): $(cat "$work/stderr")"

# The warm start shows its held-out figures and the probes' explanations, before the first step too.
python3 - "$work/sft/metrics.jsonl" "$work/sft/samples.jsonl" <<'END'
import json, sys

metrics, samples = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert metrics[0]["step"] == 0 and metrics[0]["loss"] is None and len(metrics) == 101
held = [(m["step"], m["held_loss"], m["held_loss_other_vector"]) for m in metrics if "held_loss" in m]
assert [step for step, *_ in held] == [0, 100] and held[1][1] < held[0][1] - 1, held
rows = [[s["row"] for s in samples if s["step"] == step] for step in (0, 100)]
assert rows[0] == rows[1] and len(set(rows[0])) == 2 and len(samples) == 4 and all(s["probe"] for s in samples), rows
assert all(s["fve"] is None and s["tokens"] > 0 for s in samples)
assert any("</explanation>" in s["response"] for s in samples[2:]), "the fixture's AV closes no tags"
END

# config.json is resolved: every key, those of the command line, the defaults, absolute paths; and it is a configuration.
for pair in rollout.group=4 reward.lambda=0.002 update.clip=0.2 lora.rank=4 reward.score=fve seed=0 "av=$work/av" \
	"out=$work/a"; do
	[ "$(tool get "$work/a/config.json" "${pair%%=*}")" = "${pair#*=}" ] || fail "config.json: want $pair"
done
python3 - "$work/a/metrics.jsonl" <<'END'
import json, sys

lines = [json.loads(line) for line in open(sys.argv[1])]
assert [line["step"] for line in lines] == [1, 2, 3, 4]
wanted = """step reward_mean reward_std fve fve_meannorm fve_all mse cosine response_tokens_mean response_tokens_p10
response_tokens_p50 response_tokens_p90 explanation_tokens_mean penalty_mean score_within_std penalty_within_std failed_rate
failed_no_tags failed_empty failed_truncated failed_over_long failed_merges unstopped_rate groups_failed groups_tied warnings unique_explanations kl kl_clamped entropy
 clip_frac sampler_gap loss
grad_norm lr skipped_steps ar_loss seconds_rollout seconds_score seconds_update seconds_eval seconds_checkpoint seconds
tokens_per_second live_tensors peak_memory_bytes""".split()
for line in lines:
    absent = [key for key in wanted if key not in line]
    assert not absent, absent
    assert 0 <= line["sampler_gap"] < 1e-4, line["sampler_gap"]
    assert line["clip_frac"] == 0 and line["skipped_steps"] == 0 and line["ar_loss"] is None and line["grad_norm"] > 0
    assert abs(line["penalty_mean"] - 0.002 * line["response_tokens_mean"]) < 1e-9
    assert line["failed_rate"] < 1 and line["unique_explanations"] >= 1, "the fixture's AV closes no tags"
    assert abs(line["cosine"] - (1 - line["mse"] / 2)) < 1e-6
assert abs(lines[0]["kl"]) < 1e-6 and any(abs(line["kl"]) > 1e-6 for line in lines[1:]), "the anchor moves with the policy"
assert lines[2]["seconds_checkpoint"] > 0 and lines[0]["seconds_checkpoint"] == 0
END

# The same again, from the resolved configuration; another seed; no penalty.
ok nla-train "$work/a/config.json" --out "$work/b"
tool lines "$work/a/metrics.jsonl" "$work/b/metrics.jsonl"
same "$work/a/checkpoints/latest/av/adapter_model.safetensors" "$work/b/checkpoints/latest/av/adapter_model.safetensors"
same "$work/a/eval-4.rows.jsonl" "$work/b/eval-4.rows.jsonl"
ok nla-train "$work/a/config.json" --out "$work/c" --seed 1
differ "$work/a/checkpoints/latest/av/adapter_model.safetensors" "$work/c/checkpoints/latest/av/adapter_model.safetensors"
# Micro-batches change the rounding and nothing else.
ok nla-train "$work/a/config.json" --out "$work/m" --update.micro_batch 3 --steps 1
python3 - "$work/a/metrics.jsonl" "$work/m/metrics.jsonl" <<'END'
import json, sys

one, other = (json.loads(open(path).readline()) for path in sys.argv[1:])
for key in ("reward_mean", "response_tokens_mean", "fve"):
    assert one[key] == other[key], key
for key in ("loss", "kl", "grad_norm", "entropy"):
    assert abs(one[key] - other[key]) <= 1e-4 * max(1, abs(one[key])), (key, one[key], other[key])
END

# Without the KL the reference does not run: its numbers are null, which is said once. A start whose every row fails learns nothing of it,
# whatever lambda: the policy stays as it was, and a warning says so.
train --out "$work/k" --steps 2 --update.kl 0
[ "$(grep -c 'update.kl is 0: the reference does not run' "$work/stderr")" -eq 1 ] || fail "nothing said of update.kl 0"
grep -q 'kl off' "$work/stderr" || fail "a number where there is no kl"
train --out "$work/k2" --steps 2 --update.kl 0 --eval.data "$work/held" --rows 8 # its evaluations have one
python3 -c 'import json, sys; a, b = (json.load(open(f"{sys.argv[1]}/eval-{i}.json"))["kl"] for i in (0, 2)); assert abs(a) < 1e-6 < b, (a, b)' "$work/k2"
train --out "$work/f" --steps 11 --max-new-tokens 3 --lambda 0.01 --update.kl 0
[ "$(grep -c 'warning: groups_failed: groups_failed has been above 0.5 for 10 steps, and is 1: a group without' "$work/stderr")" -eq 1 ] ||
	fail "no warning of failing groups: $(grep warning "$work/stderr")"
# At once, and once, with the cause that leads, what it is likely to come from, and a text; whose samples say it too.
[ "$(grep -c 'warning: 100% of the responses failed' "$work/stderr")" -eq 1 ] || fail "failures are not said once: $(cat "$work/stderr")"
grep -A 1 '^step 1/11 ' "$work/stderr" | grep -q 'most as truncated (no stop token .*: likely, rollout.max_new_tokens is too small.* One of them: .' ||
	fail "no cause: $(grep warning "$work/stderr")"
grep -q '^step 1/11  fve -  ' "$work/stderr" || fail "fve of no row: $(grep '^step 1/' "$work/stderr")"
grep '"step":1,' "$work/f/samples.jsonl" | grep -q '"response":"..*","failed":"truncated"' || fail "no failed response in the samples"
train --out "$work/f2" --steps 1 --max-new-tokens 3 --eval.data "$work/held" --rows 8
grep -q '^  before (failed, truncated): .' "$work/stdout" || fail "the table hides the failures' texts: $(cat "$work/stdout")"
grep -q '^eval at step 0: fve - (mean-normalised -)' "$work/stderr" && ! grep -qi nan "$work/stderr" "$work/stdout" || fail "nan: $(cat "$work/stderr" "$work/stdout")"
# One valid row has no standard error.
python3 - "$work/k/metrics.jsonl" "$work/f/metrics.jsonl" <<'END'
import json, sys

one, failing = ([json.loads(line) for line in open(path)] for path in sys.argv[1:])
assert all(line["kl"] is None and line["kl_clamped"] is None and line["grad_norm"] > 0 for line in one)
for line in failing:
    assert line["groups_failed"] == 2 and line["failed_rate"] == 1 and line["fve"] is None
    assert line["grad_norm"] == 0 and line["loss"] == 0, (line["grad_norm"], line["loss"])
END

train --out "$work/k2" --steps 3 --update.kl 0 --eval.data "$work/held" --rows 8 --resume --eval.logprob false --guard kl
grep -q "^warning: 'guard' is 'kl', but with 'update.kl' 0" "$work/stderr" || fail "a guard that cannot fire is not named"
! grep -q '"kl"' "$work/k2/eval-3.json" || fail "--eval.logprob false has a KL"

# Where `guard` names it, it ends the run after its line; here it began with the first step.
run nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 3 --steps 14 \
	--checkpoint.every 4 --guard kl,groups_failed --out "$work/guarded"
[ "$code" -eq 1 ] || fail "a guard exits $code: $(tail -n 1 "$work/stderr")"
said "step 10, no checkpoint is from before it began: guard groups_failed: groups_failed has been above 0.5 for 10 steps, and is 1: "
tail -n 1 "$work/guarded/metrics.jsonl" | grep -q '"step":10,.*"warnings":\["entropy","length","groups_failed"\]' || fail "the last line: $(tail -n 1 "$work/guarded/metrics.jsonl")"
[ "$(ls "$work/guarded/checkpoints" | tr '\n' ' ')" = "latest step-4 step-8 " ] || fail "checkpoints: $(ls "$work/guarded/checkpoints")"
# The checkpoint from before it began stays, past a resume and one more.
good() { run nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 --max-new-tokens 12 \
	--lr 0.1 --rollout.truncated score --checkpoint.every 1 --checkpoint.keep 1 --guard groups_failed --out "$work/good" "$@"; }
good --steps 4
for steps in 5 6 14; do good --resume --steps "$steps"; done
said "step 11, the last good state is checkpoints/step-1: guard groups_failed: groups_failed has been above 0.5 for 10 steps"
[ "$(ls "$work/good/checkpoints" | tr '\n' ' ')" = "latest step-1 step-10 " ] || fail "checkpoints: $(ls "$work/good/checkpoints")"
refused 2 "'guard' is 'kl,nothing': want some of entropy, kl, " nla-train --guard kl,nothing --check
refused 2 "'guard' is 'kl', but with 'update.kl' 0 a step has no KL" nla-train --guard kl --update.kl 0 --check
refused 2 "'guard' is 'ar', but 'ar_update.enabled' is not set" nla-train --guard ar --check
# The checkpoint of the best evaluation by reward stays, and is made where none is due. Evaluations of its step and of later ones, which a
# killed run may have left, do not count.
best() { # FLAG...: evaluated at each step
	rm -rf "$work/best"
	mkdir "$work/best"
	for step in 0 1 2 3 4 5 6; do echo '{"reward": 1000}' >"$work/best/eval-$step.json"; done
	train --out "$work/best" --steps 6 --lambda 0.01 --eval.data "$work/held" --rows 12 --eval.every 1 --checkpoint.every 0 --checkpoint.keep 1 \
		--checkpoint.best "$@"
	python3 - "$work/best" <<'END'
import json, os, sys
run = sys.argv[1]
reward = [json.load(open(f"{run}/eval-{step}.json"))["reward"] for step in range(7)]
best = reward.index(max(reward))
assert os.readlink(run + "/checkpoints/best") == f"step-{best}", (reward, os.readlink(run + "/checkpoints/best"))
assert set(os.listdir(run + "/checkpoints")) == {"best", "latest", f"step-{best}", "step-6"}, (best, os.listdir(run + "/checkpoints"))
rows = [json.loads(line) for line in open(f"{run}/eval-{best}.rows.jsonl")]
summary = json.load(open(f"{run}/eval-{best}.json"))
assert abs(summary["reward"] - sum(r["fve"] - 0.01 * r["n_response"] for r in rows) / 12) < 1e-6
print(best)
END
}
best --lr 0.003 # which is best depends on the processor
for lr in 10 9 8 7; do # steps that leave chance, of whose seven evaluations the last is seldom the best
	at=$(best --lr $lr | tail -n 1)
	case $at in [0-5]) break ;; 6) ;; *) fail "the best of steps at $lr: '$at'" ;; esac
done
[ "$at" -lt 6 ] || fail "four times the last evaluation is the best"

# One by other rows says nothing of which is the best, nor does what is no evaluation.
echo '{"reward": 1000, "rows": 12}' >"$work/best/eval-0.json"
echo 'no JSON' >"$work/best/eval-1-old.json"
train --out "$work/best" --steps 7 --lambda 0.01 --eval.data "$work/held" --rows 10 --eval.every 1 --checkpoint.every 0 --checkpoint.keep 1 \
	--checkpoint.best --lr "$lr" --resume
[ "$(readlink "$work/best/checkpoints/best")" = step-7 ] || fail "best of 10 rows: $(readlink "$work/best/checkpoints/best")"
# A kill between such a checkpoint and its link is made up for, and what was evaluated beyond a checkpoint is not the run's.
rm "$work/best/checkpoints/best"
touch "$work/best/eval-9.json" "$work/best/eval-9.rows.jsonl"
train --out "$work/best" --steps 7 --lambda 0.01 --eval.data "$work/held" --rows 10 --eval.every 1 --checkpoint.every 0 --checkpoint.keep 1 \
	--checkpoint.best --lr "$lr" --resume
[ "$(readlink "$work/best/checkpoints/best")" = step-7 ] || fail "best of a run that was killed before its link"
[ -e "$work/best/eval-7.rows.jsonl" ] && ! ls "$work/best"/eval-9.* 2>/dev/null || fail "evaluations of steps that are made again stay"
refused 2 "'checkpoint.best' is set, but not 'eval.data'" nla-train --model "$tiny/model" --checkpoint.best --check

# Gradients that are not finite: such steps are skipped and counted, and several in a row end the run.
set -- --out "$work/bad" --prompts 6 --lr 0 --update.max_bad_steps 3
train "$@" --steps 1
# B is zero: with an A of 1e30 nothing changes but B's gradient, whose norm overflows.
tool scale "$work/bad/checkpoints/latest/optimizer.safetensors" av.param. 1e30
! (train "$@" --steps 9 --resume) 2>/dev/null || fail "gradients that are not finite end no run"
program=nla-train
said "gradients were not finite for 3 steps in a row: the last good state is '$work/bad/checkpoints/latest'"
[ "$(sed -n 's/.*"skipped_steps":\([0-9]*\).*/\1/p' "$work/bad/metrics.jsonl" | tr '\n' ' ')" = "0 1 2 3 " ] || fail "skipped: $(cat "$work/bad/metrics.jsonl")"
tail -n 1 "$work/bad/log.txt" | grep -q '^gradients were not finite for 3 steps' || fail "log.txt does not say why the run ended"

# The watchdog names what hangs, and for how long; here its alarm comes early, at a known point. (Stages of a step: model/test_watch.c.)
watched() { # FILE LINE WHAT ...: when that line of the file has been written
	at=$1 line=$2 what=$3
	shift 3
	signalled "$at" "$line" ALRM nla-train --model "$tiny/model" --av "$work/av" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 \
		--max-new-tokens 8 --steps 4 --watchdog 900 --overwrite --out "$work/watched" "$@"
	[ "$code" -eq 0 ] || fail "a watchdog ends the run: $code"
	grep -qx "warning: $what has been at work for 900 s, and has not ended" "$work/stderr" || fail "the watchdog says: $(grep warning "$work/stderr")"
}
watched metrics.jsonl 3 "step 3"
watched eval-4.rows.jsonl.tmp 1 "the evaluation at step 4" --eval.data "$work/held" --rows 8
watched eval-4.rows.jsonl.tmp 1 "the evaluation at step 4" --eval.data "$work/held" --rows 8 --update.kl 0 # behind log-probabilities
watched samples.jsonl 8 "step 4" # in a probe
watched state.json.tmp 1 "the checkpoint of step 4" # behind a probe

# A frozen AR stays as it is, bit for bit; a co-trained one moves, its head only if told to.
tool equal "$tiny/ar/value_head.safetensors" "$work/a/checkpoints/latest/ar/value_head.safetensors"
tool equal "$tiny/ar/adapter_model.safetensors" "$work/a/checkpoints/latest/ar/adapter_model.safetensors"
same "$work/a/checkpoints/step-2/ar/adapter_model.safetensors" "$work/a/checkpoints/step-4/ar/adapter_model.safetensors"
train --out "$work/d" --steps 2 --ar_update.enabled true --ar_update.lr 1e-3
differ "$work/a/checkpoints/latest/ar/adapter_model.safetensors" "$work/d/checkpoints/latest/ar/adapter_model.safetensors"
tool equal "$tiny/ar/value_head.safetensors" "$work/d/checkpoints/latest/ar/value_head.safetensors"
python3 -c 'import json, sys; assert json.loads(open(sys.argv[1]).readline())["ar_loss"] > 0' "$work/d/metrics.jsonl"
train --out "$work/e" --steps 2 --ar_update.enabled true --ar_update.lr 1e-3 --ar_update.train_head
apart equal "$tiny/ar/value_head.safetensors" "$work/e/checkpoints/latest/ar/value_head.safetensors" # train_head did not train the head

# Groups that spread less than advantage.min_std teach nothing, and are counted.
train --out "$work/tied" --steps 1 --advantage.min_std 100
grep -q '"groups_failed":0,"groups_tied":2,' "$work/tied/metrics.jsonl" || fail "groups without advantages: $(cat "$work/tied/metrics.jsonl")"
# A copy of a run, or a moved one, and what is none.
cp -R "$work/tied" "$work/copied"
refused 2 "the 'out' of '$work/copied/config.json' is '$work/tied': give --out $work/copied to resume it" nla-train "$work/copied/config.json" --resume
ok nla-train "$work/copied/config.json" --resume --out "$work/copied" --steps 2 --update.micro_batch 3
[ "$(wc -l <"$work/copied/metrics.jsonl")" -eq 2 ] && grep -q '"step":2,.*"micro_batch":3,' "$work/copied/metrics.jsonl" ||
	fail "a copy does not continue by itself, with another micro-batch: $(cat "$work/copied/metrics.jsonl")"
ok nla-train "$work/tied/checkpoints/latest/config.json" --resume # a checkpoint's own names its run
grep -q "^nothing left to do: '$work/tied' has made 1 steps" "$work/stderr" || fail "a checkpoint's configuration: $(cat "$work/stderr")"
cp -R "$tiny/model" "$work/model"
for flag in --overwrite --resume; do
	refused 2 "'$work/model' holds a config.json of something else, and is no run" nla-train "$work/tied/config.json" --out "$work/model" $flag
	refused 2 "'$work/held' holds nla_meta.yaml, and is no run" nla-train "$work/tied/config.json" --out "$work/held" $flag
done
same "$tiny/model/config.json" "$work/model/config.json"
refused 2 "'$work/model' has a config.json: it is a model or a run, give another --out" nla-extract --model "$tiny/model" --corpus "$work/train.jsonl" --out "$work/model"

# An existing run: refused, gone on with, or replaced; what else lies in its folder stays.
refused 2 "holds a run already" nla-train "$work/a/config.json"
refused 2 "'rollout.group' is 4 .* and 2 now" nla-train "$work/a/config.json" --resume --group 2
refused 2 "has another content than the 'data' that the run" nla-train "$work/a/config.json" --resume --data "$work/held" --eval.data ''
refused 2 "exclude each other" nla-train "$work/a/config.json" --resume --overwrite
[ "$(wc -l <"$work/a/metrics.jsonl")" -eq 4 ] || fail "a refusal changed the run"
mv "$work/b/config.json" "$work/b.json" # a folder that lost its configuration still holds a run's checkpoints
refused 2 "holds a run already" nla-train "$work/b.json"
echo mine >"$work/b/notes.txt"
echo mine >"$work/b/eval-2026-notes.json"
ok nla-train "$work/b.json" --overwrite --steps 2 --eval.data ''
[ "$(cat "$work/b/notes.txt" "$work/b/eval-2026-notes.json")" = "mine
mine" ] || fail "--overwrite took what is not the run's"
[ "$(wc -l <"$work/b/metrics.jsonl")" -eq 2 ] || fail "--overwrite kept lines of the former run"
[ ! -e "$work/b/eval-4.json" ] && [ ! -e "$work/b/checkpoints/step-4" ] || fail "--overwrite kept parts of the former run"
# What was not removed to its end is still a run: its lines are not taken for those of the next.
mkdir "$work/b/evaluations" "$work/b/evaluations/.tmp-old-1" # which libdeny keeps
(denied rmdir nla-train "$work/b.json" --overwrite --steps 2 --eval.data '') 2>/dev/null && fail "it is removed"
refused 2 "holds a run already" nla-train "$work/b.json" --eval.data ''
ok nla-train "$work/b.json" --resume --steps 2 --eval.data ''
[ "$(wc -l <"$work/b/metrics.jsonl")" -eq 2 ] || fail "lines of a run that was half removed: $(cat "$work/b/metrics.jsonl")"
# Without its evaluation set a finished run with eval files resumes, and prints no table.
ok nla-train "$work/a/config.json" --resume --eval.data ''
[ ! -s "$work/stdout" ] || fail "a table without an evaluation"
! grep 'memory plan is not the one' "$work/stderr" || fail "without an evaluation fewer rows decode at once, and no step's"

# Weights in bf16 on the CPU: the sampler agrees with the training pass, as in fp32 unless the processor multiplies in bf16, and an
# evaluation of the finished run with what the run said itself.
[ -n "${NLA_TEST_DEVICE:-}" ] || for gap in 0.02 1e-4; do
	[ $gap = 0.02 ] || export ATEN_CPU_CAPABILITY=default
	train --out "$work/w" --overwrite --dtype bf16 --steps 2 --eval.data "$work/held" --rows 8
	ok nla-eval --model "$tiny/model" --av "$work/w/checkpoints/latest/av" --ar "$work/w/checkpoints/latest/ar" --data "$work/held" \
		--rows 8 --max-new-tokens 40 --dtype bf16 --out "$work/w-eval" --overwrite
	python3 - "$work/a/metrics.jsonl" "$work/w/metrics.jsonl" "$work/w/eval-2.json" "$work/w-eval/summary.json" $gap <<'END'
import json, sys

fp32, bf16 = ([json.loads(line) for line in open(path)] for path in sys.argv[1:3])
run, again = (json.load(open(path)) for path in sys.argv[3:5])
for line in bf16:
    assert 0 <= line["sampler_gap"] < float(sys.argv[5]) and line["skipped_steps"] == 0 and line["grad_norm"] > 0, line
assert 0 < abs(bf16[0]["entropy"] - fp32[0]["entropy"]) < 0.05 * fp32[0]["entropy"], (bf16[0]["entropy"], fp32[0]["entropy"])
for key in ("response_tokens", "failed_rate", "fve"):
    assert abs(run[key] - again[key]) < 1e-4, (key, run[key], again[key])
END
done
unset ATEN_CPU_CAPABILITY

# An adapter that was read in bf16 and trained on is saved in fp32: an update below half a bf16 step stays.
cp -R "$tiny/av" "$work/half"
tool halve "$work/half/adapter_model.safetensors"
ok nla-sft --role av --av "$work/half" --model "$tiny/model" --data "$work/train" --out "$work/on" --steps 1 --batch 4 --lr 1e-6
[ "$(tool dtypes "$work/on/checkpoints/latest/av/adapter_model.safetensors" | sort -u)" = F32 ] || fail "a trained adapter is not in fp32"
