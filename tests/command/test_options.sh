# The option table is the one source of --help, of docs/options.md and of what is accepted.
. "${SOURCE_DIR:?}/tests/command/lib.sh"

for program in nla-train nla-sft nla-extract nla-eval nla-explain nla-teach nla-export; do
	for flag in --help -h; do
		ok_help=0
		"$BUILD_DIR/$program" $flag >"$work/help" 2>"$work/stderr" || ok_help=$?
		[ "$ok_help" -eq 0 ] && [ ! -s "$work/stderr" ] || fail "$program $flag: exits $ok_help: $(cat "$work/stderr")"
	done
	head -n 1 "$work/help" | grep -q "^usage: $program " || fail "$program --help begins: $(head -n 1 "$work/help")"
	[ "$(awk 'length > 128' "$work/help" | wc -l)" -eq 0 ] || fail "$program --help has lines too long to read"
	grep -q -- '--model' "$work/help" && grep -q 'auto' "$work/help" || fail "$program --help lacks options or defaults"
	refused 2 "'--modl'.*model" $program --modl x
	refused 2 "'threads' is '-1'|'threads' is -1: want" $program --threads -1
	subject=
	[ $program != nla-explain ] || subject="--row 0"
	refused 2 "'model' is not set" $program $subject
	"$BUILD_DIR/$program" --version | grep -Eq "^$program [0-9]+\.[0-9]+\.[0-9]+, commit ([0-9a-f]{12}(-dirty)?|unknown), libtorch [0-9]" ||
		fail "$program --version: $("$BUILD_DIR/$program" --version)"
done
"$BUILD_DIR/nla-train" --help >"$work/help"
for text in -- 'units of reward.score' '0.2' '1e-5' '160' 'default'; do
	grep -q -- "$text" "$work/help" || fail "nla-train --help does not say '$text'"
done
# Each program takes its own options, and names itself when it refuses another's.
refused 2 "'--row'|row" nla-train --row 3
refused 2 "lambda" nla-eval --lambda 1
# A size is a decimal number from its first character on: strtod alone would read 0x18 as 24, and skip blanks.
for size in 0x18G 0X18G 00x18G ' 24G' 24GG xG G -24G nan; do
	refused 2 "'memory' is '$size': want a size of at least 1M, such as 24G" nla-train --memory "$size"
done
refused 2 "'model' is not set" nla-train --memory 24G
# Every key of the table is in the help of at least one program.
"$BUILD_DIR/nla-train" --help-markdown >"$work/table"
for program in nla-train nla-sft nla-extract nla-eval nla-explain nla-teach nla-export; do
	"$BUILD_DIR/$program" --help
done >"$work/help"
keys=$(sed -n 's/^| `\([a-z_.]*\)`.*/\1/p' "$work/table")
[ "$(echo "$keys" | wc -l)" -ge 60 ] || fail "--help-markdown lists too few keys: $(echo "$keys" | wc -l)"
for key in $keys; do
	grep -q -- "$key" "$work/help" || fail "no --help has $key"
done

diff "$SOURCE_DIR/docs/options.md" "$work/table" >&2 || fail "docs/options.md differs from nla-train --help-markdown"
