# A disk that fills up while a checkpoint is written: an error that says so, the former checkpoint whole, and --resume continues
# once there is room again, to the numbers of a run that never met it. On a small tmpfs where one may be mounted; everywhere
# with a limit on the size of a file, which fails the same write at the same place.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
make_sets
make_av
set -- --lora.targets q,k,v,o,gate,up,down --steps 6 --checkpoint.every 3
train "$@" --out "$work/whole"

check_former() { # RUN: at step 3, and whole
	[ "$(readlink "$1/checkpoints/latest")" = step-3 ] || fail "latest points to $(readlink "$1/checkpoints/latest")"
	[ "$(ls -A "$1/checkpoints" | tr '\n' ' ')" = "latest step-3 " ] || fail "checkpoints: $(ls -A "$1/checkpoints")"
	for file in optimizer.safetensors av/adapter_model.safetensors state.json; do
		same "$1/checkpoints/step-3/$file" "$work/former/step-3/$file"
	done
}

check_end() { # RUN
	tool lines "$work/whole/metrics.jsonl" "$1/metrics.jsonl"
	for file in av/adapter_model.safetensors optimizer.safetensors state.json; do
		same "$work/whole/checkpoints/latest/$file" "$1/checkpoints/latest/$file"
	done
}

# What step 3 left in the run that nothing disturbed.
mkdir "$work/former"
cp -R "$work/whole/checkpoints/step-3" "$work/former"

# ---- a limit on the size of files, in 512-byte blocks: below that of the optimizer's ----
cp -R "$work/whole" "$work/limited"
rm -rf "$work/limited/checkpoints/step-6"
ln -sfn step-3 "$work/limited/checkpoints/latest"
blocks=$(($(wc -c <"$work/whole/checkpoints/latest/optimizer.safetensors") / 1024 - 8))
(
	trap '' XFSZ
	ulimit -f "$blocks" # bash counts in 1024 bytes
	train "$@" --out "$work/limited" --resume
) 2>/dev/null && fail "no error beyond the limit"
program=nla-train
said "cannot write checkpoint 6, the former one is whole: .*File too large"
check_former "$work/limited"
train "$@" --out "$work/limited" --resume
check_end "$work/limited"

# ---- a full disk ----
mkdir "$work/disk"
if mount -t tmpfs -o size=4m tmpfs "$work/disk" 2>/dev/null; then
	trap 'umount "$work/disk"; rm -rf "$work"' EXIT
	train "$@" --steps 3 --out "$work/disk/run"
	free=$(df -k "$work/disk" | awk 'NR == 2 { print $4 }')
	need=$(du -sk "$work/disk/run/checkpoints/step-3" | cut -f 1)
	[ "$free" -gt $((need / 2)) ] || fail "the disk is too small for the test"
	head -c $(((free - need / 2) * 1024)) /dev/zero >"$work/disk/filler"
	(train "$@" --out "$work/disk/run" --resume) 2>/dev/null && fail "no error on a full disk"
	code=$(cat "$work/code")
	[ "$code" -eq 1 ] || fail "a full disk: exits $code"
	said "cannot write checkpoint 6, the former one is whole: .*No space left on device"
	check_former "$work/disk/run"
	rm "$work/disk/filler"
	train "$@" --out "$work/disk/run" --resume
	check_end "$work/disk/run"
else
	skip "no tmpfs may be mounted here: a limit on file sizes was passed, a full disk not tried"
fi
