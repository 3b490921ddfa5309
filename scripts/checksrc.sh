#!/bin/sh
# The rules of the house that a machine can check, over src, include, shim and tests: banned functions, assert in src, long files,
# wide lines, many parameters, files without an opening comment, prints below src/cmd, includes upwards or in a circle, trailing
# whitespace, paths of one machine, and, where it is installed, what shellcheck finds in scripts. Prints FILE:LINE: what, and exits 1 when there is anything to say.
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

# Size: lines of a file, columns (tabs are 8 wide), parameters of a function.
for file in $code; do
	limit=600
	case $file in src/* | shim/*) limit=450 ;; esac
	lines=$(wc -l <"$file")
	[ "$lines" -gt $limit ] && echo "$file:$limit: $lines lines, want at most $limit" >>"$found"
	case $file in src/* | shim/* | include/*) ;; *) continue ;; esac
	expand -t 8 "$file" | awk -v f="$file" 'length > 128 { print f ":" NR ": more than 128 columns" }' >>"$found"
	case $file in src/*) ;; *) continue ;; esac
	awk -v f="$file" '
		!text && /^[a-z][^;=]*\(/ { text = " "; first = FNR }
		text { text = text $0 }
		text && /[;{]|\)$/ {
			sub(/NLA_PRINTF\(.*/, "", text)
			if (gsub(/,/, "", text) > 6)
				print f ":" first ": more than 7 parameters"
			text = ""
		}' "$file" >>"$found"
	case $file in *.c) [ "$(head -c 2 "$file")" = '/*' ] || echo "$file:1: no comment that says what the file does" >>"$found" ;; esac
done

# Structure: only programs print, includes lead downwards, and no headers include each other.
report "$word(printf|puts|putchar)[[:space:]]*\\(|${word}stdout([^[:alnum:]_]|$)" "only programs print to stdout" \
	$(printf '%s\n' $code | grep '^src/' | grep -v '^src/cmd/')
grep -nE '^#include "' /dev/null $(printf '%s\n' $code | grep '^src/') | awk -F '[:"]' '
	BEGIN { split("base text:lm nla rl run cmd", rooms, " "); for (i in rooms) { n = split(rooms[i], r, ":"); while (n) rank[r[n--]] = i } }
	{
		split($1, from, "/")
		target = $4 ~ /\// ? $4 : from[2] "/" $4
		split(target, to, "/")
		if (to[1] in rank && to[1] != from[2] && rank[to[1]] >= rank[from[2]])
			print $1 ":" $2 ": src/" from[2] " includes " target ", which is not below it" >>found
		if (sub(/\.h$/, "", $1))
			print $1, "src/" substr(target, 1, length(target) - 2)
	}' found="$found" | tsort 2>&1 >/dev/null | sed -n 's/^tsort: \(src.*\)/\1.h:1: in a circle of includes/p' >>"$found"

# Scripts are portable, and quote what they must.
scripts=$(find scripts .ci -name '*.sh' -o -name run 2>/dev/null)
if command -v shellcheck >/dev/null; then
	[ -z "$scripts" ] || shellcheck -f gcc $scripts >>"$found"
else
	echo "skipped: shellcheck, which is not installed" >&2
fi

sort -t: -k1,1 -k2,2n "$found"
[ ! -s "$found" ]
