# docs/your-model.md: its commands as they stand, on the demo's model and stories; only the settings, the page's first block, are others.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
page=$SOURCE_DIR/docs/your-model.md
cd "$work"
awk '/^```sh$/ { n++; on = 1; next } /^```$/ { on = 0 } on { print >("block-" n ".sh") }' "$page"
[ -e block-6.sh ] && [ ! -e block-7.sh ] || fail "want six blocks of commands, found $(ls block-*)"
ln -s "$BUILD_DIR" build
mkdir scripts && ln -s "$SOURCE_DIR/scripts/sweep.sh" scripts

# What the page's settings name, smaller: the same names, and every other key as in the files that the page uses.
python3 - <<'END'
import json, os, subprocess, sys
source = os.environ["SOURCE_DIR"]
def story(number, split):
    return [json.loads(x)["text"] for x in subprocess.check_output([sys.executable, "-B", f"{source}/demo/stories.py", "corpus", "--seed", "5",
            "--docs", str(number), "--split", split, "--out", "/dev/stdout"], text=True).splitlines()]
open("stories.txt", "w").write("\n\n".join(story(600, "pretrain")) + "\n\nToo short to be a row.\n")
templates = json.loads(subprocess.check_output([sys.executable, "-B", f"{source}/demo/stories.py", "templates"], text=True))
def smaller(name, **sections):
    config = json.load(open(f"{source}/configs/small-{name}.json"))
    for key, value in sections.items():
        config[key] = {**config[key], **value} if isinstance(value, dict) and key in config else value
    json.dump(config, open(f"{name}.json", "w"))
common = {"threads": 1, "device": "cpu"}
smaller("set", extract={"next": 3}, templates={"av": templates["av"], "ar": templates["ar"], "marker": templates["injection_char"]},
        teach={"prompt": "Explain in <explanation> tags the last words, what comes next and the facts so far.\n{text}",
               "explanation": "{answer}", "max_new_tokens": 60, "tries": 2}, **common)
smaller("sft", steps=180, sft={"held_every": 20, "warmup": 4, "lr": 3e-3, "batch": 16}, **common)
smaller("rl", steps=2, rollout={"prompts": 2, "group": 4, "max_new_tokens": 80}, **common)
END
cat >settings.sh <<END
model=$SOURCE_DIR/demo/model
text=stories.txt
mine=runs/mine
set=set.json sft=sft.json rl=rl.json
sentence="One snowy morning, a brave rabbit called Finn felt lonely. His home was by the lake. A crow came and took his black book"
END
names() { grep -oE '(^| )[a-z]+=' "$1" | tr -d ' ' | sort; }
names block-1.sh >wanted
names settings.sh >given
same wanted given
for file in $(grep -oE 'configs/[a-z-]+[.]json' block-1.sh); do
	[ -e "$SOURCE_DIR/$file" ] || fail "the page's settings name '$file', which is not there"
done

cat settings.sh block-[2-6].sh >page.sh
set +e
bash -eu page.sh >said 2>stderr
code=$?
set -e
[ $code -eq 0 ] || fail "the page's commands exit $code: $(tail -n 3 stderr)"

for corpus in warm train eval; do
	[ "$(grep -c '<|doc|>' runs/mine/$corpus.txt)" -ge 50 ] || fail "$corpus.txt is not there or too short"
	! grep -q "Too short" runs/mine/$corpus.txt || fail "a short paragraph is in $corpus.txt"
done
[ "$(cat runs/mine/warm.txt runs/mine/train.txt runs/mine/eval.txt | grep -v '<|doc|>' | sort -u | wc -l)" -eq 600 ] || fail "paragraphs are lost or there twice"
python3 - <<'END'
import json
lines = open("said").read()
explained = [json.loads(x) for x in lines.splitlines() if x.startswith('{') and '"explanation"' in x]
assert len(explained) == 3 and all(-1 <= x["cosine"] <= 1 for x in explained), lines
assert any(x["explanation"] for x in explained), "the AV closed no tags"
held = {role: [x for x in map(json.loads, open(f"runs/mine/{role}/metrics.jsonl")) if "held_loss" in x] for role in ("av", "ar")}
assert held["ar"][-1]["held_fve"] > held["ar"][0]["held_fve"], held["ar"]
assert held["av"][-1]["held_loss_other_vector"] > held["av"][-1]["held_loss"], held["av"]
start = json.load(open("runs/mine/start/summary.json"))
assert start["rows"] >= 50 and start["failed_rate"] < 0.9, start
table = open("runs/mine/sweep/table.md").read().partition("\n\n")[0].splitlines()
assert [x.split(" | ")[0] for x in table[2:]] == ["| warm start", "| λ 0", "| λ 0.003", "| λ 0.01"], table
END
! command -v gnuplot >/dev/null || [ -s runs/mine/sweep/figures/curve.png ] || fail "no curve"
