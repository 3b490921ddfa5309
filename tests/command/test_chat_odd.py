"""Odd chat templates without transformers, whose prompts are in tests/data/chat/odd.json (make_tokenizer_golden.py): no program takes one
without a word that names scripts/chat-format.py; with what the script writes the prompts are transformers'; and where this Python has jinja2,
the script writes that. test_chat_format.py, which has the templates, compares more of them with transformers itself."""

import importlib.util
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

sys.dont_write_bytecode = True
from faults import SOURCE, TINY, Server

CASES = json.loads((SOURCE / "tests" / "data" / "chat" / "odd.json").read_text())


def prompts(server, work, *args):
    """(exit code, the lines that it said, what is around the content, the ids around a marker with white space about it)"""
    sidecar = work / "av" / "nla_meta.yaml"
    sidecar.unlink(missing_ok=True)
    code, said = server.run(["nla-extract", "--sidecar", "--threads", "1", "--device", "cpu", "--model", work / "model", "--layer", "2", "--out", work / "av",
                             work / "templates.json", *args])
    found = {}
    for line in sidecar.read_text().splitlines() if code == 0 else ():
        key, _, value = line.strip().partition(": ")
        found.setdefault(key, json.loads(value) if value.startswith('"') else value)
    return code, said.splitlines(), (found.get("before"), found.get("after")), [found.get(f"injection_{side}_neighbor_id") for side in ("left", "right")]


def main():
    spec = importlib.util.spec_from_file_location("chat_format", SOURCE / "scripts" / "chat-format.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rendered = importlib.util.find_spec("jinja2") is not None
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        shutil.copytree(TINY / "model", work / "model")
        shutil.copytree(TINY / "av", work / "av")
        (work / "templates.json").write_text(json.dumps({"templates": {"av": " {injection_char}\n", "ar": "Text: {explanation}\nVector:", "marker": "\u320e"}}))
        config = json.loads((TINY / "model" / "tokenizer_config.json").read_text())
        server = Server("nla-extract", work)
        told = 0
        for case in CASES:
            template, file = case["template"], case["file"]
            (work / "model" / "chat_template.jinja").write_text(template)
            code, said, around, _ = prompts(server, work)
            named = [line for line in said if "scripts/chat-format.py" in line]
            assert len(named) == 1 and code in (0, 1) and (code == 1) == (named[0] == said[-1] and named[0].startswith("nla-extract: ")), (template, code, said)
            told += code == 0 and around != (file["before"], file["after"])     # as by its markers, and to be verified
            (work / "chat.json").write_text(json.dumps(file))
            code, said, around, ids = prompts(server, work, "--chat.file", work / "chat.json")
            assert code == 0 and not any("chat" in line for line in said), (template, said)
            assert around == (file["before"], file["after"]) and ids == [str(i) for i in case["around"]], (template, around, ids, case["around"])
            if rendered:
                tokens = script.special_tokens(work / "model", config)
                assert script.describe(template, tokens, script.known_tokens(work / "model", config))[0] == file, template
        server.close()
    print(f"{len(CASES)} odd templates, of which {told} have other prompts than their markers'{'' if rendered else '; no jinja2 here: the script is not tried'}")


if __name__ == "__main__":
    sys.exit(main())
