"""NVRTC compiles shim/kernels.cu and shim/decode.cu for every architecture that the wheel's CUDA knows and we name. Skips where there is no NVRTC:
neither a toolkit's libnvrtc.so.13, nor the wheel nvidia-cuda-nvrtc beside libtorch."""
import ctypes
import glob
import os
import re
import sys

found = glob.glob(os.path.join(os.environ["LIBTORCH"], "../../nvidia/*/lib/libnvrtc.so.1[23]")) or ["libnvrtc.so.13"]
try:
    nvrtc = ctypes.CDLL(os.environ.get("NVRTC", found[0]))
except OSError as e:
    print("skipped:", e)
    sys.exit(77)
source = b"".join(open(os.path.join(os.environ["SOURCE_DIR"], "shim", name), "rb").read() for name in ("kernels.cu", "decode.cu"))
for arch in ("sm_80", "sm_86", "sm_89", "sm_90", "sm_100", "sm_120"):
    for kind, head, group in (("bf16", 0, 0), ("bf16", 128, 4), ("bf16", 128, 5), ("bf16", 128, 7), ("bf16", 128, 8), ("bf16", 256, 2),
                              ("bf16", 64, 3), ("float", 0, 0), ("float", 128, 4)):
        program, size = ctypes.c_void_p(), ctypes.c_size_t()
        text = b"#define T %s\n" % kind.encode() + (b"#define HEAD %d\n#define GROUP %d\n" % (head, group) if head else b"") + source
        assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), text, b"kernels.cu", 0, None, None) == 0
        options = (ctypes.c_char_p * 3)(b"--gpu-architecture=" + arch.encode(), b"--std=c++17", b"--ptxas-options=-v")
        failed = nvrtc.nvrtcCompileProgram(program, 3, options)
        nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
        log = ctypes.create_string_buffer(size.value)
        nvrtc.nvrtcGetProgramLog(program, log)
        frames = re.findall(r"(\d+) bytes stack frame", log.value.decode())
        if failed or len(frames) < 8 or set(frames) != {"0"}:   # one keeps registers in memory: several times slower
            sys.exit(f"{arch}, {kind}, head {head}: {log.value.decode()}")
        nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
        print(f"{arch}, {kind}, head {head}: {size.value} bytes")
        assert size.value > 10000
        nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
