#!/usr/bin/env python3
"""
chat-format.py - what a model's chat template prints around a user's message, for nla_chat.json.

    scripts/chat-format.py MODEL [--system TEXT] [--no-thinking] [--out FILE]

MODEL is a Hugging Face folder. Its template (chat_template.jinja, else chat_template of tokenizer_config.json, "default" of several) is
rendered by jinja2 as transformers does, with one user message and the opening of the assistant's turn. Odd messages find out what is in
front of the message, what is behind it, and whether white space around it is stripped; a template that does anything else to a message
is refused. A date is pinned to 26 Jul 2024, and that is said. The result is MODEL/nla_chat.json, which every program reads first:

    {"before": TEXT, "after": TEXT, "strip": "none" | "both" | "end", "stop": [TOKEN, ...]}

"both" strips the message, "end" what is at the end of before + message; the first stop token ends a response.

--system TEXT   render with this system message; without it the template's own default, if it has one, is in "before"
--no-thinking   render with enable_thinking false, as AVs of some trainers have it: Qwen3's prints an empty think block
--out FILE      write there instead: for a folder that cannot be written to, with the option chat.file FILE

Exit 0: done, 1: failed (one line on stderr), 2: usage. Needs jinja2.
"""
import argparse
import datetime
import json
import os
import pathlib
import sys

TODAY = datetime.datetime(2024, 7, 26)
PLAIN = ["Hello", "two\nlines", "caf\u00e9 e\u0301 \u4f60\u597d \U0001f600 12345", "<|im_end|><|eot_id|></s> inside", "<think>a</think>b", "a  b\tc",
         "{{ x }} {% y %} {# z #}", "'a' \"b\" \\n \\", "<system>x</system> [INST] [/INST]", "A" * 5000, "\u200bzero width\u200b"]
SPACES = ["", " ", "\n\n", "  x", "x \n", "\tx\t", "\n\nx\n\n", "\u00a0 x\u3000", "\x1c\x85x\u2028", "\r\nx\r\n", " \n x y \n "]
PROBE, ANSWER = "\ue000\ue001", "\ue002\ue003"
STRIPS = {
    "none": lambda before, content: before + content,
    "both": lambda before, content: before + content.strip(),
    "end": lambda before, content: (before + content).rstrip(),
}


class Refused(Exception):
    """What is wrong with what was given; its text is the line that is printed."""


def say(text):
    print(f"chat-format: {text}", file=sys.stderr)


def read_text(path):
    try:
        return path.read_text("utf-8")
    except (OSError, ValueError) as e:
        raise Refused(f"cannot read '{path}': {e}")


def read_json(path):
    try:
        found = json.loads(read_text(path)) if path.exists() else {}
    except (ValueError, RecursionError) as e:
        raise Refused(f"cannot read '{path}': {e}")
    if not isinstance(found, dict):
        raise Refused(f"cannot read '{path}': it holds no object")
    return found


def field(found, key, kind):
    """The value at key where it is of that kind, else an empty one."""
    return found[key] if isinstance(found.get(key), kind) else kind()


def find_template(folder, config):
    """(file, text); transformers prefers chat_template.jinja."""
    jinja = folder / "chat_template.jinja"
    if jinja.exists():
        return jinja, read_text(jinja)
    text = config.get("chat_template")
    if isinstance(text, (list, dict)):
        named = text if isinstance(text, dict) else {field(t, "name", str): t.get("template") for t in text if isinstance(t, dict)}
        if not isinstance(named.get("default"), str):
            raise Refused(f"'{folder}/tokenizer_config.json' has chat templates, but none named 'default'")
        text = named["default"]
    if not isinstance(text, str):
        raise Refused(f"'{folder}' has no chat template: neither chat_template.jinja nor chat_template of tokenizer_config.json")
    return folder / "tokenizer_config.json", text


def special_tokens(folder, config):
    """bos_token and the like, as transformers hands them to a template."""
    found = {}
    if (field(config, "tokenizer_class", str) or "LlamaTokenizer").startswith("LlamaTokenizer"):
        found = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    sources = [config] if "added_tokens_decoder" in config else [read_json(folder / "special_tokens_map.json"), config]
    for source in sources:
        for key in ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token"):
            value = source.get(key)
            value = value.get("content") if isinstance(value, dict) else value
            if isinstance(value, str):
                found[key] = value
    return found


def known_tokens(folder, config):
    listed = field(read_json(folder / "tokenizer.json"), "added_tokens", list)
    decoder = field(config, "added_tokens_decoder", dict)
    return {field(t, "content", str) for t in [*listed, *decoder.values()] if isinstance(t, dict)} - {""}


class Renderer:
    """A template, with what transformers hands to it besides messages; dated: whether it asked for today's date."""

    def __init__(self, text, tokens):
        try:
            import jinja2.ext
            import jinja2.sandbox
        except ImportError:
            raise Refused("this Python has no jinja2: install it (python3 -m pip install jinja2), or use the Python of scripts/setup.sh --reference")

        class Generation(jinja2.ext.Extension):
            """{% generation %} marks the assistant's text for training; it prints what is in it."""
            tags = {"generation"}

            def parse(self, parser):
                line = next(parser.stream).lineno
                body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
                return jinja2.nodes.Scope(body).set_lineno(line)

        self.error, self.dated, self.tokens = jinja2.exceptions.TemplateError, False, tokens
        env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                           extensions=[Generation, jinja2.ext.loopcontrols])
        env.filters["tojson"] = lambda x, **options: json.dumps(x, **{"ensure_ascii": False, **options})
        env.globals.update(raise_exception=self.refuse, strftime_now=self.today)
        try:
            self.template = env.from_string(text)
        except self.error as e:
            raise Refused(f"the template is no jinja: {e}")

    def refuse(self, message):
        raise self.error(message)

    def today(self, form):
        self.dated = True
        return TODAY.strftime(form)

    def render(self, messages, prompt=True):
        messages = [dict(zip(("role", "content"), m)) for m in messages]
        try:
            return self.template.render(messages=messages, tools=None, documents=None, add_generation_prompt=prompt, **self.tokens)
        except (self.error, TypeError, ValueError, ArithmeticError, LookupError, RecursionError) as e:
            raise Refused(f"the template refuses {' + '.join(m['role'] for m in messages)}: {type(e).__name__}: {e}")


def around(rendered, probe, what):
    if rendered.count(probe) != 1:
        raise Refused(f"the template prints {what} {rendered.count(probe)} times, want once")
    return rendered.split(probe)


def probe(renderer, system):
    """(before, after, strip): found with one message, verified with all."""
    first = [("system", system)] if system is not None else []

    def render(content):
        return renderer.render([*first, ("user", content)])

    before, after = around(render(PROBE), PROBE, "the message")
    if system and system.strip() not in before:
        raise Refused("the template does not print the system message")
    rendered = {content: render(content) for content in PLAIN + SPACES}
    for content in PLAIN:
        if rendered[content] != before + content + after:
            raise Refused(f"the template changes a message: {content[:40]!r} is not what it prints between {before[-40:]!r} and {after[:40]!r}")
    for name, strip in STRIPS.items():
        if all(rendered[content] == strip(before, content) + after for content in SPACES):
            return before, after, name
    odd = [c for c in SPACES if all(rendered[c] != strip(before, c) + after for strip in STRIPS.values())] or SPACES
    raise Refused(f"the template changes white space in a way that is neither to keep nor to strip it, for instance of {odd[0]!r}")


def end_of_turn(renderer, known, after):
    """The token behind an answer; where the template takes no answer or prints none there, the one behind the message, or eos_token."""
    eos = renderer.tokens.get("eos_token")
    known = {t for t in [*known, *renderer.tokens.values()] if t}
    try:
        tail = renderer.render([("user", PROBE), ("assistant", ANSWER)], prompt=False).rpartition(ANSWER)[2]
    except Refused:
        tail = ""
    ends = [max((t for t in known if text.lstrip().startswith(t)), key=len, default=None) for text in (tail, after)]
    if not any([*ends, eos]):
        raise Refused(f"cannot tell which token ends a response: behind an answer the template prints {tail[:40]!r}, and there is no eos_token")
    return ends[0] or ends[1] or eos


def describe(text, tokens, known=(), system=None):
    """What nla_chat.json holds, and the renderer."""
    renderer = Renderer(text, tokens)
    before, after, strip = probe(renderer, system)
    return {"before": before, "after": after, "strip": strip, "stop": [end_of_turn(renderer, known, after)]}, renderer


def write(path, found):
    part = path.with_name(path.name + ".tmp")
    try:
        part.write_text(json.dumps(found, ensure_ascii=False, indent=2) + "\n", "utf-8")
        os.replace(part, path)
    except OSError as e:
        raise Refused(f"cannot write '{path}': {e.strerror}; give --out FILE, and then chat.file FILE to the programs")


def run(args):
    switch = {"enable_thinking": False} if args.no_thinking else {}
    folder = pathlib.Path(args.model)
    if not folder.is_dir():
        raise Refused(f"'{folder}' is no folder")
    config = read_json(folder / "tokenizer_config.json")
    file, text = find_template(folder, config)
    try:
        if switch and "enable_thinking" not in text:
            raise Refused("the template has no switch for thinking: leave out --no-thinking")
        found, renderer = describe(text, special_tokens(folder, config) | switch, known_tokens(folder, config), args.system)
    except Refused as e:
        raise Refused(f"'{file}': {e}")
    out = pathlib.Path(args.out) if args.out else folder / "nla_chat.json"
    write(out, found)
    if renderer.dated:
        say(f"the template prints today's date: it is {TODAY:%d %b %Y} in '{out}'")
    say(f"wrote '{out}': prompts begin with {found['before']!r} and end with {found['after']!r}")


def main():
    parser = argparse.ArgumentParser(prog="chat-format", description="Write what a model's chat template prints around a message.")
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--system", metavar="TEXT", help="system message (default: the template's own)")
    parser.add_argument("--no-thinking", action="store_true", help="render with enable_thinking false")
    parser.add_argument("--out", metavar="FILE", help="file to write (default: MODEL/nla_chat.json)")
    try:
        run(parser.parse_args())
    except (Refused, OSError, UnicodeDecodeError) as e:
        sys.exit(f"chat-format: error: {e}")


if __name__ == "__main__":
    main()
