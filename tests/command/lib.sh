# What the command tests share: the real programs on the tiny model of tests/data/tiny (random weights, made by tests/golden),
# in a folder of their own. POSIX sh; from the environment BUILD_DIR and SOURCE_DIR (see tests/CMakeLists.txt), and
# NLA_TEST_DEVICE, the device when it is not the CPU: in fp32, whose tolerances the tests have.
#
#	ok nla-train ...               must exit 0; stdout in $work/stdout, stderr in $work/stderr
#	refused 2 'no such' nla-eval   must exit 2 with one line on stderr that matches, and leave no trace of a crash
#	make_sets                      $work/train and $work/held: activation sets of block 2, with explanations
#	make_av                        $work/av: a verbalizer that closes its tags most of the time, so that rows can be scored
set -eu
case $(sed -n 's/^SigIgn:.*\(.\)$/\1/p' /proc/$$/status) in # under nohup, which no shell can undo
*[13579bdf]) exec env --default-signal=HUP "$(readlink /proc/$$/exe)" "$0" "$@" ;;
esac
: "${BUILD_DIR:?}" "${SOURCE_DIR:?}"
tiny=$SOURCE_DIR/tests/data/tiny
work=$(mktemp -d "${TMPDIR:-/tmp}/nla-command.XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
export OMP_NUM_THREADS=1
unset RANK WORLD_SIZE LOCAL_RANK MASTER_ADDR MASTER_PORT SLURM_PROCID SLURM_STEP_NUM_TASKS OMPI_COMM_WORLD_RANK PMI_RANK # a cluster's own
on="--device cpu"
[ -z "${NLA_TEST_DEVICE:-}" ] || on="--device $NLA_TEST_DEVICE --dtype fp32"

fail() {
	echo "FAIL: $*" >&2
	exit 1
}

skip() {
	echo "skipped: $*" >&2
	exit 77
}

# What `tool` finds different; what it cannot read is a failure.
apart() {
	! tool "$@" 2>"$work/apart" || fail "$*: no difference"
	tail -n 1 "$work/apart" | grep -Eq '^AssertionError: .*(differs by|different numbers)' || fail "$*: $(tail -n 1 "$work/apart")"
}

tool() { python3 -B "$SOURCE_DIR/tests/command/tool.py" "$@"; }

run() {
	program=$1
	shift
	code=0
	"$BUILD_DIR/$program" --threads 1 $on "$@" >"$work/stdout" 2>"$work/stderr" || code=$?
	echo "$code" >"$work/code" # for who ran it in a subshell
}

# signalled FILE LINE SIGNALS PROGRAM ...: as run; the program raises the signals once that line of FILE (a name) has been written,
# or read: a known point on any machine (signal_at.c).
signalled() {
	at="$1 $2 $3" program=$4
	shift 4
	code=0
	SIGNAL_AT=$at LD_PRELOAD=$BUILD_DIR/tests/libsignal_at.so "$BUILD_DIR/$program" --threads 1 $on "$@" \
		>"$work/stdout" 2>"$work/stderr" || code=$?
}

# denied CALLS PROGRAM ...: as ok, on a file system that lacks these calls (deny.c).
denied() {
	export DENY=$1 LD_PRELOAD=$BUILD_DIR/tests/libdeny.so
	shift
	run "$@"
	unset DENY LD_PRELOAD
	[ "$code" -eq 0 ] || fail "$* exits $code: $(tail -n 3 "$work/stderr")"
}

ok() {
	run "$@"
	[ "$code" -eq 0 ] || fail "$* exits $code: $(tail -n 3 "$work/stderr")"
}

# One line that begins with the program's name: what a failure says. Progress may stand before it, and is no part of it.
said() {
	last=$(tail -n 1 "$work/stderr")
	case $last in "$program: "*) ;; *) fail "'$program' ends in '$last', not in an error of its own" ;; esac
	printf '%s\n' "$last" | grep -Eq -- "$1" || fail "'$last' does not match '$1'"
}

refused() {
	want=$1 pattern=$2
	shift 2
	run "$@"
	[ "$code" -eq "$want" ] || fail "$* exits $code, want $want: $(tail -n 3 "$work/stderr")"
	[ "$(wc -l <"$work/stderr")" -eq 1 ] || fail "$*: stderr is not one line: $(cat "$work/stderr")"
	said "$pattern"
	[ ! -s "$work/stdout" ] || fail "$*: a failure wrote to stdout"
}

same() { cmp -s "$1" "$2" || fail "'$1' and '$2' differ"; }
differ() { ! cmp -s "$1" "$2" || fail "'$1' and '$2' are the same"; }

make_set() { # NAME FIRST-DOCUMENT COUNT
	tool corpus "$2" "$3" >"$work/$1.jsonl"
	ok nla-extract --model "$tiny/model" --corpus "$work/$1.jsonl" --layer 2 --extract.min_position 5 --extract.per_doc 2 \
		--templates.av "$(tool golden av_template)" --templates.ar "$(tool golden ar_template)" \
		--templates.marker "$(tool golden marker)" --out "$work/$1"
	tool explain "$work/$1"
}

make_sets() {
	make_set train 0 24
	make_set held 100 12
}

make_av() {
	ok nla-sft --role av --model "$tiny/model" --data "$work/train" --out "$work/sft" --steps 100 --batch 16 --lr 0.006 \
		--sft.warmup 5 --sft.held_every 1000 --sft.held_out 0.1 --checkpoint.every 0 --log.every 20 \
		--lora.rank 8 --lora.alpha 16 --lora.targets q,k,v,o,gate,up,down
	cp -R "$work/sft/checkpoints/latest/av" "$work/av"
}

# nla-train on the fixtures: 2 prompts x 4 samples.
train() {
	ok nla-train --model "$tiny/model" --av "${av:-$work/av}" --ar "$tiny/ar" --data "$work/train" --prompts 2 --group 4 \
		--max-new-tokens 40 --lora.rank 4 --lora.alpha 8 --lr 1e-3 "$@"
}
