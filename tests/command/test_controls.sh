# nla-controls: texts of every control, scored as nla-eval scores them alone, kept, made anew where the evaluation is another, whole or
# not at all; the base's first words as long as a run's; what nla-compare makes of them.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
for lambda in 0 0.5; do
	train --out "$work/runs/l$lambda" --lambda $lambda --steps 1 --lr 1e-4 --ar_update.enabled --ar_update.lr 1e-2 --eval.data "$work/held" --eval.rows 8
	ok nla-eval "$work/runs/l$lambda" --rows 8
done
python3 - "$work/runs" "$work/held" <<'END'
import gzip, json, sys
texts = [json.loads(line)["text"].split() for line in gzip.open(sys.argv[2] + "/rows.jsonl.gz", "rt")]
for name, count, tokens in (("l0", 24, 50), ("l0.5", 9, 12)): # as if they had written more than letters, and one had failed
    path = f"{sys.argv[1]}/{name}/evaluations/step-1/rows.jsonl"
    lines = [json.loads(line) for line in open(path)]
    for i, x in enumerate(lines):
        x |= {"failed": None, "explanation": " ".join(texts[x["row"]][:count]), "n_explanation": tokens} if i != 3 else \
            {"failed": "no_tags", "explanation": None, "n_explanation": 0, "mse": 2, "mse_start_ar": 2}
    open(path, "w").write("".join(json.dumps(x) + "\n" for x in lines))
END
controls() { # CODE ARGUMENTS...
	want=$1
	shift
	code=0
	NLA_BUILD=${build:-$BUILD_DIR} python3 -B "$SOURCE_DIR/scripts/nla-controls" "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	[ "$code" -eq "$want" ] && ! grep -q Traceback "$work/stderr" || fail "nla-controls $* exits $code, want $want: $(cat "$work/stderr")"
}
settings="--threads 1 $on"
# shellcheck disable=SC2086
controls 0 "$work/runs" -- $settings

python3 - "$work/runs" "$work/held" "$SOURCE_DIR/scripts/nla-compare" <<'END'
import gzip, json, os, subprocess, sys
from statistics import mean

runs, held, program = sys.argv[1:]
rows_of = lambda path: [json.loads(line) for line in open(path + "/rows.jsonl")]
load = lambda path: (rows_of(path), json.load(open(path + "/summary.json")))
texts = [json.loads(line)["text"] for line in gzip.open(held + "/rows.jsonl.gz", "rt")]
near = lambda a, b: abs(a - b) < 1e-6
compared = {g["label"]: g for g in json.loads(subprocess.run([sys.executable, "-B", program, "--json", "--resamples", "100", runs], capture_output=True, text=True, check=True).stdout)["groups"]}
for name, label in (("l0", "λ 0"), ("l0.5", "λ 0.5")):
    own, summary = load(f"{runs}/{name}/evaluations/step-1")
    ok = [r for r in own if not r["failed"]]
    assert 1 < len(ok) < len(own), f"{len(ok)} of {len(own)}: the test needs failures, and more than one row without"
    longest = max(len(r["explanation"].split()) for r in ok)
    want = {"another", "empty", "text", "shuffled"} | {f"first-{k}" for k in (2, 4, 8, 16, 32) if k < longest} | ({"first"} if name != "l0" else set())
    found = {p.removeprefix("step-1-") for p in os.listdir(f"{runs}/{name}/evaluations") if p.startswith("step-1-")}
    assert found == want and not [p for p in os.listdir(f"{runs}/{name}/evaluations") if p.startswith(".")], (found, want)
    shown = {c["name"]: c for c in compared[label]["controls"]}
    assert shown.keys() == want | {""} and near(compared[label]["fve_start_ar"]["mean"], 1 - mean(r["mse_start_ar"] for r in ok) / summary["baseline_var"])
    for control in sorted(want):
        lines, s = load(f"{runs}/{name}/evaluations/step-1-{control}")
        assert [x["row"] for x in lines] == [r["row"] for r in own] and s["rows"] == len(lines) and all("mse_start_ar" in x for x in lines)
        good = [x for x in lines if not x["failed"]]
        assert near(s["fve"], 1 - mean(x["mse"] for x in good) / s["baseline_var"]) and near(shown[control]["fve"], s["fve"]), control
        pairs = [x["mse"] - r["mse"] for x, r in zip(lines, own) if not x["failed"] and not r["failed"]]
        assert near(shown[control]["difference"]["estimate"], -mean(pairs) / s["baseline_var"]), control
        if control == "another":
            continue
        assert near(s["fve_start_ar"], 1 - mean(x["mse_start_ar"] for x in good) / s["baseline_var"])
        for x, r in zip(lines, own):
            if control in ("empty", "text"):
                assert x["failed"] is None and x["explanation"] == ("" if control == "empty" else texts[r["row"]].strip()), (control, x)
            elif control != "first":
                assert x["failed"] == r["failed"], (control, x, r)
                if control == "shuffled" and not x["failed"]:
                    assert sorted(x["explanation"].split()) == sorted(r["explanation"].split()), (x, r)
                elif not x["failed"]:
                    assert x["explanation"].split() == r["explanation"].split()[:int(control[6:])], (control, x, r)
base = rows_of(f"{runs}/l0/evaluations/step-1")
lines, s = load(f"{runs}/l0.5/evaluations/step-1-first")
for x, r in zip(lines, base):
    assert x["failed"] == r["failed"] and (x["failed"] or r["explanation"].startswith(x["explanation"]) and x["explanation"]), (x, r)
assert abs(mean(x["n_explanation"] for x in lines if not x["failed"]) - 12) <= 0.5 and s["control"]["of"] == "λ 0", s
assert any(x["explanation"] != r["explanation"] for x, r in zip(rows_of(f"{runs}/l0/evaluations/step-1-shuffled"), base) if not r["failed"])
END

# Every line of a control has the score of its own text, alone as among all the others.
at=$work/runs/l0.5/evaluations/step-1
for control in shuffled first; do
	python3 - "$at-$control" alone >"$work/alone.jsonl" <<'END'
import json, sys
for line in map(json.loads, open(sys.argv[1] + "/rows.jsonl")):
    if not line["failed"]:
        print(json.dumps({"row": line["row"], "explanation": line["explanation"]}))
END
	ok nla-eval "$work/runs/l0.5" --score "$work/alone.jsonl" --out "$work/alone-$control"
	python3 - "$at-$control" "$work/alone-$control" <<'END'
import json, sys
together, alone = ([x for x in map(json.loads, open(path + "/rows.jsonl")) if not x["failed"]] for path in sys.argv[1:])
assert [x["row"] for x in together] == [x["row"] for x in alone]
for a, b in zip(together, alone):
    assert all(abs(a[key] - b[key]) < 2e-5 for key in ("mse", "mse_start_ar")) and a["n_explanation"] == b["n_explanation"], (a, b)
END
done

# What stands is kept without a program; what is gone, or of another text, is made anew, and nothing else.
mkdir "$work/fake"
fake() { # CODE
	printf '#!/bin/sh\nexit %s\n' "$1" >"$work/fake/nla-eval"
	chmod +x "$work/fake/nla-eval"
}
fake 1
inodes() { (cd "$work/runs" && stat -c '%n %i' ./*/evaluations/*/rows.jsonl); }
inodes >"$work/before"
build=$work/fake controls 0 "$work/runs"
inodes >"$work/after"
same "$work/before" "$work/after"
rm -r "$at-shuffled"
sh -c ':' & # its number is nobody's
wait $!
mkdir -p "$work/runs/l0.5/evaluations/.controls/scored-1" "$work/runs/l0.5/evaluations/.controls-$(uname -n)-$!" # of those that were killed
build=$work/fake controls 1 "$work/runs"
said_last() { tail -n 1 "$work/stderr" | grep -Eq "$1" || fail "'$1' is not the last line: $(cat "$work/stderr")"; }
said_last "^nla-controls: error: '$work/runs/l0.5': nla-eval failed with exit code 1, see above"
fake 3
build=$work/fake controls 3 "$work/runs"
said_last "^nla-controls: stopped: what was made is kept; to continue: .*/nla-controls $work/runs"
[ -z "$(find "$work/runs" -name '.controls*')" ] || fail "leftovers: $(find "$work/runs" -name '.controls*')"
sed -i 's/"explanation": "\([^ "]*\) /"explanation": "other /' "$work/runs/l0.5/evaluations/step-1/rows.jsonl"
# shellcheck disable=SC2086
controls 0 "$work/runs" -- $settings
inodes | diff "$work/before" - | sed -n 's,^> \./\(.*\)/rows.jsonl .*,\1,p' | sort >"$work/made"
(cd "$work/runs" && ls -d l0.5/evaluations/step-1-shuffled l0.5/evaluations/step-1-first-2) | sort | comm -23 - "$work/made" >"$work/lacking"
[ ! -s "$work/lacking" ] && ! grep -Eq '^l0/|another|empty|text|first$' "$work/made" || fail "made anew: $(cat "$work/made")"

# Another row's vector is decoded as the evaluation was, by its summary; one that was not is made anew.
for setting in 'max_new_tokens 24' 'min_new_tokens 4' 'truncated "score"'; do
	set -- $setting
	for place in "$at" "$at-another"; do tool set "$place/summary.json" "$1" "$2"; done
done
tool set "$at-another/summary.json" max_new_tokens 40
printf '#!/bin/sh\nprintf "%%s\\n" "$*" >"%s/asked"\nexit 1\n' "$work" >"$work/fake/nla-eval"
build=$work/fake controls 1 "$work/runs/l0.5"
grep -q -- " --max-new-tokens 24 --rollout.min_new_tokens 4 --rollout.truncated score$" "$work/asked" || fail "decoded otherwise: $(cat "$work/asked")"
rm "$work/asked"
tool set "$at-another/summary.json" max_new_tokens 24
build=$work/fake controls 0 "$work/runs/l0.5"
[ ! -e "$work/asked" ] || fail "made anew, though decoded alike"

# Two calls at once have a folder each; what is scored must be what was asked for.
rm -r "$at-shuffled"
printf '#!/bin/sh\n: >"%s/waits"\nuntil [ -e "%s/go" ]; do sleep 0.1; done\nexec "%s/nla-eval" "$@"\n' "$work" "$work" "$BUILD_DIR" >"$work/fake/nla-eval"
# shellcheck disable=SC2086
NLA_BUILD=$work/fake python3 -B "$SOURCE_DIR/scripts/nla-controls" "$work/runs/l0.5" -- $settings >/dev/null 2>"$work/said" &
until [ -e "$work/waits" ]; do sleep 0.1; done
# shellcheck disable=SC2086
controls 0 "$work/runs/l0.5" -- $settings
touch "$work/go"
wait $! || fail "two at once: $(cat "$work/said")"
python3 - "$at" "$at-shuffled" <<'END'
import json, sys
own, shuffled = ([json.loads(line) for line in open(path + "/rows.jsonl")] for path in sys.argv[1:])
assert all(a["failed"] or sorted(a["explanation"].split()) == sorted(b["explanation"].split()) for a, b in zip(own, shuffled)), (own, shuffled)
END
[ -z "$(find "$work/runs" -name '.controls*')" ] || fail "leftovers of two: $(find "$work/runs" -name '.controls*')"
rm -r "$at-shuffled" "$at-text"
cat >"$work/fake/nla-eval" <<END
#!/bin/sh
"$BUILD_DIR/nla-eval" "\$@" || exit
while [ "\$1" != --out ]; do shift; done
tac "\$2/rows.jsonl" >"\$2/tac" && mv "\$2/tac" "\$2/rows.jsonl"
END
# shellcheck disable=SC2086
build=$work/fake controls 1 "$work/runs/l0.5" -- $settings
said_last "^nla-controls: error: '$work/runs/l0.5': nla-eval scored other texts than it was asked for"

# Of an evaluation that another AR made, with the same texts, none stands.
sed -i 's/"mse": *[0-9.e-]*/"mse": 0.4321/' "$work/runs/l0.5/evaluations/step-1/rows.jsonl"
inodes >"$work/before"
# shellcheck disable=SC2086
controls 0 "$work/runs" -- $settings
inodes | diff "$work/before" - | sed -n 's,^> \./\(.*\)/rows.jsonl .*,\1,p' >"$work/made"
for name in another empty text shuffled first-2; do
	grep -q "^l0.5/evaluations/step-1-$name$" "$work/made" || fail "$name stands, and the AR is another: $(cat "$work/made")"
done

# An evaluation without a run, whose options follow --. On the demo, too, another row's vector collapses.
ok nla-eval "$SOURCE_DIR/demo/config.json" --rows 12 --out "$work/lone"
# shellcheck disable=SC2086
controls 0 "$work/lone" -- "$SOURCE_DIR/demo/config.json" $settings
python3 - "$work/lone" <<'END'
import json, sys
fve = {name: json.load(open(f"{sys.argv[1]}/{name}/summary.json"))["fve"] for name in (".", "controls/another", "controls/empty", "controls/first-8")}
assert fve["controls/another"] < 0.05 < 0.5 < fve["."] and fve["controls/empty"] < fve["controls/first-8"] < fve["."], fve
END

# What it names is looked for around it, not where one is; a run that moved has its own checkpoints.
printf '#!/bin/sh\nprintf "%%s\\n" "$*" >"%s/asked"\nexit 1\n' "$work" >"$work/fake/nla-eval"
asked() { # FLAGS: they are those of nla-eval, in this order
	grep -q -- "^$1 " "$work/asked" || fail "want '$1', not: $(cat "$work/asked")"
}
mkdir -p "$work/project/sets" "$work/reader/sets" "$work/moved"
cp -R "$SOURCE_DIR/demo/eval" "$work/project/sets/demo"
cp -R "$work/held" "$work/reader/sets/demo"
for folder in project reader; do mkdir -p "$work/$folder/its/model" "$work/$folder/its/av" "$work/$folder/its/ar"; done
mkdir "$work/project/old" && cp "$work/lone/rows.jsonl" "$work/lone/summary.json" "$work/project/old"
for key in model av ar; do tool set "$work/project/old/summary.json" "$key" "\"its/$key\""; done
tool set "$work/project/old/summary.json" data '"sets/demo"'
cd "$work/reader"
old=$work/project/old there=$work/project
build=$work/fake controls 1 ../project/old
asked "--model $there/its/model --av $there/its/av --ar $there/its/ar --data $there/sets/demo"
mv "$there/sets/demo" "$there/sets/other"
build=$work/fake controls 1 ../project/old
said_last "^nla-controls: error: 'sets/demo', which '../project/old' names as its data, is not here: give --data SET$"
cp -R sets/demo "$there/sets" # another set of that name
build=$work/fake controls 1 ../project/old
said_last "^nla-controls: error: 'sets/demo', .* is not here: give --data SET$"
rm -r "$there/its/av"
build=$work/fake controls 1 --data "$there/sets/other" ../project/old
said_last "^nla-controls: error: 'its/av', which '../project/old' names as its av, is not here: give -- --av PATH$"
build=$work/fake controls 1 --data "$there/sets/other" ../project/old -- --av its/av
asked "--model $there/its/model --ar $there/its/ar --av its/av --data $there/sets/other"
cd "$work"
mv runs/l0 moved && rm -r moved/l0/evaluations/step-1-empty
build=$work/fake controls 1 moved/l0/evaluations/step-1
asked "--model $tiny/model --av $work/moved/l0/checkpoints/step-1/av --ar $work/moved/l0/checkpoints/step-1/ar --data $work/held"
controls 2
controls 1 "$work/nowhere"
said_last "^nla-controls: error: there is no '$work/nowhere'"
