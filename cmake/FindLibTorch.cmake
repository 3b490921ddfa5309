# Finds libtorch inside the PyPI wheel `torch`. find_package(Torch) is not used: it demands the CUDA compiler.
#
#   LIBTORCH_DIR    the wheel's torch/ folder; also read from the environment; scripts/setup.sh makes it below the cache folder
#
# Defines LibTorch::CPU. libtorch_cuda is not linked: the shim loads it at run time when a GPU is asked for, because linking it
# costs every start one to two seconds and 350 MB.
set(LIBTORCH_VERSION 2.11.0)
if(NOT LIBTORCH_DIR AND DEFINED ENV{LIBTORCH_DIR})
  set(LIBTORCH_DIR $ENV{LIBTORCH_DIR})
endif()
if(NOT LIBTORCH_DIR)
  if(DEFINED ENV{NLA_CACHE})
    set(_cache $ENV{NLA_CACHE})
  elseif(DEFINED ENV{XDG_CACHE_HOME})
    set(_cache $ENV{XDG_CACHE_HOME}/nla)
  else()
    set(_cache $ENV{HOME}/.cache/nla)
  endif()
  file(GLOB _found ${_cache}/torch-${LIBTORCH_VERSION}/lib/python3*/site-packages/torch)
  list(LENGTH _found _n)
  if(_n GREATER 0)
    list(GET _found 0 LIBTORCH_DIR)
  endif()
endif()
set(LIBTORCH_DIR "${LIBTORCH_DIR}" CACHE PATH "the torch/ folder of the PyPI wheel")

include(FindPackageHandleStandardArgs)
find_path(LIBTORCH_INCLUDE ATen/ATen.h PATHS ${LIBTORCH_DIR}/include NO_DEFAULT_PATH)
find_package_handle_standard_args(LibTorch REQUIRED_VARS LIBTORCH_DIR LIBTORCH_INCLUDE
  REASON_FAILURE_MESSAGE "run scripts/setup.sh, or set LIBTORCH_DIR to the torch/ folder of an installed torch wheel")

if(LibTorch_FOUND AND NOT TARGET LibTorch::CPU)
  add_library(LibTorch::CPU INTERFACE IMPORTED)
  target_include_directories(LibTorch::CPU SYSTEM INTERFACE
    ${LIBTORCH_DIR}/include ${LIBTORCH_DIR}/include/torch/csrc/api/include)
  target_link_directories(LibTorch::CPU INTERFACE ${LIBTORCH_DIR}/lib)
  target_link_options(LibTorch::CPU INTERFACE -Wl,-rpath,${LIBTORCH_DIR}/lib -Wl,--allow-shlib-undefined)
  target_link_libraries(LibTorch::CPU INTERFACE -ltorch_cpu -lc10)
endif()
