"""python/nla.py on the demo, against nla-explain and nla-eval; what it says of shapes and failures. Needs numpy: this Python's, or the
reference environment's."""
import ctypes
import json
import math
import os
import subprocess
import sys
import tempfile
import threading

sys.dont_write_bytecode = True
import reference  # noqa: E402

reference.need("numpy")
import numpy as np  # noqa: E402

BUILD, SOURCE = os.environ["BUILD_DIR"], os.environ["SOURCE_DIR"]
DEMO = os.path.join(SOURCE, "demo")
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["NLA_LIBRARY"] = os.path.join(BUILD, "libnla.so")
sys.path.insert(0, os.path.join(SOURCE, "python"))
from nla import NLA, NLAError  # noqa: E402

TEXT = "Finn the rabbit lived in the garden, and he was shy. It was a snowy evening, and the rabbit was angry. So Finn went"
OTHER = "One snowy morning, a brave rabbit called Finn felt lonely. His home was by the"


def program(name, *arguments):
    done = subprocess.run([os.path.join(BUILD, name), "--device", "cpu", "--threads", "1", os.path.join(DEMO, "config.json"), *arguments],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def raises(kind, part, function, *arguments, **more):
    try:
        result = function(*arguments, **more)
    except kind as e:
        assert part in str(e), f"'{e}' has no '{part}'"
        return
    raise AssertionError(f"no {kind.__name__}: {result!r}")


def main():
    folders = [os.path.join(DEMO, name) for name in ("model", "av", "ar")]
    raises(NLAError, "no/such", NLA, "no/such", *folders[1:])
    raises(TypeError, "av is of type NoneType", NLA, folders[0], None, folders[2])
    raises(OSError, "no-such.so", NLA, *folders, library="no-such.so")
    with NLA(*folders, device="cpu") as nla:
        assert (nla.width, nla.layer) == (128, 3)
        v = nla.activation(TEXT)
        assert v.shape == (128,) and v.dtype == np.float32
        both = nla.activation([TEXT, OTHER])
        assert both.shape == (2, 128) and (both[0] == v).all() and (both[1] != v).any()
        assert (nla.activation(TEXT + " home", -2) == v).all(), "the position is not the token's"

        # the same explanation and cosine as the program's, greedy and sampled
        for more in ({"temperature": 0}, {"temperature": 1, "seed": 3}):
            line = json.loads(program("nla-explain", "--text", TEXT, *(x for k, y in more.items() for x in (f"--{k}", str(y)))))
            text = nla.explain(v, max_new_tokens=120, **more)
            assert text == line["explanation"], (text, line)
            assert "agreement" not in line
            assert abs(nla.score(text, v) - line["cosine"]) < 1e-5
        assert nla.explain(v, seed=3) != nla.explain(v, seed=4)

        # how much samples of one vector agree: the mean cosine of two of their reconstructions
        samples = [json.loads(x) for x in program("nla-explain", "--text", TEXT, "--samples", "5").splitlines()]
        hats = nla.reconstruct([s["explanation"] for s in samples if not s["failed"]])
        pairs = [a @ b / 128 for i, a in enumerate(hats) for b in hats[:i]]
        assert len(pairs) > 2 and min(pairs) < 0.99 and {round(s["agreement"] - sum(pairs) / len(pairs), 4) for s in samples} == {0}, (pairs, samples)

        # many: a row's greedy text does not depend on its batch; scores and reconstructions are those of one by one
        texts = nla.explain(both, temperature=0)
        assert texts == [nla.explain(row, temperature=0) for row in both] and texts[0] != texts[1]
        assert nla.explain(np.repeat(v[None], 200, 0), temperature=0) == [texts[0]] * 200
        assert nla.explain(both[:0]) == [] and nla.reconstruct([]).shape == (0, 128)
        assert nla.explain(list(v.astype(float)), temperature=0) == texts[0]
        assert nla.explain(np.asfortranarray(both), temperature=0) == texts
        v_hat = nla.reconstruct(texts)
        assert v_hat.shape == (2, 128) and v_hat.dtype == np.float32 and np.allclose(np.linalg.norm(v_hat, axis=1), 128 ** 0.5)
        cosines = nla.score(texts, both)
        assert cosines.shape == (2,) and cosines.dtype == np.float64 and isinstance(nla.score(texts[0], v), float)
        want = (v_hat * both).sum(1) / np.linalg.norm(v_hat, axis=1) / np.linalg.norm(both, axis=1)
        assert np.allclose(cosines, want, atol=1e-5) and cosines[0] == nla.score(texts[0], v)

        # and nla-eval's, of given texts
        with tempfile.TemporaryDirectory() as folder:
            with open(f"{folder}/texts.jsonl", "w") as f:
                f.writelines(json.dumps({"row": row, "explanation": texts[0]}) + "\n" for row in (7, 8))
            program("nla-eval", "--data", f"{DEMO}/eval", "--score", f"{folder}/texts.jsonl", "--out", f"{folder}/out")
            with open(f"{folder}/out/rows.jsonl") as f:
                theirs = [json.loads(line)["cosine"] for line in f]
        assert np.allclose(nla.score([texts[0]] * 2, stored_vectors()[7:9]), theirs, atol=1e-5)

        # failures: one line of libnla's; shapes; the state stays whole
        raises(NLAError, "wrote no explanation: truncated", nla.explain, v, max_new_tokens=2)
        assert nla.explain(both, max_new_tokens=2) == [None, None]
        raises(NLAError, "longer than the", nla.reconstruct, "word " * 2000)
        raises(NLAError, "", nla.activation, "")
        raises(NLAError, "", nla.activation, TEXT, 4000)
        raises(ValueError, "v has shape (127,), want (128,) or (N, 128)", nla.explain, v[:127])
        raises(ValueError, "v has shape (1, 2, 128)", nla.explain, both[None])
        raises(ValueError, "v has shape (128,), want (2, 128)", nla.score, texts, v)
        raises(ValueError, "v has shape (2, 128), want (128,)", nla.score, texts[0], both)
        raises(ValueError, "not finite", nla.explain, v * np.nan)
        raises(ValueError, "a vector of zeros", nla.explain, np.stack([v, 0 * v]))
        raises(ValueError, "temperature -1", nla.explain, v, temperature=-1)
        for n, tokens, temperature in ((1, -1, 1.0), (-1, 8, 1.0), (1, 8, -1.0), (1, 8, math.nan)): # so says libnla itself, which a C program calls
            message = ctypes.create_string_buffer(1024)
            assert not nla._lib.nla_explain_many(nla._nla, v.ctypes.data_as(ctypes.POINTER(ctypes.c_float)), n, tokens, temperature, 0, message)
            assert message.value.startswith(b"want finite activations"), message.value
        raises(ValueError, "zero byte", nla.reconstruct, "a\0b")
        raises(TypeError, "text is of type int", nla.reconstruct, [3])
        found = []
        threads = [threading.Thread(target=lambda: found.append(nla.explain(v, temperature=0))) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert found == [texts[0]] * 4
    # a program that has set a locale whose decimal sign is a comma reads the same sidecars
    with tempfile.TemporaryDirectory() as folder:
        if subprocess.run(["localedef", "-i", "de_DE", "-f", "UTF-8", f"{folder}/de"], capture_output=True).returncode == 0:
            code = "import locale, sys, nla; locale.setlocale(locale.LC_ALL, 'de'); nla.NLA(*sys.argv[1:], device='cpu')"
            subprocess.run([sys.executable, "-c", code, *folders], check=True, env={**os.environ, "LOCPATH": folder, "PYTHONPATH": os.path.join(SOURCE, "python")})
        else:
            print("    no localedef or no locales here: not opened with a comma for decimal sign")
    raises(NLAError, "closed", nla.explain, v)
    nla.close()


def stored_vectors():
    """[N, D] of the demo's held-out set: bf16, widened."""
    with open(f"{DEMO}/eval/activations.safetensors", "rb") as f:
        entry = json.loads(f.read(int.from_bytes(f.read(8), "little")))["activations"]
        assert entry["dtype"] == "BF16" and entry["data_offsets"][0] == 0
        raw = np.frombuffer(f.read(), np.uint16).reshape(entry["shape"])
    return (raw.astype(np.uint32) << 16).view(np.float32)


main()
