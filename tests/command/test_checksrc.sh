# Each rule of scripts/checksrc.sh finds its sin in a made tree, and nothing in a clean one.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
cd "$work"
mkdir -p src/base src/lm src/cmd
printf '/* clean */\n#include "base/b.h"\n\nint f(int a, int b, int c, int d, int e, int g,\n      int h)\n{\n\treturn printed(a);\n}\n' >src/lm/clean.c
printf '/* b */\n' >src/base/b.h
printf '/* a program may print */\nint main(void)\n{\n\tprintf("x");\n}\n' >src/cmd/nla_x.c
sh "$SOURCE_DIR/scripts/checksrc.sh" "$work" >said || fail "a clean tree: $(cat said)"

found() { # PATTERN
	code=0
	sh "$SOURCE_DIR/scripts/checksrc.sh" "$work" >said || code=$?
	[ "$code" -eq 1 ] && grep -qE -- "$1" said || fail "exits $code, '$(cat said)' does not match '$1'"
	rm -f src/base/bad.* src/base/worse.*
}
if command -v shellcheck >/dev/null; then
	mkdir scripts
	printf '#!/bin/sh\necho -s $1\n' >scripts/bad.sh
	found '^scripts/bad.sh:2:.*SC2086'
	rm -r scripts
fi
printf 'int x;\n' >src/base/bad.c
found '^src/base/bad.c:1: no comment'
printf '/* x */\nint f(int a, int b, int c, int d, int e, int f, int g,\n      int h);\n' >src/base/bad.h
found '^src/base/bad.h:2: more than 7 parameters'
printf '/* x */\n\t%s\n' "$(printf '%0121d' 0)" >src/base/bad.h
found '^src/base/bad.h:2: more than 128 columns'
{ echo '/* x */' && yes '' | head -n 450; } >src/base/bad.c
found '^src/base/bad.c:450: 451 lines'
printf '/* x */\nvoid f(void)\n{\n\tputs("x");\n}\n' >src/base/bad.c
found '^src/base/bad.c:4: only programs print'
printf '/* x */\n#include "lm/clean.h"\n' >src/base/bad.c
found '^src/base/bad.c:2: src/base includes lm/clean.h, which is not below it'
printf '/* x */\n#include "worse.h"\n' >src/base/bad.h
printf '/* x */\n#include "base/bad.h"\n' >src/base/worse.h
found '^src/base/(bad|worse).h:1: in a circle of includes'
printf '/* x */\nvoid f(void)\n{\n\tx = atoi(y);\n}\n' >src/base/bad.c
found '^src/base/bad.c:4: banned function atoi'
