# docs/formats.md holds the tables that src/run/report.c makes of its own rows.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
"$BUILD_DIR/tests/log_keys" >"$work/keys"
[ "$(grep -c '^| `' "$work/keys")" -ge 80 ] || fail "too few keys: $(wc -l <"$work/keys")"
sed -n '/<!-- log keys -->/,/<!-- \/log keys -->/p' "$SOURCE_DIR/docs/formats.md" | sed '1d;$d' >"$work/docs"
diff "$work/docs" "$work/keys" >&2 || fail "docs/formats.md differs from build/tests/log_keys"
