#!/bin/sh
# Real weights against transformers: tokenizer, greedy continuations, perplexity. Skipped where scripts/smollm2.sh has not put
# model and corpus into the cache, or without the reference Python.
set -eu
cache=$(dirname "$(dirname "$(dirname "${REFERENCE_PYTHON:?}")")")/smollm2
[ -x "$REFERENCE_PYTHON" ] || { echo "skipped: no reference Python: scripts/setup.sh --reference installs it" >&2; exit 77; }
for file in model/config.json corpus/train.jsonl.gz; do
	[ -e "$cache/$file" ] || { echo "skipped: no '$cache/$file': scripts/smollm2.sh --until corpus makes it" >&2; exit 77; }
done
exec "$REFERENCE_PYTHON" -B "$SOURCE_DIR/tests/reference/smollm2_check.py" --tools "$BUILD_DIR/tests" --model "$cache/model" \
	--corpus "$cache/corpus/train.jsonl.gz"
