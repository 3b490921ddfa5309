# sanitized.sh PROGRAM: runs it; skips where ThreadSanitizer does not start: it wants addresses that are not drawn at random from
# too wide a range, and a container may forbid to ask for that.
setarch -R true 2>/dev/null && exec setarch -R "$1"
out=$("$1" 2>&1)
code=$?
printf '%s\n' "$out"
case $out in *"unexpected memory mapping"*) exit 77 ;; esac
exit $code
