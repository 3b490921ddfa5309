#!/usr/bin/env bash
# Several ranks of one program on this machine, as torchrun starts them, without Python:
#
#	scripts/launch.sh -n 4 build/nla-train demo/config.json --out runs/four
#
# MASTER_ADDR and MASTER_PORT may be set; a signal goes on to all ranks. Exits with the first rank's code, or with that of another
# which failed where the first did not.
set -um # -m: else the ranks would ignore INT
[[ $# -ge 3 && $1 = -n && $2 =~ ^[1-9][0-9]*$ ]] || { echo "usage: $0 -n RANKS PROGRAM [ARGUMENT ...]" >&2; exit 2; }
n=$2
shift 2
export WORLD_SIZE=$n MASTER_ADDR=${MASTER_ADDR:-127.0.0.1}
while [ -z "${MASTER_PORT:-}" ]; do
	port=$((20000 + RANDOM % 10000))
	(exec 3<>"/dev/tcp/$MASTER_ADDR/$port") 2>/dev/null || export MASTER_PORT=$port # nobody listens there
done

pids=()
for signal in INT TERM USR1 USR2 HUP; do
	trap 'kill -s '$signal' "${pids[@]}" 2>/dev/null' $signal
done
for ((rank = 0; rank < n; rank++)); do
	RANK=$rank LOCAL_RANK=$rank "$@" &
	pids+=($!)
done
code=0
{
	for ((rank = n - 1; rank >= 0; rank--)); do
		while :; do # a signal interrupts wait, not the rank; of a stopped one it returns at once
			wait "${pids[rank]}"
			own=$?
			kill -0 "${pids[rank]}" || break
			sleep 0.1
		done
		[ "$own" -eq 0 ] || code=$own
	done
} 2>/dev/null # where bash says which of its jobs was killed
exit "$code"
