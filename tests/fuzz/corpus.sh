#!/bin/sh
# corpus.sh OUT: what the fuzzers begin with: OUT/TARGET/FILE, from the tests' files and what is committed in corpus/ and beside/, where
# a byte-level tokenizer has 15 tokens, and a sentencepiece model the 256 bytes and 8 more: small, as each execution loads one.
set -eu
rm -rf "$1"
mkdir -p "$1"
out=$(cd "$1" && pwd)
cd "$(dirname "$0")"
data=../data tiny=../data/tiny
for target in corpus/*; do
	mkdir -p "$out/${target#*/}"
	cp "$target"/* "$out/${target#*/}"
done
take() { # TARGET FILES...
	target=$1
	shift
	mkdir -p "$out/$target"
	for from in "$@"; do
		cp "$from" "$out/$target/$(echo "$from" | sed "s,^[./]*,,; s,/,-,g")"
	done
}
take safetensors $data/families/llama2/ar/adapter_model.safetensors $tiny/ar/value_head.safetensors
take tokenizer $data/tokenizer/*/tokenizer.json $data/special/*/tokenizer.json $tiny/model/tokenizer.json beside/letters/tokenizer.json
take tokenizer_config $data/*/*/tokenizer_config.json
take model $data/tokenizer/*/tokenizer.model beside/bytes/tokenizer.model
take model_config $data/tokenizer/*/tokenizer_config.json
take stops $tiny/model/generation_config.json
take sidecar $tiny/a?/nla_meta.yaml
take config $data/*/*/config.json
take adapter $data/*/*/a?/adapter_config.json $tiny/a?/adapter_config.json
take options ../../demo/config.json ../../configs/*.json
take json $data/intervals.json $tiny/tied/config.json
mkdir -p "$out/adapter_header"
tail -c +9 $tiny/av/adapter_model.safetensors | head -c 8648 >"$out/adapter_header/tiny"
