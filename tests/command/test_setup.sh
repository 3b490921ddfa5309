# setup.sh: packages unpacked without root are used only where none can be installed, and it says when it does that. Programs that
# it asks for are stubs: nothing is installed here.
. "${SOURCE_DIR:?}/tests/command/lib.sh"

stub() { # NAME TEXT
	printf '#!/bin/sh\n%s\n' "$2" >"$work/bin/$1"
	chmod +x "$work/bin/$1"
}
mkdir -p "$work/bin" "$work/torch/lib" "$work/cache/debian/usr/lib/any-linux-gnu"
touch "$work/torch/lib/libtorch_cpu.so" "$work/cache/debian/.nla-installed"
for name in cc c++ make cmake ninja pkg-config ccache gnuplot python3 sudo; do
	stub $name 'exit 0'
done
stub id 'echo 1000'
stub apt-get 'echo "E: no archive here" >&2; exit 100'
stub dpkg-deb 'exit 1'

setup() { # the settings that it prints, in $work/stdout
	code=0
	PATH=$work/bin:$PATH NLA_CACHE=$work/cache LIBTORCH_DIR=$work/torch "$BASH" "$SOURCE_DIR/scripts/setup.sh" --env --no-build "$@" \
		</dev/null >"$work/stdout" 2>"$work/stderr" || code=$?
}

setup
[ "$code" -eq 0 ] || fail "with sudo: exits $code: $(cat "$work/stderr")"
! grep -q "$work/cache/debian" "$work/stdout" || fail "with sudo: uses what was unpacked: $(cat "$work/stdout")"
setup --no-root
[ "$code" -eq 0 ] && grep -q "PKG_CONFIG_PATH=.*$work/cache/debian" "$work/stdout" || fail "--no-root: $(cat "$work/stdout" "$work/stderr")"
! grep -q 'driver' "$work/stderr" || fail "without a GPU it speaks of a driver: $(cat "$work/stderr")"
stub nvidia-smi 'echo "| NVIDIA-SMI 570.86.10    Driver Version: 570.86.10    CUDA Version: 12.8     |"'
setup
[ "$code" -eq 0 ] && grep -q "warning: the GPU's driver is of CUDA 12 and libtorch needs 13" "$work/stderr" || fail "an old driver: $(cat "$work/stderr")"
echo "cuda: Optional[str] = '12.8'" >"$work/torch/version.py"
setup
[ "$code" -eq 0 ] && ! grep -q 'warning' "$work/stderr" || fail "a wheel of CUDA 12 for it: $(cat "$work/stderr")"
rm "$work/torch/version.py"
rm "$work/bin/nvidia-smi"
# What modules and a relative NLA_CACHE bring to it.
stub python3 '[ -z "${PYTHONPATH-}" ]'
(cd "$work" && PYTHONPATH=$work/modules NLA_CACHE=cache LIBTORCH_DIR=torch PATH=$work/bin:$PATH "$BASH" "$SOURCE_DIR/scripts/setup.sh" --env --no-build) \
	</dev/null >"$work/stdout" 2>"$work/stderr" || fail "with PYTHONPATH: $(cat "$work/stderr")"
grep -q "LIBTORCH_DIR=['\"]*$work/torch" "$work/stdout" && grep -q "NLA_REFERENCE=['\"]*$work/cache/" "$work/stdout" ||
	fail "relative paths: $(cat "$work/stdout")"
# sudo has the proxy.
stub sudo '[ "$1" != -n ] || shift; exec env -i PATH="$PATH" "$@"'
stub apt-get "echo \"proxy: \$http_proxy\" >>$work/proxy; exit 100"
stub pkg-config 'exit 1'
http_proxy=http://proxy:3128 setup
grep -qx 'proxy: http://proxy:3128' "$work/proxy" || fail "apt-get behind sudo: $(cat "$work/proxy" "$work/stderr")"
stub apt-get 'echo "E: no archive here" >&2; exit 100'
stub pkg-config 'exit 0'
stub sudo 'exit 1'
setup
[ "$code" -eq 0 ] && grep -q "PKG_CONFIG_PATH=.*$work/cache/debian" "$work/stdout" || fail "no sudo: $(cat "$work/stdout" "$work/stderr")"
stub pkg-config 'exit 1'
setup
[ "$code" -eq 1 ] || fail "no sudo and packages missing: exits $code"
grep -q "packages cannot be installed (no root and no sudo that works, or no apt-get): they are unpacked into '$work/cache/debian'" \
	"$work/stderr" || fail "it does not say what it does instead: $(cat "$work/stderr")"
grep -q "cannot get .*libcjson-dev.*: E: no archive here" "$work/stderr" || fail "no reason: $(cat "$work/stderr")"

# Behind a proxy: the reason names the file that pip was given, which installing ca-certificates may have written anew.
stub pkg-config 'exit 0'
stub python3 'case "$*" in "-m venv"*) mkdir -p "$3/bin"; printf "#!/bin/sh\necho CERTIFICATE_VERIFY_FAILED >&2; exit 1\n" >"$3/bin/python"
	chmod +x "$3/bin/python" ;; esac'
unset PIP_CERT PYTHON
stub df 'echo; echo "- - - 99999 -"' # of which a small /tmp has less
stub flock 'exit 1' # as on a file system without locks
setup --reference
grep -q "cannot be locked" "$work/stderr" || fail "no word of the lock: $(cat "$work/stderr")"
[ "$code" -eq 1 ] && grep -q "behind a proxy, set PIP_CERT" "$work/stderr" || fail "without PIP_CERT: exits $code: $(cat "$work/stderr")"
export PIP_CERT=$work/certs
setup --reference
[ "$code" -eq 1 ] && grep -q "is not in PIP_CERT's '$work/certs'" "$work/stderr" || fail "with PIP_CERT: exits $code: $(cat "$work/stderr")"

# The wheels of CUDA 13 and of 12 have their headers and NVRTC in folders of their own; those of the other version are passed over.
site=$work/site cmake=$(command -v cmake)
mkdir -p "$site/torch/include/ATen" "$site/torch/lib" "$site/project"
touch "$site/torch/include/ATen/ATen.h"
for name in libtorch_cpu libc10 libtorch_cuda libc10_cuda libgomp; do
	touch "$site/torch/lib/$name.so"
done
cat >"$site/project/CMakeLists.txt" <<END
cmake_minimum_required(VERSION 3.25)
project(wheel LANGUAGES NONE)
include($SOURCE_DIR/cmake/FindLibTorch.cmake)
message(STATUS "of \${LIBTORCH_WHEEL}: \${LIBTORCH_NVRTC} \${LIBTORCH_CUDA_HEADERS} \${LIBTORCH_NO_CUDA}")
END
wheel() { # CUDA
	printf "__all__ = ['__version__', 'cuda', 'hip']\\n__version__ = '2.11.0+cu%s'\ncuda: Optional[str] = '%s'\n" "${1%.*}${1#*.}" "$1" >"$site/torch/version.py"
	env -u CUDA_HOME "$cmake" -S "$site/project" -B "$site/build-$1" -DLIBTORCH_DIR="$site/torch" 2>&1 | sed -n "s#$site/torch/../##g; s/^-- of //p"
}
header() { # FOLDER VERSION
	mkdir -p "$site/nvidia/$1"
	echo "#define CUDART_VERSION  $2" >"$site/nvidia/$1/cuda_runtime_api.h"
}
header cuda_runtime/include 12080
header cu13/include 13000
mkdir -p "$site/nvidia/cu13/include/crt" "$site/nvidia/cuda_nvcc/include/crt"
touch "$site/nvidia/cu13/include/crt/host_config.h"
is() { [ "$1" = "$2" ] || fail "'$1', want '$2'"; }
is "$(wheel 13.0)" '2.11.0+cu130: cu13/lib/libnvrtc.so.13 nvidia/cu13/include;nvidia/cu13/include '
case $(wheel 12.8) in
'2.11.0+cu128: cuda_nvrtc/lib/libnvrtc.so.12  there were no headers of CUDA 12 '*) ;;
*) ls -d /usr/local/cuda* >/dev/null 2>&1 || fail "no headers of CUDA 12: $(wheel 12.8)" ;;
esac
touch "$site/nvidia/cuda_nvcc/include/crt/host_config.h"
rm -r "$site/build-12.8"
is "$(wheel 12.8)" '2.11.0+cu128: cuda_nvrtc/lib/libnvrtc.so.12 nvidia/cuda_runtime/include;nvidia/cuda_nvcc/include '
