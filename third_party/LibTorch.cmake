# INTERFACE target LibTorch::torch from TORCH_ROOT (scripts/setup.sh prints it), and LibTorch::cuda when the CUDA set and nvcc are there.
#
# The include tree of LibTorch also holds fmt 12 and protobuf 3.13 headers that shadow the system's: they come last (-idirafter).
# `gloo` must stand before `torch_cpu` on a link line, so that the system's gloo wins over the copy inside LibTorch.

set(TORCH_ROOT "$ENV{TORCH_ROOT}" CACHE PATH "Folder with LibTorch's include and lib")
if(NOT TORCH_ROOT)
  set(fusion_cache "$ENV{XDG_CACHE_HOME}")
  if(NOT fusion_cache)
    set(fusion_cache "$ENV{HOME}/.cache")
  endif()
  foreach(set cuda cpu)
    if(NOT TORCH_ROOT AND EXISTS "${fusion_cache}/fusion/torch-2.11.0-${set}/complete")
      set(TORCH_ROOT "${fusion_cache}/fusion/torch-2.11.0-${set}/torch")
    endif()
  endforeach()
endif()
if(NOT EXISTS "${TORCH_ROOT}/lib/libtorch_cpu.so")
  message(FATAL_ERROR "LibTorch not found (TORCH_ROOT='${TORCH_ROOT}'). Run scripts/setup.sh, or set TORCH_ROOT to a LibTorch 2.11 folder.")
endif()
get_filename_component(fusion_site "${TORCH_ROOT}" DIRECTORY)  # the wheel's folder: nvidia/* lie beside torch/

set(fusion_torch_includes "")
foreach(dir "${TORCH_ROOT}/include" "${TORCH_ROOT}/include/torch/csrc/api/include")
  list(APPEND fusion_torch_includes
    "$<$<COMPILE_LANGUAGE:CXX>:SHELL:-idirafter ${dir}>"
    "$<$<COMPILE_LANGUAGE:CUDA>:SHELL:-Xcompiler -idirafter -Xcompiler ${dir}>")
endforeach()

add_library(LibTorch::torch INTERFACE IMPORTED)
target_compile_options(LibTorch::torch INTERFACE ${fusion_torch_includes})
target_compile_definitions(LibTorch::torch INTERFACE AT_PER_OPERATOR_HEADERS USE_DISTRIBUTED)
# As an option -lgloo comes before every library, libtorch_cuda too, which holds a third gloo of another layout.
target_link_options(LibTorch::torch INTERFACE "-lgloo" "-Wl,--enable-new-dtags" "-Wl,--allow-shlib-undefined" "-Wl,-rpath,${TORCH_ROOT}/lib")
target_link_libraries(LibTorch::torch INTERFACE "${TORCH_ROOT}/lib/libtorch_cpu.so" "${TORCH_ROOT}/lib/libc10.so")

find_program(FUSION_NVCC nvcc HINTS /usr/local/cuda/bin)
set(fusion_cuda_default OFF)
if(FUSION_NVCC AND EXISTS "${TORCH_ROOT}/lib/libtorch_cuda.so" AND EXISTS "${fusion_site}/nvidia/cu13/lib")
  set(fusion_cuda_default ON)
endif()
option(FUSION_CUDA "Compile and link the CUDA parts" ${fusion_cuda_default})
if(FUSION_CUDA)
  if(NOT FUSION_NVCC)
    message(FATAL_ERROR "FUSION_CUDA=ON needs nvcc; put it on PATH or configure with -DFUSION_CUDA=OFF.")
  endif()
  get_filename_component(fusion_cuda_bin "${FUSION_NVCC}" REALPATH)
  get_filename_component(fusion_cuda_bin "${fusion_cuda_bin}" DIRECTORY)
  get_filename_component(fusion_cuda_home "${fusion_cuda_bin}" DIRECTORY)
  add_library(LibTorch::cuda INTERFACE IMPORTED)
  target_include_directories(LibTorch::cuda SYSTEM INTERFACE "${fusion_cuda_home}/include")
  # --no-as-needed: nothing of ours names a symbol of these, yet they register the CUDA kernels when loaded.
  target_link_libraries(LibTorch::cuda INTERFACE LibTorch::torch
    "-Wl,--push-state,--no-as-needed" "${TORCH_ROOT}/lib/libtorch_cuda.so" "${TORCH_ROOT}/lib/libc10_cuda.so" "-Wl,--pop-state"
    "${fusion_site}/nvidia/cu13/lib/libcudart.so.13")
  target_link_options(LibTorch::cuda INTERFACE "-Wl,-rpath,${fusion_site}/nvidia/cu13/lib" "-Wl,-rpath,${fusion_site}/nvidia/nccl/lib")
endif()
