# Two hosts with two ranks each: network namespaces with names of their own, and a cable between them. It is cut in the end.
if ! unshare -nu true 2>/dev/null; then
	! unshare -Urnu true 2>/dev/null || exec unshare -Ur bash "$0"
fi
. "${SOURCE_DIR:?}/tests/command/lib.sh"
unshare -nu true 2>/dev/null && command -v ip >/dev/null && command -v nsenter >/dev/null || skip "no right to make network namespaces, or no ip"
make_set train 0 24

for host in a b; do
	unshare -nu sh -c "hostname host-$host; exec sleep 600" &
	eval "$host=$!"
done
trap 'kill $a $b 2>/dev/null; rm -rf "$work"' EXIT
for host in $a $b; do
	for _ in $(seq 600); do # until it has a name of its own, it is here
		case $(nsenter -t "$host" -u uname -n 2>/dev/null) in host-*) break ;; esac
		sleep 0.1
	done
done
ip link add veth netns "$a" type veth peer name veth netns "$b" || skip "no veth here"
in_host() { # PID COMMAND ...
	pid=$1
	shift
	nsenter -t "$pid" -n -u "$@"
}
for host in "$a 10.77.0.1" "$b 10.77.0.2"; do
	set -- $host
	in_host "$1" ip addr add "$2/24" dev veth
	in_host "$1" ip link set veth up
	in_host "$1" ip link set lo up
done

four() { # ARGUMENT ...: two ranks on each host; stderr in $work/stderr-a, -b, codes in $work/code-0 ...
	rm -f "$work"/code-*
	for rank in 0 1 2 3; do
		pid=$a host=a
		[ $rank -lt 2 ] || pid=$b host=b
		(
			code=0
			RANK=$rank WORLD_SIZE=4 MASTER_ADDR=10.77.0.1 MASTER_PORT=29400 in_host "$pid" "$BUILD_DIR/nla-sft" --threads 1 $on --role ar \
				--model "$tiny/model" --data "$work/train" --batch 8 --lr 1e-3 --sft.schedule constant --sft.warmup 0 --sft.held_out 0 \
				--checkpoint.every 1 "$@" >/dev/null 2>>"$work/stderr-$host" || code=$?
			echo $code >"$work/code-$rank"
		) &
	done
}
codes() { cat "$work"/code-*; }

ok nla-sft --role ar --model "$tiny/model" --data "$work/train" --batch 8 --lr 1e-3 --sft.schedule constant --sft.warmup 0 --sft.held_out 0 \
	--steps 2 --out "$work/one"
four --steps 2 --out "$work/four"
wait $(jobs -p | grep -vx -e "$a" -e "$b")
[ "$(codes | tr '\n' ' ')" = "0 0 0 0 " ] || fail "two hosts: $(codes), $(cat "$work"/stderr-*)"
far=$(tool distance "$work/one/checkpoints/latest/optimizer.safetensors" "$work/four/checkpoints/latest/optimizer.safetensors" ar.m.)
awk -v x="$far" 'BEGIN { exit !(x < 1e-5) }' || fail "two hosts are apart from one process by $far"
grep -q 'rank 3 of 4, 2 of them on this machine' "$work/four/rank-3.log" || grep -q 'memory plan' "$work/four/rank-3.log" || fail "no log of rank 3"

rm -f "$work"/stderr-*
four --steps 100000 --out "$work/cut" --dist.timeout 6
at=0
while [ ! -e "$work/cut/checkpoints/latest/state.json" ]; do
	sleep 0.1
	at=$((at + 1))
	[ $at -lt 600 ] || fail "no checkpoint: $(cat "$work"/stderr-*)"
done
in_host "$a" ip link set veth down
wait $(jobs -p | grep -vx -e "$a" -e "$b")
! codes | grep -qx 0 || fail "a cut cable: $(codes)"
tail -n 1 "$work/stderr-a" | grep -Eq '^nla-sft: rank [23] on host-b (gives no sign of life|has not come to .*) for [0-9]+ s$' || fail "host a: $(tail -n 2 "$work/stderr-a")"
tail -n 1 "$work/stderr-b" | grep -Eq '^nla-sft: rank 0 on host-a (gives no sign of life|is gone)' || fail "host b: $(tail -n 2 "$work/stderr-b")"
[ -s "$work/cut/checkpoints/latest/ar/adapter_model.safetensors" ] || fail "no whole checkpoint"
