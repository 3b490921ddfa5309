#!/usr/bin/env bash
# setup.sh - everything a fresh machine needs: Debian packages, libtorch, a configured and compiled build/.
#
#	scripts/setup.sh [--gpu] [--reference] [--tests] [--no-root] [--no-build]
#
#	--gpu        the wheel's CUDA libraries too (3.6 GB more); implied where an NVIDIA GPU is found
#	--reference  a second Python environment (5 GB) with PyTorch, transformers and peft: the tests that compare with them
#	--tests      compile the tests too, about as much again; scripts/test.sh does
#	--no-root    as for a user who may not install packages: unpack them into NLA_CACHE/debian, and take cmake and ninja from PyPI.
#	             Implied where there is neither root nor a sudo that works; only Python, a C and C++ compiler and make must be there.
#	             What it unpacked once is used only by runs like it
#	--no-build   stop before configuring and compiling
#	--env        (for scripts) print the settings below as shell text on stdout, everything else on stderr
#
# Sourced from bash, it takes its options from $NLA_SETUP, and sets NLA_BUILD (programs), LIBTORCH_DIR and NLA_REFERENCE (the
# Python of that second environment, whether or not it exists).
#
# Environment: NLA_CACHE (default ~/.cache/nla) holds both environments; LIBTORCH_DIR: the torch/ folder of a wheel installed
# elsewhere, used in place of ours; PYTHON: the interpreter that makes the environments.
#
# Every step looks first and does only what is missing, so a second run takes a second. An environment counts as installed
# when its marker file holds the list of what was asked for: the marker is written last, after every file was compared with
# its recorded size, so an interrupted run is repaired by the next one.

if [ "${BASH_SOURCE[0]}" != "$0" ]; then
	# shellcheck disable=SC2086  # the options are words
	nla_env=$(bash "${BASH_SOURCE[0]}" --env ${NLA_SETUP:-}) || return 1
	eval "$nla_env"
	unset nla_env
	return 0
fi

set -eu
unset PYTHONPATH PYTHONHOME # environment modules set them, for packages that are not in ours
root=$(cd "$(dirname "$0")/.." && pwd)
build=$root/build
cache=${NLA_CACHE:-${XDG_CACHE_HOME:-${HOME:?is not set, and neither is NLA_CACHE}/.cache}/nla}
cache=$(realpath -m -- "$cache")
[ -z "${LIBTORCH_DIR:-}" ] || LIBTORCH_DIR=$(realpath -m -- "$LIBTORCH_DIR")
torch_version=2.11.0
cmake_wanted=3.25
torch_venv=$cache/torch-$torch_version
reference=$cache/reference
prefix=$cache/debian # packages of one's own, without root
tools=$cache/tools

cuda_headers="nvidia-cuda-crt==13.0.88" # of cuda_runtime.h, which no other wheel has
cpu_pins="torch==$torch_version nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 $cuda_headers"
gpu_pins="torch==$torch_version $cuda_headers"
reference_pins="torch==$torch_version transformers==5.23.0 peft==0.21.2 tokenizers==0.23.3 safetensors==0.8.0"
reference_pins="$reference_pins numpy sentencepiece protobuf pyarrow pyyaml"
tools_pins="cmake==3.31.6 ninja==1.11.1.4"

say() { echo "setup: $*" >&2; }
die() { echo "setup: error: $*" >&2; exit 1; }

# ---------------------------------------------------------------------------------------------------- Debian packages

python_ok() { # with the wheel of pip, ensurepip may be missing
	local also=', ensurepip'
	[ -z "$pip_wheel" ] || also=''
	"$1" -c "import sys, venv$also; sys.exit(sys.version_info < (3, 10))" 2>/dev/null
}

find_python() {
	local candidate
	for candidate in ${PYTHON:-} python3 /usr/bin/python3; do
		if python_ok "$candidate"; then
			echo "$candidate"
			return
		fi
	done
}

have() { command -v "$1" >/dev/null 2>&1; }

cmake_ok() { printf '%s\n' "$cmake_wanted" "$(cmake --version | sed -n '1s/[^0-9]*//p')" | sort -VC; }

# Debian names of what the build cannot do without. Looked for by what is used, not by package: any distribution will do.
missing_packages() {
	local pair
	have cc && have c++ && have make || echo build-essential
	for pair in cmake=cmake ninja=ninja-build pkg-config=pkg-config; do
		have "${pair%=*}" || echo "${pair#*=}"
	done
	[ -n "$(find_python)" ] || echo python3-venv
	[ -e /etc/ssl/certs/ca-certificates.crt ] || [ -e /etc/pki/tls/certs/ca-bundle.crt ] || [ -e /etc/ssl/cert.pem ] ||
		echo ca-certificates
	for pair in sentencepiece=libsentencepiece-dev libcjson=libcjson-dev zlib=zlib1g-dev libpcre2-8=libpcre2-dev \
		libutf8proc=libutf8proc-dev yaml-0.1=libyaml-dev cmocka=libcmocka-dev; do
		pkg-config --exists "${pair%=*}" 2>/dev/null || echo "${pair#*=}"
	done
}

# ccache shortens rebuilds, gnuplot draws the curves: neither stops anything when it cannot be had.
wanted_packages() {
	have ccache || echo ccache
	have gnuplot || echo gnuplot-nox
}

lock_cache() { # until 9 is closed
	mkdir -p "$cache/tmp" || die "cannot create '$cache'"
	exec 9>"$cache/.lock"
	flock 9 || say "'$cache/.lock' cannot be locked: nothing keeps two installations apart"
}

as_root() {
	local kept=() name
	for name in http_proxy https_proxy no_proxy; do # which sudo forgets
		[ -z "${!name:-}" ] || kept+=("$name=${!name}")
	done
	if [ "$(id -u)" = 0 ]; then
		env "$@"
	elif [ -t 0 ]; then
		sudo env "${kept[@]}" "$@"
	else
		sudo -n env "${kept[@]}" "$@"
	fi
}

may_install() { [ "$(id -u)" = 0 ] || { have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }

apt_install() {
	local log
	log=$(mktemp)
	if ! as_root DEBIAN_FRONTEND=noninteractive apt-get update -qq >"$log" 2>&1 ||
		! as_root DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >>"$log" 2>&1; then
		if grep -qE 'Could not (resolve|connect)|Temporary failure|Cannot initiate the connection|Unable to connect' "$log"; then
			apt_error='no network, or the package archive cannot be reached'
		else
			apt_error=$(grep -E '^(E|sudo):' "$log" | tail -n 1 || true)
		fi
		rm -f "$log"
		return 1
	fi
	rm -f "$log"
}

# ---- packages without root ----

# What a build and its programs need to know of the prefix. The rpath of old holds for the libraries of libraries too.
use_prefix() {
	local lib
	[ -e "$prefix/.nla-installed" ] || return 0
	for lib in "$prefix"/usr/lib/*-linux-gnu; do
		[ ! -x "$prefix/bin/pkg-config" ] || export PKG_CONFIG=$prefix/bin/pkg-config
		export PKG_CONFIG_PATH=$lib/pkgconfig:$prefix/usr/lib/pkgconfig:$prefix/usr/share/pkgconfig
		export CMAKE_PREFIX_PATH=$prefix/usr CMAKE_LIBRARY_PATH=$lib CMAKE_INCLUDE_PATH=$prefix/usr/include
		export LDFLAGS="${LDFLAGS:-} -Wl,--disable-new-dtags,-rpath,$lib,-rpath-link,$lib"
	done
	export PATH=$tools/bin:$prefix/bin:$PATH
	for pip_wheel in "$prefix"/usr/share/python-wheels/pip-*.whl; do
		[ -e "$pip_wheel" ] || pip_wheel=''
	done
}

# apt with lists and archives of one's own.
apt_user() { apt-get -q -o Dir::State::lists="$prefix/lists" -o Dir::Cache="$prefix/cache" -o Debug::NoLocking=1 "$@"; }

# Links to libraries that the system has already, and the paths that the package's files name.
relocate() {
	local link found
	find "$prefix/usr" -xtype l | while read -r link; do
		for found in /usr/lib/*-linux-gnu /lib/*-linux-gnu; do
			[ ! -e "$found/$(basename "$(readlink "$link")")" ] || ln -sfn "$found/$(basename "$(readlink "$link")")" "$link"
		done
	done
	find "$prefix/usr" -name '*.pc' -type f -exec sed -Ei "s#(=|-[LI])/usr#\\1$prefix/usr#g" {} +
	[ -e "$prefix/usr/bin/pkgconf" ] || return 0
	mkdir -p "$prefix/bin"
	printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$(echo "$prefix"/usr/lib/*-linux-gnu)" "$prefix/usr/bin/pkgconf" \
		>"$prefix/bin/pkg-config"
	chmod +x "$prefix/bin/pkg-config"
}

own_packages() { # PACKAGES...: unpacked below the prefix, with what they depend on but for the compiler's
	local log=$prefix/log names deb
	lock_cache
	mkdir -p "$prefix/lists/partial" "$prefix/cache/archives/partial" "$prefix/debs" || die "cannot create '$prefix'"
	say "unpacking into '$prefix': $*"
	if ! apt_user update >"$log" 2>&1 || ! apt_user -s --no-install-recommends install "$@" >"$log.plan" 2>>"$log"; then
		die "cannot get $*: $(grep '^E:' "$log" | tail -n 1) (see $log)"
	fi
	names=$(sed -n 's/^Inst \([^ ]*\).*/\1/p' "$log.plan" |
		grep -vE '^(libc6|libc-|linux-libc|libcrypt|libnsl|libtirpc|rpcsvc|gcc|g\+\+|cpp|libgcc|libstdc|binutils|python3?[.0-9]*$)') ||
		die "$* are installed, but '$(command -v pkg-config)' or the compiler does not find them"
	# shellcheck disable=SC2086  # package names are words
	(cd "$prefix/debs" && apt_user download $names >>"$log" 2>&1) || die "cannot get $*: $(grep '^E:' "$log" | tail -n 1) (see $log)"
	for deb in "$prefix"/debs/*.deb; do
		dpkg-deb -x "$deb" "$prefix" || die "cannot unpack '$deb'"
	done
	relocate
	rm -rf "$prefix/lists" "$prefix/cache" "$prefix/debs"
	touch "$prefix/.nla-installed"
	exec 9>&-
}

use_tools() {
	ensure_venv "$tools" 300 "$tools_pins"
	export PATH=$tools/bin:$PATH
}

without_root() { # MISSING PACKAGES...
	local libraries='' name
	for name; do
		case $name in
		build-essential) die "a C and a C++ compiler and make are needed, and cannot be installed without root: \`module load gcc\`," \
			"conda-forge's \`cxx-compiler\` and \`make\`, or ask for $name" ;;
		cmake | ninja-build | ca-certificates) ;; # PyPI's wheels; pip has certificates of its own
		python3-venv) have python3 || die "Python 3.10 or newer is needed"; libraries="$libraries python3-pip-whl" ;;
		*) libraries="$libraries $name" ;;
		esac
	done
	if [ -n "$libraries" ]; then
		if ! have apt-get || ! have dpkg-deb; then
			die "no apt-get and dpkg-deb to unpack packages with: conda-forge has libsentencepiece, cjson, zlib, pcre2, utf8proc," \
				"yaml, cmocka and pkg-config; or ask for what Debian calls:$libraries"
		fi
		# shellcheck disable=SC2086  # package names are words
		own_packages $libraries
	fi
	use_prefix
	use_tools
}

# What was unpacked earlier counts only where packages cannot be installed: elsewhere those of the system do.
install_packages() {
	local missing wanted own=$no_root
	have apt-get && may_install || own=1
	[ -z "$own" ] || use_prefix
	missing=$(missing_packages | tr '\n' ' ')
	wanted=$(wanted_packages | tr '\n' ' ')
	missing=${missing% } wanted=${wanted% }
	if [ -n "$missing" ] && [ -n "$own" ]; then
		[ -n "$no_root" ] || say "packages cannot be installed (no root and no sudo that works, or no apt-get):" \
			"they are unpacked into '$prefix', and cmake and ninja come from PyPI, as with --no-root"
		# shellcheck disable=SC2086
		without_root $missing
	elif [ -n "$missing" ]; then
		say "installing $missing${wanted:+ $wanted}"
		# shellcheck disable=SC2086  # package names are words
		apt_install $missing $wanted || apt_install $missing || die "apt-get cannot install $missing: ${apt_error:-no message}$([ "$(id -u)" = 0 ] || echo "; --no-root does without")"
		missing=$(missing_packages | tr '\n' ' ')
		[ -z "$missing" ] || die "still missing after apt-get: $missing(too old a release? Debian 12 has them)"
	elif [ -n "$wanted" ] && [ -z "$own" ] && [ "$(id -u)" = 0 ]; then
		say "installing $wanted"
		# shellcheck disable=SC2086
		apt_install $wanted || say "going on without $wanted: ${apt_error:-apt-get failed}"
	fi
}

# ------------------------------------------------------------------------------------------------ Python environments

need_disk() { # FOLDER MEGABYTES
	local free
	free=$(df -Pm "$1" | awk 'NR == 2 { print $4 }')
	[ "$free" -ge "$2" ] || die "'$1' has $free MB free, $2 MB needed (NLA_CACHE names another place)"
}

# Every file of every package is there with its recorded size.
venv_whole() {
	"$1/bin/python" - <<-'PY' 2>/dev/null
		import importlib.metadata, os, sys
		for package in importlib.metadata.distributions():
		    for f in package.files or sys.exit(1):
		        if f.size is not None and os.path.getsize(package.locate_file(f)) != f.size:
		            sys.exit(1)
	PY
}

pip_install() { # VENV LOG PINS [pip options]
	local venv=$1 log=$2 pins=$3 python
	shift 3
	if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
		python=$(find_python)
		rm -rf "$venv"
		if [ -n "$pip_wheel" ]; then
			"$python" -m venv --without-pip "$venv" >"$log" 2>&1 && "$venv/bin/python" "$pip_wheel/pip" install -q pip >"$log" 2>&1
		else
			"$python" -m venv "$venv" >"$log" 2>&1
		fi || return 1
	fi
	# shellcheck disable=SC2086  # pins are words
	TMPDIR=$cache/tmp "$venv/bin/python" -m pip install -q --disable-pip-version-check "$@" $pins >"$log" 2>&1
}

pip_error() { # LOG: one line
	if grep -qE 'NewConnectionError|NameResolution|ConnectTimeout|Temporary failure|Network is unreachable' "$1"; then
		echo "no network, or the package index cannot be reached"
	elif grep -q CERTIFICATE_VERIFY_FAILED "$1"; then
		if [ -n "${PIP_CERT:-}" ]; then
			echo "the package index's certificate is not in PIP_CERT's '$PIP_CERT' (apt writes that of /etc/ssl anew:" \
				"a proxy's belongs into /usr/local/share/ca-certificates, then update-ca-certificates)"
		else
			echo "the package index's certificate is not trusted here (behind a proxy, set PIP_CERT)"
		fi
	else
		grep -E '^ERROR|Error' "$1" | tail -n 1
	fi
}

ensure_venv() { # VENV MEGABYTES PINS [pip options]
	local venv=$1 megabytes=$2 pins=$3 marker=$1/.nla-installed log=$1.log
	shift 3
	if [ "$(cat "$marker" 2>/dev/null)" = "$pins" ]; then
		return
	fi
	lock_cache
	if [ "$(cat "$marker" 2>/dev/null)" != "$pins" ]; then
		if [ -d "$venv" ]; then
			say "completing '$venv'"
		else
			say "installing '$venv': ${pins%% *} ... (takes minutes)"
			need_disk "$cache" "$megabytes"
		fi
		rm -f "$marker"
		pip_install "$venv" "$log" "$pins" "$@" || die "pip cannot install into '$venv': $(pip_error "$log") (see $log)"
		if ! venv_whole "$venv"; then
			say "'$venv' is damaged: installing it again"
			rm -rf "$venv"
			need_disk "$cache" "$megabytes"
			pip_install "$venv" "$log" "$pins" "$@" || die "pip cannot install into '$venv': $(pip_error "$log") (see $log)"
			venv_whole "$venv" || die "'$venv' is damaged even after a fresh installation (bad disk?)"
		fi
		echo "$pins" >"$marker"
		rm -rf "$log" "$cache/tmp"
	fi
	exec 9>&-
}

have_gpu() { [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; }

install_libtorch() {
	local found driver wants
	wants=$(sed -n "s/^cuda.*= '\([0-9]*\)\..*/\1/p" "${LIBTORCH_DIR:-}/version.py" 2>/dev/null) || :
	driver=$(nvidia-smi 2>/dev/null | sed -n 's/.*CUDA Version: *\([0-9]*\)\..*/\1/p') || :
	[ "${driver:-99}" -ge "${wants:=13}" ] ||
		say "warning: the GPU's driver is of CUDA $driver and libtorch needs $wants: the programs use the CPU; docs/gpu.md says what to do"
	if [ -n "${LIBTORCH_DIR:-}" ]; then
		[ -e "$LIBTORCH_DIR/lib/libtorch_cpu.so" ] || die "LIBTORCH_DIR is '$LIBTORCH_DIR', which has no lib/libtorch_cpu.so"
		return
	fi
	if [ -n "$gpu" ] || have_gpu; then
		ensure_venv "$torch_venv" 10000 "$gpu_pins"
	elif [ "$(cat "$torch_venv/.nla-installed" 2>/dev/null)" != "$gpu_pins" ]; then
		ensure_venv "$torch_venv" 3000 "$cpu_pins" --no-deps
	fi
	for found in "$torch_venv"/lib/python3*/site-packages/torch; do
		LIBTORCH_DIR=$found
	done
	[ -e "$LIBTORCH_DIR/lib/libtorch_cpu.so" ] || die "no libtorch in '$torch_venv': remove that folder and run this again"
}

# -------------------------------------------------------------------------------------------------------------- build

compile() {
	cmake_ok || use_tools
	if [ ! -e "$build/build.ninja" ] || ! grep -qxF "LIBTORCH_DIR:PATH=$LIBTORCH_DIR" "$build/CMakeCache.txt"; then
		say "configuring build/"
		cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=RelWithDebInfo -DLIBTORCH_DIR="$LIBTORCH_DIR" >"$build.log" 2>&1 ||
			{ cat "$build.log" >&2; rm -f "$build.log"; die "cmake cannot configure '$build'"; }
		rm -f "$build.log"
	fi
	say "compiling build/"
	cmake --build "$build" --target "$targets" >&2 || die "the build failed"
}

gpu='' with_reference='' with_build=1 print_env='' no_root='' pip_wheel='' targets=programs
for option; do
	case $option in
	--gpu) gpu=1 ;;
	--reference) with_reference=1 ;;
	--tests) targets=all ;;
	--no-root) no_root=1 ;;
	--no-build) with_build='' ;;
	--env) print_env=1 ;;
	-h | --help) sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 0 ;;
	*) echo "setup: error: unknown option '$option' (--help lists them)" >&2; exit 2 ;;
	esac
done

apt_error=''
install_packages
install_libtorch
[ -z "$with_reference" ] || ensure_venv "$reference" 10000 "$reference_pins"
[ -z "$with_build" ] || compile
say "ready"
if [ -n "$print_env" ]; then
	for name in PATH PKG_CONFIG PKG_CONFIG_PATH CMAKE_PREFIX_PATH CMAKE_LIBRARY_PATH CMAKE_INCLUDE_PATH LDFLAGS; do
		[ -z "${!name:-}" ] || printf 'export %s=%q\n' "$name" "${!name}"
	done
	printf 'export NLA_BUILD=%q LIBTORCH_DIR=%q NLA_REFERENCE=%q\n' "$build" "$LIBTORCH_DIR" "$reference/bin/python"
fi
