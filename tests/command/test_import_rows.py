"""scripts/import-parquet.py, its rows: integers that pandas wrote as doubles, gaps among them, and what is no integer. pyarrow reads them as
Python's numbers, which need neither it nor numpy; whole files are in test_parquet.sh, which does."""

import importlib.util
import os
import sys
from pathlib import Path

sys.dont_write_bytecode = True
spec = importlib.util.spec_from_file_location("import_parquet", Path(os.environ["SOURCE_DIR"]) / "scripts" / "import-parquet.py")
script = importlib.util.module_from_spec(spec)
spec.loader.exec_module(script)
NAN, INF = float("nan"), float("inf")


def row(layer=2, **values):
    return script.row_of({script.TEXT: "t", "response": "<explanation>\ne\n</explanation>", "prompt": None, **values}, "file-7", (None, None), layer, "'file'")


def refused(message, **values):
    try:
        found = row(**values)
    except script.Refused as e:
        assert str(e) == message, e
    else:
        raise AssertionError(f"{values} became {found}")


def main():
    whole = row(n_raw_tokens=57, doc_id=12, activation_layer=2)
    assert whole == {"doc_id": "12", "n_raw_tokens": 57, "text": "t", "explanation": "e", "activation_layer": 2}, whole
    doubles = row(n_raw_tokens=57.0, doc_id=12.0, activation_layer=2.0)
    assert doubles == whole and all(type(doubles[k]) is int for k in ("n_raw_tokens", "activation_layer")), doubles
    assert row(layer=2.0, n_raw_tokens=57.0, doc_id=12.0, activation_layer=2) == whole      # a sidecar may have them too
    assert row(doc_id=2.0**53, n_raw_tokens=2.0**53)["doc_id"] == "9007199254740992"
    for gap in (NAN, None):     # pandas' for a number that is not there: a row of a document of its own
        assert row(n_raw_tokens=gap, doc_id=gap, activation_layer=gap) == {"doc_id": "file-7", "text": "t", "explanation": "e"}, gap
    assert row(doc_id="12.0")["doc_id"] == "12.0" and row(doc_id=0.5)["doc_id"] == "0.5"
    for odd in (57.5, INF, -INF, True, "57"):
        refused(f"'file': column 'n_raw_tokens' holds {odd!r}, want whole numbers", n_raw_tokens=odd)
        refused(f"'file': column 'activation_layer' holds {odd!r}, want whole numbers", activation_layer=odd)
    refused("'file': column 'activation_layer' holds 3, its sidecar says block 2", activation_layer=3.0)


if __name__ == "__main__":
    sys.exit(main())
