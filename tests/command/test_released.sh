# NLAs in the shapes that are published, as sparse files (tests/tools/released.py): both halves are mapped, held to their sidecars and
# planned for a GPU; nothing of them is read.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
: >"$work/hole"
truncate -s 1G "$work/hole"
[ "$(du -k "$work/hole" | cut -f 1)" -lt 1024 ] || skip "the file system of $work has no sparse files"
ends() { # CODE PATTERN PROGRAM ...: where the work would begin, all that the files say fits
	want=$1 pattern=$2
	shift 2
	run "$@"
	[ "$code" -eq "$want" ] || fail "$* exits $code, want $want: $(tail -n 3 "$work/stderr")"
	said "$pattern"
}
for released in "qwen2.5-7b 60G qwen2 20" "gemma3-12b 80G gemma3_text 32" "gemma3-27b 192G gemma3_text 41" "llama3.3-70b 400G llama 53"; do
	set -- $released
	python3 -B "$SOURCE_DIR/tests/tools/released.py" "$1" "$work/$1"
	here="--av $work/$1/av --ar $work/$1/ar --data $work/$1/set --dtype bf16"
	ok nla-train $here --lora.rank 8 --prompts 2 --group 4 --max-new-tokens 40 --memory "$2" --check
	grep -q "^loaded: .*, 4 activations of block $4\$" "$work/stdout" || fail "$1: $(cat "$work/stdout")"
	grep -q '^not tried: one prompt takes' "$work/stdout" || fail "$1: a step was tried, or left out in silence"
	[ "$(tail -n 1 "$work/stdout")" = go ] || fail "$1: $(tail -n 1 "$work/stdout")"
	grep '^  \(weights\|update: activations\|total\) ' "$work/stdout" | sed "s/^/$1/"
	ends 2 "'explain.row' is 9: .* has rows 0 to 3" nla-explain $here --row 9
	ends 1 "none.jsonl" nla-eval $here --out "$work/out" --score "$work/none.jsonl"
	ends 1 "cannot load AV.*: role is 'ar', want an AV" nla-explain $here --model "$work/$1/av" --av "$work/$1/ar" --row 0
	rm -rf "${work:?}/$1"
done
