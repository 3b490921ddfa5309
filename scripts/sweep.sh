#!/bin/sh
# sweep.sh - lambda against FVE and length: a run for every length penalty and seed, evaluations, controls, a table and a report.
#
#	scripts/sweep.sh [options] config.json [-- nla-train flags]
#
#	--lambdas "0 0.001 ..."  penalties a token, in units of reward.score (default: those of earlier calls of the same --out, else the
#	                         published ones, which are for -mse)
#	--seeds "0 1 2"          one run for each
#	--out DIR                default runs/sweep
#	--slots N                runs at once; default: one a GPU, else 1. On a CPU they share the cores
#	--samples N              explanations a held-out row, in evaluations of every run (default 1)
#	--gate FVE | off         the warm start must reach it (default -0.5; texts that say nothing get about -0.95 on the demo, -0.45 to -0.75
#	                         on SmolLM2: see nla-controls), and lose 0.05 by another row's vector
#	--every SECONDS          between two lines that say what runs and what is left (default 60)
#	--together               one nla-train for all lambdas of a seed: less memory than as many runs, and on a GPU less time
#	--resume                 continue a sweep that was cut: what a second call does anyway
#	--slurm "SBATCH OPTIONS" submit it: the gate, an array job of the runs, then the rest. Options such as "--gres=gpu:1 --time=8:00:00"
#	--part N                 only the gate (0) or the Nth run: what a task of that array calls
#
# Writes OUT/start (the warm start, as a run of no steps), OUT/lambda-L-seed-S (run folders, evaluated in evaluations/step-N on the
# same rows with the same random numbers), OUT/table.md, OUT/report.html, and, where gnuplot is installed, OUT/figures. A line a minute
# says what runs and what is left. Every run has the gate's micro-batch: on one machine two sweeps give the same numbers.
#
# Call it again after an interruption or a failure: what is done is kept, an unfinished run continues from its newest checkpoint. More
# seeds or lambdas may be added later; another configuration, other flags or an AV with another content need another OUT, because a table
# must not mix them.
# Programs come from $NLA_BUILD, else build/, else the PATH.
#
# Exit 0: all done; 1: the gate or some run failed (named at the end; the table holds the others); 2: usage; 3: stopped by a signal,
# which the programs get too, with their work saved; 128 + signal: ended at once. The last line is the command that continues it.
set -u

awk() { LC_ALL=C command awk "$@"; } # mawk reads 0.001 as 0 where the decimal sign is a comma

quoted() { # WORD...: as a shell reads them back
	words=
	for word; do
		case $word in
		'' | *[!A-Za-z0-9%+,./:=@_-]*) words="$words '$(printf %s "$word" | sed "s/'/'\\\\''/g")'" ;;
		*) words="$words $word" ;;
		esac
	done
	printf '%s\n' "${words# }"
}
again=$(quoted "$0" "$@")

seeds=0
lambdas=all
out=runs/sweep
slots='' samples=1 gate=-0.5 slurm='' submits='' part='' every=60 config='' together=''
root=$(cd "$(dirname "$0")/.." && pwd)

say() { printf 'sweep: %s\n' "$*" >&2; } # not echo, where the text is not ours: dash's reads backslashes
usage_error() { say "$@"; exit 2; }

job= # this call's words without --slurm and --part
while [ $# -gt 0 ]; do
	case $1 in
	--seeds | --lambdas | --out | --slots | --samples | --gate | --slurm | --part | --every)
		[ $# -ge 2 ] || usage_error "$1 needs a value"
		case $1 in
		--seeds) seeds=$2 ;;
		--lambdas) lambdas=$2 ;;
		--out) out=$2 ;;
		--slots) slots=$2 ;;
		--samples) samples=$2 ;;
		--gate) gate=$2 ;;
		--slurm) slurm=$2 submits=1 ;;
		--part) part=$2 ;;
		--every) every=$2 ;;
		esac
		[ "$1" = --slurm ] || [ "$1" = --part ] || job="$job $(quoted "$1" "$2")"
		shift ;;
	--resume) ;;
	--together) together=1 ;;
	-h | --help) sed -n '2,/^[^#]/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	--) shift; break ;;
	--lambda | --seed) usage_error "unknown option '$1': did you mean '$1s'?" ;;
	-*) usage_error "unknown option '$1' (flags for nla-train follow --)" ;;
	*) [ -z "$config" ] || usage_error "two configurations: '$config' and '$1'"; config=$1 ;;
	esac
	shift
done
[ -n "$config" ] || usage_error "a configuration file is needed (--help)"
[ -r "$config" ] || usage_error "cannot read '$config'"
case $slots$samples$part$every in *[!0-9]*) usage_error "--slots, --samples, --part and --every want whole numbers" ;; esac
case " $slots $samples " in *" 0 "* | *"  ") usage_error "--slots and --samples want at least 1" ;; esac
[ -z "$together" ] || [ -z "$submits$part" ] || usage_error "--together makes one job of a seed: leave --slurm and --part away"
case $gate in off) ;; *[!-0-9.]* | '') usage_error "--gate wants an FVE or off, not '$gate'" ;; esac
for flag; do
	case $flag in
	--lambda | --lambda=* | --reward.lambda | --reward.lambda=*) own=--lambdas ;;
	--seed | --seed=*) own=--seeds ;;
	--out | --out=*) own=--out ;;
	*) continue ;;
	esac
	usage_error "'${flag%%=*}' behind -- would be that of all runs: give $own in front of it"
done
job="$job $(quoted "$config" -- "$@")"
known() { # lambdas of earlier calls: the file names them, or in a sweep that has none its run folders
	cat "$out/lambdas" 2>/dev/null ||
		for file in "$out"/lambda-*-seed-*/config.json; do printf '%s\n' "$file"; done | sed -n 's,.*/lambda-\([^*/]*\)-seed-[0-9]*/config.json$,\1,p'
}
if [ "$lambdas" = all ]; then
	lambdas=$(known)
	[ -n "$lambdas" ] || lambdas='0 0.001 0.002 0.006 0.015 0.03'
fi
# Each number once, as nla-train writes it and names folders by it: 1e-05 for 0.00001.
# shellcheck disable=SC2086  # numbers are words
lambdas=$(printf '%s\n' $lambdas | tr , '\n' | awk '{ s = ""
	for (d = 15; $0 ~ /^[-+.0-9eE]+$/ && d <= 17 && (s = sprintf("%." d "g", $0)) + 0 != $0 + 0; d++);
	s = s == "" ? $0 : s } s != "" && !seen[s]++ { print s }')
# shellcheck disable=SC2086
seeds=$(printf '%s\n' $seeds | tr , '\n' | awk 'NF && !seen[$0]++ { printf "%s%s", space, $0; space = " " }')
job="$(quoted --lambdas "$(echo "$lambdas" | tr '\n' ' ')")$job" # an array's tasks have this call's, whatever comes later
run_of() { printf '%s\n' "$out/lambda-$1-seed-$2"; }
wanted=0
for seed in $seeds; do
	for lambda in $lambdas; do wanted=$((wanted + 1)); done
done
wrong=$(printf '%s\n' "$lambdas" | awk '!/^([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][-+]?[0-9]+)?$/ { print "\047" $0 "\047"; exit }')
[ -z "$wrong" ] || usage_error "--lambdas wants numbers, 0 or more, not $wrong"
wrong=$(printf '%s\n' "$seeds" | tr ' ' '\n' | awk '!/^(0|[1-9][0-9]*)$/ { print "\047" $0 "\047"; exit }')
[ -z "$wrong" ] || usage_error "--seeds wants whole numbers, 0 or more, not $wrong"
[ "${part:-0}" -le $wanted ] || usage_error "--part $part: there are $wanted runs"

program() { # NAME: its path
	for folder in ${NLA_BUILD:+"$NLA_BUILD"} "$root/build"; do
		if [ -x "$folder/$1" ]; then
			printf '%s\n' "$folder/$1"
			return
		fi
	done
	command -v "$1" || { say "no program '$1' in '$root/build' or on the PATH: run scripts/setup.sh"; exit 1; }
}
train=$(program nla-train) || exit 1
evaluate=$(program nla-eval) || exit 1

mkdir -p "$out" || exit 1
settings="$(cksum <"$config") $*"
[ "$samples" = 1 ] || settings="$settings; $samples samples"
begun() { # some run
	for file in "$out"/lambda-*/config.json; do
		[ ! -e "$file" ] || return 0
	done
	return 1
}
same_settings() {
	[ ! -e "$out/settings" ] || [ "$(cat "$out/settings")" = "$settings" ] && return
	! begun || usage_error "'$out' holds runs of another configuration or other flags (those of '$out/settings'): give another --out;" \
		"where no more than a path, update.micro_batch or eval.batch differs, delete that file"
	return 1
}
same_settings

# ---- as a job of Slurm: the gate, then the runs, then this script without --part, which finds what they left and does the rest ----

submit() {
	command -v sbatch >/dev/null || { say "no 'sbatch' here: call it where jobs are submitted"; exit 1; }
	cat >"$out/sweep.sbatch" <<-SBATCH || exit 1
		#!/bin/sh
		#SBATCH --job-name=nla-sweep
		#SBATCH --output=$(quoted "$out/slurm-%j.log")
		#SBATCH --open-mode=append
		#SBATCH --requeue
		#SBATCH --signal=B:USR1@180
		cd $(quoted "$PWD") || exit 1
		part=\${SLURM_ARRAY_TASK_ID:-\${1:-}}
		trap 'cut=1; kill -USR1 \$!' USR1 TERM
		sh $(quoted "$0") \${part:+--part "\$part"} $job &
		cut=1
		while [ -n "\$cut" ]; do
			cut=
			wait \$! && code=0 || code=\$?
		done
		[ \$code -ne 3 ] || scontrol requeue "\$SLURM_JOB_ID" # the time limit came, and the work is saved
		exit \$code
	SBATCH
	# shellcheck disable=SC2086,SC2015  # options are words; any of the three may fail
	gated=$(sbatch --parsable $slurm "$out/sweep.sbatch" 0) &&
		runs=$(sbatch --parsable --dependency="afterok:${gated%%;*}" --kill-on-invalid-dep=yes --array="1-$wanted" $slurm "$out/sweep.sbatch") &&
		last=$(sbatch --parsable --dependency="afterany:${runs%%;*}" $slurm "$out/sweep.sbatch") || { say "sbatch failed"; exit 1; }
	say "submitted: the gate as job ${gated%%;*}, $wanted runs as ${runs%%;*}, controls, table and report as ${last%%;*}; logs in $out/slurm-*.log"
}
if [ -n "$submits" ]; then
	submit
	exit
fi

# ---- one call at a time ----

# What this call starts keeps its locks too: after a kill of this script alone its programs may be at work still. A part of an array
# job excludes itself and calls without a part.
lock() { # FILE FLAG: at most one that has it as -x, or any number as -s
	exec 9<>"$1" # NFS wants to read for -s
	flock -n "$2" 9 && return
	say "another call is at work in '$out', or programs of one that was killed: waiting for it ($1)"
	flock "$2" 9 || say "'$1' cannot be locked: nothing keeps two calls apart"
}
if ! command -v flock >/dev/null; then
	say "no program 'flock' here: nothing keeps two calls apart"
elif [ -z "$part" ]; then
	lock "$out/lock" -x
else
	lock "$out/lock" -s
	exec 8>&9
	lock "$out/lock-$part" -x
fi
same_settings || rm -rf "$out/start" "$out/settings" # of a call that ended before any run began
begun || rm -f "$out/lambdas"
if [ -z "$part" ]; then
	{ known; printf '%s\n' "$lambdas"; } | LC_ALL=C sort -gu >"$out/lambdas.new" && mv "$out/lambdas.new" "$out/lambdas" || exit 1
fi
if [ ! -e "$out/settings" ]; then # whole or not at all: other jobs may be reading
	printf '%s\n' "$settings" >"$out/settings.$$" && mv "$out/settings.$$" "$out/settings" || exit 1
fi

# ---- what one slot does, in a shell of its own ----

# A program runs in the background, so that a signal to this script alone reaches it too; a trap ends a wait early.
run() { # PROGRAM ...
	code='' cut=1
	[ -z "${stop:-}" ] || exit 3
	"$@" &
	child=$!
	[ -z "${stop:-}" ] || kill -TERM "$child"
	while [ -n "$cut" ]; do
		cut=
		wait "$child" && now=0 || now=$?
		[ "$now" = 127 ] && [ -n "$code" ] || code=$now
	done
	child=
	case $code in 3 | 129 | 130 | 138 | 140 | 143) exit "$code" ;; esac # HUP, INT, USR1, USR2, TERM; what crashed is a failure
	return "$code"
}

last_line() { tail -n 1 "$1" 2>/dev/null; }

number() { # KEY FILE: the number at that key, or nan
	awk -v key="\"$1\"" '{ text = text $0 " " } END {
		if (!match(text, key "[ \t]*:[ \t]*-?[0-9][-+0-9.eE]*")) { print "nan"; exit }
		value = substr(text, RSTART, RLENGTH); sub(/^"[^"]*"[ \t]*:[ \t]*/, "", value); print value }' "$2" 2>/dev/null || echo nan
}

causes() { # FILE: "3 no_tags, 61 truncated" of why responses failed
	tr -d '"\n\t ' <"$1" | sed 's/.*failed:{\([^}]*\)}.*/\1/' | tr , '\n' | awk -F : '$2 > 0 { printf "%s%s %s", comma, $2, $1; comma = ", " }'
}

rounded() { LC_ALL=C printf '%.3f' "$(number "$@")"; }

evaluation() { # RUN [NAME]: the folder of its newest checkpoint's
	step=$(for folder in "$1"/checkpoints/step-*; do echo "${folder##*/step-}"; done | grep -v '[^0-9]' | sort -n | tail -n 1)
	printf '%s\n' "$1/evaluations/step-${step:-none}${2:+-$2}"
}

evaluated() { # RUN [NAME]: its summary is there; where every row failed it has no FVE
	summary=$(evaluation "$@")/summary.json
	[ -s "$summary" ] && [ "$(number response_tokens "$summary")" != nan ] && [ "$(number failed_rate "$summary")" != nan ]
}

finished() { [ -e "$1/trained" ] && evaluated "$1"; }

# A run counts as trained once nla-train has said so, by its code and then the file `trained`; nla-eval writes its summary whole and last.
train_run() { # WHAT RUN FLAGS...
	what=$1 folder=$2
	shift 2
	mkdir -p "$folder" || return 1
	[ ! -e "$folder/trained" ] || return 0
	say "$what: see $folder/train.log"
	size=0
	[ ! -e "$folder/train.log" ] || size=$(wc -c <"$folder/train.log")
	if ! run "$train" "$@" --out "$folder" --resume "$config" >>"$folder/train.log" 2>&1; then
		say "$what: nla-train failed: $(last_line "$folder/train.log")"
		return 1
	fi
	! on_cpu=$(tail -c "+$((size + 1))" "$folder/train.log" | grep 'warning: this computes on the CPU') || say "$what: $on_cpu"
	: >"$folder/trained"
}

evaluate_run() { # WHAT RUN [NAME FLAGS...]
	what=$1 folder=$2 name=${3:-}
	shift 2
	[ $# -eq 0 ] || shift
	! evaluated "$folder" "$name" || return 0
	if ! run "$evaluate" "$folder" --overwrite --seed 0 ${name:+--name "$name"} --eval.samples "$samples" "$@" >"$folder/eval.log" 2>&1; then
		say "$what: nla-eval failed: $(last_line "$folder/eval.log")"
		return 1
	fi
	evaluated "$folder" "$name" || { say "$what: '$summary' has no number of tokens or failures"; return 1; }
	say "$what: FVE $(rounded fve "$summary"), $(rounded response_tokens "$summary") tokens${name:+ with the vectors of $name row}"
}

held_out() { # RUN: it has rows of its own to be evaluated on
	! sed -n '/"eval": *{/,/}/p' "$1/config.json" | grep -q '"data": *""'
}

all_begun() {
	for seed in $seeds; do
		for lambda in $lambdas; do [ -e "$(run_of "$lambda" "$seed")/config.json" ] || return; done
	done
}

# The warm start, as a run of no steps: what the gate judges, a row of the table, and the micro-batch of all runs.
gate() { # [flags]
	what='warm start'
	[ -z "$shares" ] || export OMP_NUM_THREADS="$cores" # nothing else runs yet
	if [ -e "$start/trained" ] && ! all_begun; then # runs to come would be of another: nla-train compares by content, and says so
		run "$train" --lambda 0 --seed "$(number seed "$start/config.json")" "$@" --steps 0 --out "$start" --resume "$config" >"$start/again.log" 2>&1
		other=$(sed -n "s/.*\('[^']*' has another content than\).*/\1/p" "$start/again.log" | head -n 1)
		[ -z "$other" ] || ! begun || { say "$other '$out' began with: give another --out"; return 1; }
		[ -z "$other" ] || { say "$what: $other before: made anew"; rm -rf "$start"; }
	fi
	train_run "$what" "$start" --lambda 0 --seed "${seeds%% *}" "$@" --steps 0 || return 1
	held_out "$start" || { say "'eval.data' is not set: no held-out rows to evaluate on"; return 1; }
	evaluate_run "$what" "$start" || return 1
	evaluate_run "$what" "$start" another --eval.vectors another --eval.logprob false --eval.recovered_kl false || return 1
	own=$(rounded fve "$(evaluation "$start")/summary.json") other=$(rounded fve "$(evaluation "$start" another)/summary.json")
	if [ "$gate" != off ] && [ "$own" = nan ]; then
		say "the gate stays shut: every response of the warm start failed ($(causes "$(evaluation "$start")/summary.json")): see" \
			"$(evaluation "$start")/rows.jsonl"
		return 1
	fi
	if [ "$gate" != off ] && ! awk -v own="$own" -v other="$other" -v floor="$gate" \
		'BEGIN { exit own < floor || (other != "nan" && own - other < 0.05) }'; then
		say "the gate stays shut: the warm start's FVE is $own (want $gate), with another row's vector $other (want 0.05 less): AV or AR do not" \
			"carry the vector yet. Train them longer, or give --gate off"
		return 1
	fi
	say "gate: the warm start's FVE is $own, with another row's vector $other"
}

one_run() { # LAMBDA SEED [flags]
	lambda=$1 seed=$2 run=$(run_of "$1" "$2")
	shift 2
	micro=$(number micro_batch "$start/checkpoints/step-0/state.json")
	train_run "lambda $lambda seed $seed" "$run" --lambda "$lambda" --seed "$seed" --update.micro_batch "$micro" "$@" &&
		evaluate_run "lambda $lambda seed $seed" "$run"
}

# The lambdas of a seed that are not trained yet, unless it is one; their evaluations are one_run's.
all_of() { # SEED [flags]
	seed=$1 list='' log=$out/together-seed-$1.log
	shift
	for lambda in $lambdas; do
		[ -e "$(run_of "$lambda" "$seed")/trained" ] || list=$list,$lambda
	done
	case ${list#,} in *,*) ;; *) return 0 ;; esac
	say "lambdas ${list#,} seed $seed: see $log"
	micro=$(number micro_batch "$start/checkpoints/step-0/state.json")
	if ! run "$train" --lambda "${list#,}" --seed "$seed" --update.micro_batch "$micro" "$@" --out "$out" --resume "$config" >>"$log" 2>&1; then
		say "lambdas ${list#,} seed $seed: nla-train failed, each is tried alone: $(last_line "$log")"
		return 0
	fi
	for lambda in $(echo "$list" | tr , ' '); do : >"$(run_of "$lambda" "$seed")/trained"; done
}

controls() { # LAMBDA SEED [flags]; of its first words those of the smallest lambda's run
	run=$(run_of "$1" "$2")
	[ "$1" != start ] || run=$start
	finished "$run" || return 0 # it failed, and that has been said
	while read -r lambda; do
		base=$(run_of "$lambda" "$2")
		[ ! -e "$base/config.json" ] || break
	done <"$out/lambdas"
	set -- "$1" "$2" # nla-train's flags are not its own
	[ "$1" = start ] || ! finished "$base" || set -- "$@" --base "$base"
	what="lambda $1 seed $2"
	shift 2
	run "$control" "$run" "$@" >"$run/controls.log" 2>&1 && return
	say "$what: nla-controls failed: $(last_line "$run/controls.log")"
	return 1
}

report_all() { run "$report" "$out" -o "$out/report.html" --markdown "$out/table.md" --figures "$out/figures"; }

# ---- the slots ----

gpus() { # numbers of those to use, none where the device is the CPU
	case " $* " in *" --device cpu "* | *" --device=cpu "*) return ;; esac
	case " $* " in # a flag goes over the file
	*" --device "* | *" --device="*) named=$(printf '%s\n' " $* " | sed -n 's/.* --device[ =]cuda:\([0-9]*\) .*/\1/p') ;;
	*)
		! grep -q '"device": *"cpu"' "$config" || return 0
		named=$(sed -n 's/.*"device": *"cuda:\([0-9]*\)".*/\1/p' "$config" | head -n 1)
		;;
	esac
	[ -z "$named" ] || { echo "$named"; return; }
	[ -z "${CUDA_VISIBLE_DEVICES+set}" ] || { echo "$CUDA_VISIBLE_DEVICES" | tr , ' '; return; }
	nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p' | tr '\n' ' '
}
cards=$(gpus "$@")
n_cards=$(echo "$cards" | wc -w)
[ -n "$slots" ] || slots=$((n_cards > 0 ? n_cards : 1))
[ -z "$part" ] || slots=1
cores=$(nproc)
shares=''
if [ $((n_cards > 0 || slots == 1)) = 0 ] && [ -z "${OMP_NUM_THREADS:-}" ]; then
	shares=1
	export OMP_NUM_THREADS=$((cores > slots ? cores / slots : 1))
fi

stopping='' failures=''
nl='
'
start_task() { # SLOT TASK [flags]: in a shell of its own
	slot=$1 task=$2
	shift 2
	(
		child='' cut=''
		trap 'cut=1 stop=1; [ -z "$child" ] || kill -TERM "$child" 2>/dev/null' INT TERM USR1 USR2 HUP
		if [ "$n_cards" -gt 1 ]; then # of one nla-train finds the first by itself
			CUDA_VISIBLE_DEVICES=$(echo "$cards" | tr -s ' ' '\n' | sed -n "$((slot % n_cards + 1))p")
			export CUDA_VISIBLE_DEVICES
		fi
		# shellcheck disable=SC2086  # kind, lambda, seed
		set -- $task "$@"
		"$@"
	) &
	eval "pid_$slot=$! task_$slot=\$task"
}

fraction() { # of a run's work, in per cent; its evaluation counts as a tenth
	! finished "$1" || { echo 100; return; }
	sed -n 's,^step \([0-9]*\)/\([0-9]*\) .*,\1 \2,p' "$1/log.txt" "$1/train.log" 2>/dev/null | awk '{ done = 90 * $1 / $2 } END { print int(done) }'
}

made() { # hundredths of runs
	sum=0
	for seed in $seeds; do
		for lambda in $lambdas; do sum=$((sum + $(fraction "$(run_of "$lambda" "$seed")"))); done
	done
	echo "$sum"
}

count_done() {
	n=0
	for seed in $seeds; do
		for lambda in $lambdas; do ! finished "$(run_of "$lambda" "$seed")" || n=$((n + 1)); done
	done
	echo "$n"
}

progress() {
	now=$(made) running=
	for slot in $(seq 0 $((slots - 1))); do
		eval "task=\${task_$slot:-}"
		# shellcheck disable=SC2086
		set -- $task
		case ${1:-} in
		gate) running="$running, the warm start" ;;
		one_run) running="$running, lambda $2 seed $3 $(fraction "$(run_of "$2" "$3")") %" ;;
		controls) [ "$2" = start ] && running="$running, controls of the warm start" || running="$running, controls of lambda $2 seed $3" ;;
		esac
	done
	left=
	if [ "$now" -gt "$made_before" ]; then
		seconds=$((($(date +%s) - began) * (100 * wanted - now) / (now - made_before)))
		[ $seconds -lt 7200 ] && left="$(((seconds + 59) / 60)) min" || left="$((seconds / 3600)) h $((seconds / 60 % 60)) min"
		left="; $left left, until $(date -d "@$(($(date +%s) + seconds))" '+%a %H:%M')"
	fi
	say "$(count_done) of $wanted runs done${running:+; ${running#, }}$left"
}

pass_on() {
	stopping=${stopping:-3}
	for slot in $(seq 0 $((slots - 1))); do
		eval "pid=\${pid_$slot:-}"
		[ -z "$pid" ] || kill -TERM "$pid" 2>/dev/null
	done
}
trap pass_on INT TERM USR1 USR2 HUP

fan_out() { # TASKS [flags]: a line each, in order, over the slots
	queue=$1 said=$(date +%s) began=$(date +%s) made_before=$(made)
	shift
	while :; do
		busy=
		for slot in $(seq 0 $((slots - 1))); do
			eval "pid=\${pid_$slot:-} task=\${task_$slot:-}"
			if [ -n "$pid" ] && ! kill -0 "$pid" 2>/dev/null; then
				wait "$pid" && code=0 || code=$?
				eval "pid_$slot= task_$slot="
				pid=
				case $code in
				0) ;;
				3 | 129 | 130 | 138 | 140 | 143) stopping=${stopping:-$code} ;; # nla-eval ends at once, and nothing is lost
				*) failures="$failures $(echo "$task" | sed 's/^controls start .*/start/; s/^\(one_run\|controls\) \(.*\) \(.*\)/lambda-\2-seed-\3/; s/^report_all$/nla-report/')" ;;
				esac
			fi
			if [ -z "$pid" ] && [ -n "$queue" ] && [ -z "$stopping" ]; then
				task=${queue%%"$nl"*}
				queue=${queue#*"$nl"}
				start_task "$slot" "$task" "$@"
				pid=$!
			fi
			busy=$busy$pid
		done
		[ -n "$busy" ] || break
		sleep 0.3
		[ $(($(date +%s) - said)) -lt "$every" ] || { said=$(date +%s); progress; }
	done
	[ -z "$stopping" ] || { say "stopped: $(count_done) of $wanted runs are done; to continue: $again"; exit "$stopping"; }
}

start=$out/start
[ "${part:-0}" != 0 ] || fan_out "gate$nl" "$@"
[ -z "$failures" ] || exit 1
[ "$part" != 0 ] || exit 0
tasks='' controlled="controls start ${seeds%% *}$nl" n=0
for seed in $seeds; do
	for lambda in $lambdas; do
		n=$((n + 1))
		[ -z "$part" ] || [ "$part" = $n ] || continue
		tasks="${tasks}one_run $lambda $seed$nl" controlled="${controlled}controls $lambda $seed$nl"
	done
done
# shellcheck disable=SC2086  # a line each
[ -z "$together" ] || fan_out "$(printf 'all_of %s\n' $seeds)$nl" "$@"
fan_out "$tasks" "$@"
if [ -n "$part" ]; then
	[ -z "$failures" ]
	exit
fi
command -v python3 >/dev/null && control=$(program nla-controls) && report=$(program nla-report) || report=
[ -z "$report" ] || fan_out "$controlled" "$@"

# ---- what came of it ----

if [ -z "$report" ]; then
	say "no python3 here, so no controls, table or report: 'nla-report $out' makes them where there is one"
else
	before=$failures
	fan_out "report_all$nl"
	[ "$failures" != "$before" ] || sed '/^$/q' "$out/table.md"
fi
if [ -n "$failures" ]; then
	say "failed:$failures"
	exit 1
fi
