# scripts/small-model.py: a Qwen2 with a tokenizer of its own, which our programs read and explain. A few steps: what it learns is not tested.
. "${SOURCE_DIR:?}/tests/command/lib.sh"
"$REFERENCE_PYTHON" -c 'import tokenizers' 2>/dev/null || skip "no tokenizers: scripts/setup.sh --reference installs them"
cd "$work"
python3 -B "$SOURCE_DIR/demo/stories.py" corpus --seed 6 --docs 150 --split pretrain --out stories.jsonl
python3 -c 'import json; print("\n\n".join(json.loads(line)["text"] for line in open("stories.jsonl")))' >stories.txt
small() { "$REFERENCE_PYTHON" -B "$SOURCE_DIR/scripts/small-model.py" "$1" small --steps 3 --vocab 600 --bin "$BUILD_DIR" >stdout 2>stderr; }
small stories.txt || fail "small-model.py: $(tail -n 3 stderr)"
[ "$(cat stdout)" = small/model ] || fail "it says $(cat stdout)"
cp small/model/model.safetensors first
small stories.txt || fail "small-model.py again: $(tail -n 3 stderr)"
same first small/model/model.safetensors
python3 - <<'END'
import json
chats = [json.loads(x)["text"] for x in open("small/corpus/chat.jsonl")]
assert len(chats) == 150 and all(x.count("<|im_start|>") == 2 and x.endswith("<|im_end|>\n") for x in chats)
prompt = json.load(open(__import__("os").environ["SOURCE_DIR"] + "/configs/small-set.json"))["teach"]["prompt"].replace("{text}", "")
for chat in chats:
    asked, answer = chat.split("<|im_start|>assistant\n")
    assert prompt in asked and 1 <= len(answer.split("<|im_end|>")[0].split(", ")) <= 3, chat
    for word in answer.split("<|im_end|>")[0].split(", "):
        assert word.lower() in asked.lower(), chat
END
ok nla-extract --model small/model --corpus stories.jsonl --extract.min_position 5 --extract.next 5 --templates.marker '^' --templates.av 'Vector:
{injection_char}' --out set
ok nla-teach --model small/model --data set --rows 4 --max-new-tokens 4 --out taught "$SOURCE_DIR/configs/small-set.json"
head -c 300 stories.txt >short.txt
! small short.txt || fail "a text of one paragraph is taken"
grep -q "'short.txt' has [0-9] paragraphs" stderr || fail "of a short text it says $(cat stderr)"
! python3 -I -S "$SOURCE_DIR/scripts/small-model.py" stories.txt small 2>stderr || fail "it needs no tokenizers"
grep -q "setup.sh --reference, then this by .*/reference/bin/python" stderr || fail "without tokenizers it says $(cat stderr)"
