#!/bin/sh
# The rules of the house that a machine can check, over src, include, shim and tests: banned functions, assert in src, files over
# 600 lines, trailing whitespace, paths of one machine. Prints FILE:LINE: what, and exits 1 when there is anything to say.
#
#	scripts/checksrc.sh [ROOT]
# shellcheck disable=SC2086,SC2046  # lists of names without spaces
set -u
cd "${1:-$(dirname "$0")/..}" || exit 2

found=$(mktemp) || exit 2
trap 'rm -f "$found"' EXIT

dirs=
for dir in src include shim tests; do
	[ -d "$dir" ] && dirs="$dirs $dir"
done
[ -n "$dirs" ] || { echo "checksrc: no sources in $(pwd)" >&2; exit 2; }

# Names hold no spaces: the first rule.
code=$(find $dirs -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' \) | sort)
text=$(find $dirs -type f \( -name '*.[ch]' -o -name '*.cpp' -o -name '*.cu' -o -name '*.py' -o -name '*.sh' -o -name '*.txt' \
	-o -name '*.cmake' \) -not -path 'tests/data/*' | sort)
find $dirs -name '*[[:space:]]*' | sed 's/$/:1: white space in a file name/' >>"$found"

# report PATTERN MESSAGE FILES...: every line that matches.
report()
{
	pattern=$1 message=$2
	shift 2
	[ $# -eq 0 ] && return
	grep -nE -e "$pattern" /dev/null "$@" | sed -E "s/^([^:]*:[0-9]+):.*/\\1: $message/" >>"$found"
}

word='(^|[^[:alnum:]_])'
for name in atoi strcpy strcat sprintf vsprintf strtok gets; do
	report "${word}${name}[[:space:]]*\\(" "banned function $name" $code
done
report "${word}assert[[:space:]]*\\(" "assert in src: input wants an error, our own mistakes NLA_BUG" \
	$(printf '%s\n' $code | grep '^src/')
report '[[:space:]]+$' "trailing white space" $text
report '(^|[^[:alnum:]_.-])/(work|root|home/[[:alnum:]_]+|tmp/w)(/|["'\''[:space:])]|$)' "path of one machine" $text
for file in $code; do
	lines=$(wc -l <"$file")
	[ "$lines" -gt 600 ] && echo "$file:601: $lines lines, want at most 600" >>"$found"
done

sort -t: -k1,1 -k2,2n "$found"
[ ! -s "$found" ]
