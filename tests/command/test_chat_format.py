"""scripts/chat-format.py: odd chat templates. What it writes is what transformers' apply_chat_template prints, or it refuses; and the programs
read it. Runs in the reference environment; skips where there is none."""

import contextlib
import importlib.util
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = Path(os.environ.get("SOURCE_DIR", Path(__file__).resolve().parents[2]))
REFERENCE = os.environ.get("REFERENCE_PYTHON", "")
if os.path.exists(REFERENCE) and os.path.realpath(sys.prefix) != os.path.realpath(Path(REFERENCE).parents[1]):
    os.execv(REFERENCE, [REFERENCE, "-B", *sys.argv])

SCRIPT = SOURCE / "scripts" / "chat-format.py"
TOKENIZER = SOURCE / "tests" / "data" / "tokenizer" / "small" / "tokenizer.json"
CONTENTS = ["Hi", "", "  ", " x\n", "\n\nx", "\u00a0x\u3000", "\x1c\x85 x \u200b", "two\n lines\n\n", "<|im_end|> x <|im_start|>", "caf\u00e9 \U0001f600 12", "\\n '\" {{ x }}"]
STRIP = {"none": lambda b, c: b + c, "both": lambda b, c: b + c.strip(), "end": lambda b, c: (b + c).rstrip()}

OPEN = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"


def turns(value="m.content", end="'<|im_end|>\\n'", start="'<|im_start|>' + m.role + '\\n'"):
    return "{% for m in messages %}{{ " + f"{start} + {value} + {end}" + " }}{% endfor %}"


def branch(cond, value, other):
    return ("{% for m in messages %}{%- if " + cond + " %}{{ '<|im_start|>' + m.role + '\\n' + " + value + " + '<|im_end|>\\n' }}{%- else %}"
            "{{ '<|im_start|>' + m.role + '\\n' + " + other + " + '<|im_end|>\\n' }}{%- endif %}{% endfor %}" + OPEN)


# Each prints a user's turn in its own way: (template, how it strips).
RENDERED = [
    (turns() + OPEN, "none"),
    (turns(end="'<|im_end|>'") + OPEN, "none"),
    (turns(end="'<|im_end|>' + eos_token") + OPEN, "none"),
    (turns(end="'<|im_end|>' + eos_token + '\\n'") + OPEN, "none"),
    (turns(end="'<|im_end|>\\n\\n'") + OPEN, "none"),
    (turns(end="'<|im_end|>' + ('\\n' if not loop.last else '')") + OPEN, "none"),
    (turns(end="'\\n<|im_end|>\\n'") + OPEN, "none"),
    (turns(end="'<|im_end|>' }}{% if not loop.last %}{{ '\\n' }}{% endif %}{{ ''") + OPEN, "none"),
    ("{% for m in messages %}\n{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>\\n' }}\n{% endfor %}\n" + OPEN, "none"),
    ("{% for m in messages %}\n  {{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>\\n' }}{% endfor %}" + OPEN, "none"),
    ("{% for m in messages %}\n    {%- if true %}\n        {{- '<|im_start|>' ~ m.role ~ '\\n' ~ m.content ~ '<|im_end|>\\n' -}}\n    {% endif %}\n{% endfor %}" + OPEN, "none"),
    (turns(start="'<|im_start|>' + m.role + ':\\n'") + OPEN, "none"),
    (turns(start="'<|im_start|>' + m.role | capitalize + '\\nQ: '") + OPEN, "none"),
    ("{% for m in messages %}{{ today }}" + turns()[len("{% for m in messages %}"):] + OPEN, "none"),
    (turns(value="m.content | trim") + OPEN, "both"),
    (turns(value="m.content.strip()") + OPEN, "both"),
    ("{% for m in messages %}{% set content = m['content'] | trim %}{{ '<|im_start|>' + m.role + '\\n' + content + '<|im_end|>\\n' }}{% endfor %}" + OPEN, "both"),
    ("{% for m in messages %}{{ ('<|im_start|>' + m.role + '\\n' + m.content).rstrip() + '<|im_end|>\\n' }}{% endfor %}" + OPEN, "end"),
    (branch("m.role == 'user'", "m.content", "m.content | trim"), "none"),
    (branch("m.role == 'assistant'", "m.content + '<|x|>'", "m.content"), "none"),
    (branch("not (m.role == 'tool' or 'calls' in m)", "m.content.strip()", "m.content"), "both"),
    (turns() + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>\\n' }}{% endif %}", "none"),
    (turns() + OPEN + "{{ 'Sure' }}", "none"),
    (turns() + "{% if add_generation_prompt %}{{ '<|im_start|>bot\\n' }}{% endif %}", "none"),
    (turns(), "none"),
    ("{{ '<|im_start|>system\\nA<|im_end|>\\n' }}{{ '<|im_start|>system\\nB<|im_end|>\\n' }}" + turns() + OPEN, "none"),
    ("{% set system_message = 'Be good.' %}{{ system_message }}" + turns() + OPEN, "none"),
    ("{% if tools %}x{% else %}{{ '<|im_start|>system\\n' }}{% endif %}" + turns() + OPEN, "none"),
    ("{{ bos_token }}" + turns() + OPEN, "none"),
    ("{{ 'Human: ' + messages[0]['content'] + '\\n\\nAssistant:' }}", "none"),
    ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' }}{% generation %}{{ m.content }}{% endgeneration %}{{ '<|im_end|>\\n' }}"
     "{% if loop.last %}{% break %}{% endif %}{% endfor %}" + OPEN, "none"),
    ("{% set ns = namespace(x='Q') %}{{ ns.x + {'a': 'é'} | tojson }}" + turns() + OPEN, "none"),
]
REFUSED = [
    (turns(value="m.content.lstrip()") + OPEN, "changes white space"),
    (turns(value="m['content'] | upper") + OPEN, "changes a message"),
    (turns(value="m.content[:100]") + OPEN, "changes a message"),
    (turns(value="m.content.replace('<', '')") + OPEN, "changes a message"),
    (turns(value="m.content.split('</think>')[-1]") + OPEN, "changes a message"),
    (turns(value="m.content | e") + OPEN, "changes a message"),
    (turns(value="m.content + m.content") + OPEN, "prints the message 2 times"),
    (turns(value="''") + OPEN, "prints the message 0 times"),
    ("{{ raise_exception('no users') }}", "no users"),
    ("{{ messages[1].content }}", "refuses user"),
    ("{{ 1 + 'a' }}", "refuses user"),
    ("{{ 'unclosed", "no jinja"),
    ("{% nonsense %}", "no jinja"),
    ("", "prints the message 0 times"),
]


spec = importlib.util.spec_from_file_location("chat_format", SCRIPT)
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)


def run(*args):
    """(exit code, lines on stderr) of the script, in this process: it is quick, and Python's start is not."""
    errors, sys.argv[1:] = io.StringIO(), [str(a) for a in args]
    with contextlib.redirect_stderr(errors):
        try:
            code = script.main()
        except SystemExit as e:
            code = 1
            print(e, file=sys.stderr)
    return code or 0, errors.getvalue().splitlines()


def make(folder, template, bos="<|endoftext|>", **more):
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    shutil.copy(TOKENIZER, folder)
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": "<|endoftext|>", **more}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)


def written(folder, *args, notes=1):
    code, lines = run(folder, *args)
    assert code == 0 and len(lines) == notes, lines
    return json.loads((folder / "nla_chat.json").read_text()), lines[0]


def refused(message, *args):
    code, lines = run(*args)
    assert code == 1 and len(lines) == 1 and lines[0].startswith("chat-format: error: ") and message in lines[0], (message, lines)


def test_rendered(work, tokenizers):
    for template, strip in RENDERED:
        make(work / "model", template)
        tokenizer = tokenizers.from_pretrained(work / "model")
        for system in (None, "Be  brief."):
            if system and "messages[0]" in template:
                continue
            found, _ = written(work / "model", *(["--system", system] if system else []))
            assert found["strip"] == strip and found["stop"] == ["<|im_end|>" if "<|im_end|>" in template else "<|endoftext|>"], (template, found)
            for content in CONTENTS:
                messages = [{"role": "system", "content": system}] * bool(system) + [{"role": "user", "content": content}]
                want = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
                assert STRIP[strip](found["before"], content) + found["after"] == want, (template, content, want)


def test_refused(work):
    for template, message in REFUSED:
        make(work / "model", template)
        refused(message, work / "model")
        assert not (work / "model" / "nla_chat.json").exists()
    make(work / "model", "{{ messages[-1].content }}")
    refused("does not print the system message", work / "model", "--system", "Be brief.")
    make(work / "model", None)
    refused("has no chat template", work / "model")
    make(work / "model", None, chat_template=[{"name": "rag", "template": "x"}])
    refused("none named 'default'", work / "model")
    (work / "model" / "tokenizer_config.json").write_text("{")
    refused("tokenizer_config.json", work / "model")
    for odd, message in (("[]", "it holds no object"), ("3", "it holds no object"), ("null", "it holds no object"),
                         ('{"chat_template": [3, {"name": []}, {"name": {}}]}', "none named 'default'"),
                         ('{"chat_template": 3, "tokenizer_class": 4}', "has no chat template")):
        (work / "model" / "tokenizer_config.json").write_text(odd)
        refused(message, work / "model")
    make(work / "model", turns() + OPEN, tokenizer_class=4, added_tokens_decoder=[1])
    (work / "model" / "tokenizer.json").write_text("[]")
    refused("tokenizer.json': it holds no object", work / "model")
    (work / "model" / "chat_template.jinja").write_bytes(b"\xff")
    refused("chat_template.jinja", work / "model")
    refused("is no folder", work / "none")
    make(work / "model", turns() + OPEN)
    (work / "model" / "nla_chat.json").mkdir()
    refused("give --out FILE", work / "model")
    done = subprocess.run([sys.executable, "-S", SCRIPT, work / "model"], capture_output=True, text=True)
    assert done.returncode == 1 and "has no jinja2: install it" in done.stderr and len(done.stderr.splitlines()) == 1, done


def test_places(work, tokenizers):
    """Where the template is: as transformers takes it."""
    plain, other = turns() + OPEN, turns(start="'other'")
    for jinja, config in ((plain, other), (None, plain), (None, [{"name": "tool_use", "template": other}, {"name": "default", "template": plain}]),
                          (None, {"default": plain, "rag": other}), (plain, [{"name": "default", "template": other}]), (plain + "\n", None)):
        make(work / "model", jinja, chat_template=config)
        want = tokenizers.from_pretrained(work / "model").apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True)
        found, _ = written(work / "model")
        assert found["before"] + "Hi" + found["after"] == want == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", (found, want)


def test_dates(work):
    make(work / "model", "{{ strftime_now('%d %b %Y') }}" + turns() + OPEN)
    found, said = written(work / "model", notes=2)
    assert found["before"] == "26 Jul 2024<|im_start|>user\n" and "prints today's date: it is 26 Jul 2024" in said, (found, said)


def test_thinking(work, tokenizers):
    think = "{% if enable_thinking is defined and enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
    make(work / "model", turns() + OPEN + think)
    tokenizer = tokenizers.from_pretrained(work / "model")
    for flags, switch in (([], {}), (["--no-thinking"], {"enable_thinking": False})):
        found, _ = written(work / "model", *flags)
        want = tokenizer.apply_chat_template([{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True, **switch)
        assert found["before"] + "Hi" + found["after"] == want and want.endswith("</think>\n\n") == bool(flags), (found, want)
    make(work / "model", turns() + OPEN)
    refused("has no switch for thinking", work / "model", "--no-thinking")


def test_programs(work):
    """An unknown template is refused, and the script's file puts that right; a system turn that is printed is in the prompt."""
    (work / "text.txt").write_text("the end is the end of the text and of the end\n")
    model = work / "tiny"
    shutil.copytree(SOURCE / "tests" / "data" / "tiny" / "model", model)

    def extract(*args):
        return subprocess.run([Path(os.environ["BUILD_DIR"]) / "nla-extract", "--threads", "1", "--device", "cpu", "--model", model, "--corpus", work / "text.txt",
                               "--extract.layer", "2", "--extract.min_position", "1", "--out", work / "set", "--overwrite", *args], capture_output=True, text=True)

    assert "chat format" not in extract().stderr
    (model / "chat_template.jinja").write_text("{{ '<|im_start|>system\\nA<|im_end|>\\n' }}" + turns() + OPEN)
    done = extract()
    assert done.returncode == 1 and "run scripts/chat-format.py" in done.stderr.splitlines()[-1], done
    assert run(model, "--out", work / "chat.json")[0] == 0
    done = extract("--chat.file", work / "chat.json")
    assert done.returncode == 0 and "chat format" not in done.stderr, done
    done = extract("--chat.system", "A")
    assert done.returncode == 0 and "system turn 'A'; scripts/chat-format.py verifies it" in done.stderr, done
    assert subprocess.run([sys.executable, "-B", SCRIPT, model]).returncode == 0
    assert extract().returncode == 0
    done = extract("--chat.system", "A")
    assert done.returncode == 1 and "nla_chat.json' decides the prompts" in done.stderr, done


def main():
    try:
        from transformers import AutoTokenizer
    except ImportError:
        print("skipped: no transformers; scripts/setup.sh --reference installs it")
        return 77
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        test_rendered(work, AutoTokenizer)
        test_refused(work)
        test_places(work, AutoTokenizer)
        test_dates(work)
        test_thinking(work, AutoTokenizer)
        test_programs(work)
    return 0


if __name__ == "__main__":
    sys.exit(main())
