"""Natural Language Autoencoders from Python: ctypes over libnla.so (include/nla.h). Of Python's packages it needs numpy alone.

    from nla import NLA

    with NLA("demo/model", "demo/av", "demo/ar") as nla:
        v = nla.activation("Finn the rabbit lived in the garden. So Finn went")     # float32 [D], at the last token
        text = nla.explain(v, temperature=0)
        print(text, nla.score(text, v))                                             # the cosine of prediction and vector

Letters for shapes: N vectors or texts, D the target's width (`width`). A vector is raw: the residual stream after block `layer`.
Where a vector [D] or a text is wanted, an array [N, D] or a sequence of N texts gives N results. What libnla cannot do is an
NLAError with its one line of text; an array or a number that makes no sense is a ValueError.

The library is the argument `library`, else the variable NLA_LIBRARY, else build/libnla.so of this source tree, else the one that
the system's loader finds. A process that imports torch as well must import the release whose libtorch libnla was built with.
"""

import ctypes
import os
import threading

import numpy as np

__all__ = ["NLA", "NLAError"]


class NLAError(RuntimeError):
    """What libnla says when it cannot do something."""


def _load(path):
    built = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "build", "libnla.so")
    lib = ctypes.CDLL(path or os.environ.get("NLA_LIBRARY") or (built if os.path.exists(built) else "libnla.so.0"))
    p, text, i32, i64 = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_int64
    for name, result, arguments in [
            ("nla_open", i32, [p, text, text, text, text, p]),
            ("nla_close", None, [p]),
            ("nla_width", i64, [p]),
            ("nla_layer", i64, [p]),
            ("nla_activation", i32, [p, text, i64, p, p]),
            ("nla_explain_many", p, [p, p, i64, i64, ctypes.c_double, ctypes.c_uint64, p]),
            ("nla_reconstruct", i32, [p, text, p, p, p, p])]:
        function = getattr(lib, name)
        function.restype, function.argtypes = result, arguments
    return lib


def _c_string(text, name):
    data = os.fspath(text) if isinstance(text, os.PathLike) else text
    if not isinstance(data, str):
        raise TypeError(f"{name} is of type {type(text).__name__}, want str")
    if "\0" in data:
        raise ValueError(f"{name} holds a zero byte")
    return data.encode()


def _texts(text):
    """Whether it is a sequence of texts, and the texts."""
    many = not isinstance(text, str)
    return many, [_c_string(x, "text") for x in (text if many else [text])]


class NLA:
    """A target with its verbalizer and reconstructor, loaded. A context manager; calls from several threads wait for one another.
    On a GPU a process uses one card, from the thread that opened it.

    model: the target's folder; av, ar: adapter folders or whole checkpoints with their sidecars, of a run RUN/checkpoints/latest/av and
    .../ar; device: "auto", "cpu", "cuda", "cuda:1".
    """

    def __init__(self, model, av, ar, device="auto", library=None):
        self._nla, self._lock, self._message = ctypes.c_void_p(), threading.Lock(), ctypes.create_string_buffer(1024)
        self._lib = _load(library)
        paths = [_c_string(x, name) for x, name in zip((model, av, ar, device), ("model", "av", "ar", "device"))]
        if self._lib.nla_open(ctypes.byref(self._nla), *paths, self._message):
            raise NLAError(self._message.value.decode("utf-8", "replace"))
        self.width = self._lib.nla_width(self._nla)
        self.layer = self._lib.nla_layer(self._nla)

    def close(self):
        """Frees the models. The object is of no use afterwards; closing it again does nothing."""
        with self._lock:
            self._lib.nla_close(self._nla)
            self._nla = ctypes.c_void_p()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def __del__(self):
        if getattr(self, "_nla", None):
            self.close()

    def activation(self, text, position=-1):
        """The target's activation of a text at one of its tokens (negative: from the end): float32 [D]; of N texts [N, D]."""
        many, texts = _texts(text)
        v = np.empty((len(texts), self.width), np.float32)
        for row, x in zip(v, texts):
            self._call("nla_activation", x, int(position), row.ctypes.data)
        return v if many else v[0]

    def explain(self, v, max_new_tokens=160, temperature=1.0, seed=0):
        """What the verbalizer writes about v [D]: a str. Temperature 0 is greedy; equal seeds give equal texts.

        Of v [N, D], which decode together, a list of N; a verbalizer that closes no tags gives None there, and an NLAError for one vector.
        """
        v = self._vectors(v)
        if max_new_tokens < 1 or not temperature >= 0 or seed < 0:
            raise ValueError(f"max_new_tokens {max_new_tokens}, temperature {temperature}, seed {seed}: want 1, 0 and 0 or more")
        n, free = v.size // self.width, ctypes.CDLL(None).free
        texts, why = self._call("nla_explain_many", v.ctypes.data, n, int(max_new_tokens), float(temperature), int(seed))
        texts = ctypes.cast(texts, ctypes.POINTER(ctypes.c_void_p))
        found = [ctypes.string_at(texts[i]).decode("utf-8", "replace") if texts[i] else None for i in range(n)]
        for i in range(n):
            free(ctypes.c_void_p(texts[i]))
        free(texts)
        if v.ndim == 2:
            return found
        if found[0] is None:
            raise NLAError(why)
        return found[0]

    def reconstruct(self, text):
        """What the reconstructor predicts from a text: float32 [D], of length sqrt(D); of N texts [N, D]."""
        many, texts = _texts(text)
        v_hat = np.empty((len(texts), self.width), np.float32)
        for row, x in zip(v_hat, texts):
            self._call("nla_reconstruct", x, row.ctypes.data, None, None)
        return v_hat if many else v_hat[0]

    def score(self, text, v):
        """The cosine of v [D] and what the reconstructor predicts from a text: a float; of N texts and v [N, D] a float64 [N].

        The papers' mse is 2 (1 - cosine), and FVE 1 - mse / baseline, where the baseline is a data set's (its nla_meta.yaml).
        """
        v = self._vectors(v)
        many, texts = _texts(text)
        want = (len(texts), self.width) if many else (self.width,)
        if v.shape != want:
            raise ValueError(f"v has shape {v.shape}, want {want}")
        cosines = np.empty(len(texts))
        for i, (row, x) in enumerate(zip(v.reshape(-1, self.width), texts)):
            self._call("nla_reconstruct", x, None, row.ctypes.data, cosines[i:].ctypes.data)
        return cosines if many else float(cosines[0])

    def _vectors(self, v):
        v = np.ascontiguousarray(v, np.float32)
        if v.ndim not in (1, 2) or v.shape[-1] != self.width:
            raise ValueError(f"v has shape {v.shape}, want ({self.width},) or (N, {self.width})")
        if not np.isfinite(v).all():
            raise ValueError("v holds numbers that are not finite")
        if not v.any(-1).all():
            raise ValueError("v holds a vector of zeros, which has no direction to explain")
        return v

    def _call(self, name, *arguments):
        """What libnla's function returns and leaves in its message; an NLAError when it fails."""
        function = getattr(self._lib, name)
        with self._lock:
            if not self._nla:
                raise NLAError("it is closed")
            result = function(self._nla, *arguments, self._message)
            message = self._message.value.decode("utf-8", "replace")
        if not result if function.restype is ctypes.c_void_p else result:
            raise NLAError(message)
        return result, message
