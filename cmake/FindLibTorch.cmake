# Finds libtorch inside the PyPI wheel `torch`. find_package(Torch) is not used: it demands the CUDA compiler.
#
#   LIBTORCH_DIR    the wheel's torch/ folder; also read from the environment; scripts/setup.sh makes it below the cache folder
#
# Defines LibTorch::CPU, LIBTORCH_CUDA_MAJOR, LIBTORCH_NVRTC (below the wheels' nvidia/), and LibTorch::CUDA or LIBTORCH_NO_CUDA, which
# says what is missing. No program links LibTorch::CUDA: linking it costs every start one to two seconds and 350 MB, so libnla_cuda
# does, which is loaded when a GPU is asked for.
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
  set(LIBTORCH_DIR ${_cache}/torch-${LIBTORCH_VERSION})
  file(GLOB _found ${LIBTORCH_DIR}/lib/python3*/site-packages/torch)
  foreach(_wheel ${_found})
    set(LIBTORCH_DIR ${_wheel})
  endforeach()
endif()

# Kept in the cache only when it is right: a later configure then looks again, with or without the environment variable.
set(LibTorch_FOUND FALSE)
if(EXISTS "${LIBTORCH_DIR}/include/ATen/ATen.h" AND EXISTS "${LIBTORCH_DIR}/lib/libtorch_cpu.so")
  set(LibTorch_FOUND TRUE)
  set(LIBTORCH_DIR "${LIBTORCH_DIR}" CACHE PATH "the torch/ folder of the PyPI wheel" FORCE)
  set(LIBTORCH_WHEEL unknown)
  set(LIBTORCH_CUDA_MAJOR 13)
  if(EXISTS ${LIBTORCH_DIR}/version.py)
    file(READ ${LIBTORCH_DIR}/version.py _version)
    if(_version MATCHES "__version__ = '([^']*)'")
      set(LIBTORCH_WHEEL ${CMAKE_MATCH_1})
    endif()
    if(_version MATCHES "cuda[^=\n]* = '([0-9]+)")
      set(LIBTORCH_CUDA_MAJOR ${CMAKE_MATCH_1})
    endif()
  endif()
  set(LIBTORCH_NVRTC cu${LIBTORCH_CUDA_MAJOR}/lib/libnvrtc.so.${LIBTORCH_CUDA_MAJOR})
  if(LIBTORCH_CUDA_MAJOR EQUAL 12) # whose wheels have a folder each
    set(LIBTORCH_NVRTC cuda_nvrtc/lib/libnvrtc.so.12)
  endif()
endif()

# The libraries by full path, so that CMake itself keeps the run path, in the build and in what it installs.
if(LibTorch_FOUND AND NOT TARGET LibTorch::CPU)
  add_library(LibTorch::CPU INTERFACE IMPORTED)
  target_include_directories(LibTorch::CPU SYSTEM INTERFACE
    ${LIBTORCH_DIR}/include ${LIBTORCH_DIR}/include/torch/csrc/api/include)
  target_link_options(LibTorch::CPU INTERFACE -Wl,--allow-shlib-undefined)
  # at::parallel_for runs in parallel only where OpenMP is compiled in. The wheel brings its own runtime; linking that file, and not
  # the compiler's, keeps one runtime in the program.
  file(GLOB LIBTORCH_OPENMP ${LIBTORCH_DIR}/lib/libgomp*.so* ${LIBTORCH_DIR}/../torch.libs/libgomp*.so*)
  if(NOT LIBTORCH_OPENMP)
    message(FATAL_ERROR "no libgomp in '${LIBTORCH_DIR}/lib': the wheel has another layout than expected")
  endif()
  list(GET LIBTORCH_OPENMP 0 LIBTORCH_OPENMP)
  target_compile_options(LibTorch::CPU INTERFACE $<$<COMPILE_LANGUAGE:CXX>:-fopenmp>)
  target_link_libraries(LibTorch::CPU INTERFACE ${LIBTORCH_DIR}/lib/libtorch_cpu.so ${LIBTORCH_DIR}/lib/libc10.so ${LIBTORCH_OPENMP})

  # The headers' version must be the library's; the symbols of NVIDIA's own libraries are found at run time.
  set(_nvidia ${LIBTORCH_DIR}/../nvidia)
  file(GLOB _toolkits /usr/local/cuda*/include)
  foreach(_place ${_nvidia}/cu${LIBTORCH_CUDA_MAJOR}/include ${_nvidia}/cuda_runtime/include $ENV{CUDA_HOME}/include ${_toolkits})
    foreach(_crt ${_place} ${_nvidia}/cuda_nvcc/include)
      if(EXISTS ${_place}/cuda_runtime_api.h AND EXISTS ${_crt}/crt/host_config.h AND NOT LIBTORCH_CUDA_HEADERS)
        file(STRINGS ${_place}/cuda_runtime_api.h _major REGEX "define CUDART_VERSION +${LIBTORCH_CUDA_MAJOR}0")
        if(_major)
          set(LIBTORCH_CUDA_HEADERS ${_place} ${_crt})
        endif()
      endif()
    endforeach()
  endforeach()
  if(NOT EXISTS ${LIBTORCH_DIR}/lib/libtorch_cuda.so)
    set(LIBTORCH_NO_CUDA "its libtorch has no libtorch_cuda.so")
  elseif(NOT LIBTORCH_CUDA_HEADERS)
    set(LIBTORCH_NO_CUDA "there were no headers of CUDA ${LIBTORCH_CUDA_MAJOR} (pip: nvidia-cuda-runtime and nvidia-cuda-crt, \
of CUDA 12 nvidia-cuda-nvcc-cu12, or a toolkit in CUDA_HOME)")
  else()
    add_library(LibTorch::CUDA INTERFACE IMPORTED)
    target_include_directories(LibTorch::CUDA SYSTEM INTERFACE ${LIBTORCH_CUDA_HEADERS})
    target_link_libraries(LibTorch::CUDA INTERFACE LibTorch::CPU -Wl,--no-as-needed ${LIBTORCH_DIR}/lib/libtorch_cuda.so
      ${LIBTORCH_DIR}/lib/libc10_cuda.so)
  endif()
endif()
