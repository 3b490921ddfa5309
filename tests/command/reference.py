"""Modules that a test needs and this Python may lack: the reference environment's Python then runs the test; where there is none it is
skipped."""
import importlib.util
import os
import sys


def need(*modules):
    if all(importlib.util.find_spec(module) for module in modules):
        return
    python = os.environ["REFERENCE_PYTHON"]
    if os.path.exists(python) and sys.executable != python:
        os.execv(python, [python, "-B", *sys.argv])
    print(f"skipped: no {' or '.join(modules)}: scripts/setup.sh --reference installs them", file=sys.stderr)
    sys.exit(77)
