# fusion_room(NAME LINK libs...): library fusion_NAME from src/NAME/*.cpp (one level of sub-folders too), on top of all rooms named before it,
# and the test program NAME_test from tests/NAME/*_test.cpp.
set(FUSION_WARNINGS -Wall -Wextra -Wshadow -Wnon-virtual-dtor -Werror)
set(FUSION_ROOMS "")  # grows room by room, lowest first

# What most files of the rooms with tensors begin with, and the same for their tests, compiled once. The sanitizers' build does without, so that
# it finds a file that does not include what it uses.
function(fusion_precompile name)
  file(CONFIGURE OUTPUT ${CMAKE_BINARY_DIR}/precompiled.cpp CONTENT "")
  add_library(fusion_${name} OBJECT ${CMAKE_BINARY_DIR}/precompiled.cpp)
  target_compile_options(fusion_${name} PRIVATE ${FUSION_WARNINGS})
  target_link_libraries(fusion_${name} PRIVATE fmt::fmt spdlog::spdlog nlohmann_json::nlohmann_json Threads::Threads LibTorch::torch ${ARGN})
  target_precompile_headers(fusion_${name} PRIVATE <ATen/TensorOperators.h> <ATen/core/Tensor.h> <ATen/ops/empty_like.h> <fmt/format.h> <nlohmann/json.hpp>
                            <algorithm> <filesystem> <functional> <map> <memory> <mutex> <optional> <span> <string> <thread> <vector>)
endfunction()
fusion_precompile(precompiled)
fusion_precompile(precompiled_test GTest::gtest)
target_precompile_headers(fusion_precompiled_test PRIVATE <gtest/gtest.h>)

function(fusion_room name)
  cmake_parse_arguments(room "" "" "LINK" ${ARGN})
  set(below "")
  foreach(lower ${FUSION_ROOMS})
    list(PREPEND below fusion_${lower})
  endforeach()
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/${name}/*.cpp ${CMAKE_SOURCE_DIR}/src/${name}/*/*.cpp)
  # What needs CUDA has a twin for builds without.
  if(FUSION_CUDA)
    list(FILTER sources EXCLUDE REGEX "_missing\\.cpp$")
  else()
    list(FILTER sources EXCLUDE REGEX "/nccl\\.cpp$")
  endif()
  file(GLOB tests CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/${name}/*_test.cpp ${CMAKE_SOURCE_DIR}/tests/${name}/*/*_test.cpp)
  if(sources)
    add_library(fusion_${name} STATIC ${sources})
    target_include_directories(fusion_${name} PUBLIC ${CMAKE_SOURCE_DIR}/include)
    target_compile_options(fusion_${name} PRIVATE ${FUSION_WARNINGS})
    target_link_libraries(fusion_${name} PUBLIC ${below} ${room_LINK})
    if("LibTorch::torch" IN_LIST room_LINK)
      target_precompile_headers(fusion_${name} REUSE_FROM fusion_precompiled)
    endif()
    list(APPEND FUSION_ROOMS ${name})
    set(FUSION_ROOMS ${FUSION_ROOMS} PARENT_SCOPE)
  endif()
  if(sources AND tests)
    add_executable(${name}_test ${tests})
    target_compile_options(${name}_test PRIVATE ${FUSION_WARNINGS})
    target_include_directories(${name}_test PRIVATE ${CMAKE_SOURCE_DIR}/tests)
    target_compile_definitions(${name}_test PRIVATE FUSION_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
    target_link_libraries(${name}_test PRIVATE fusion_${name} GTest::gtest_main GTest::gmock)
    if("LibTorch::torch" IN_LIST room_LINK)
      target_precompile_headers(${name}_test REUSE_FROM fusion_precompiled_test)
    endif()
    include(GoogleTest)
    gtest_discover_tests(${name}_test TEST_PREFIX ${name}. DISCOVERY_MODE PRE_TEST PROPERTIES TIMEOUT 600)
  endif()
endfunction()

# The tests of a room whose names fit `filter` once more, with the instruction set lowered to `capability` (ATen's ATEN_CPU_CAPABILITY).
function(fusion_lowered_test room filter capability)
  add_test(NAME ${room}.${capability} COMMAND ${room}_test --gtest_filter=${filter})
  set_tests_properties(${room}.${capability} PROPERTIES ENVIRONMENT ATEN_CPU_CAPABILITY=${capability} TIMEOUT 600)
endfunction()

# The program of scripts/fuzz.sh, built on request: the rooms up to image and the one reader above them.
function(fusion_fuzz)
  add_executable(fusion_fuzz EXCLUDE_FROM_ALL ${CMAKE_SOURCE_DIR}/tests/fuzz/fuzz.cpp ${CMAKE_SOURCE_DIR}/src/model/io/safetensors.cpp)
  target_compile_options(fusion_fuzz PRIVATE ${FUSION_WARNINGS})
  target_include_directories(fusion_fuzz PRIVATE ${CMAKE_SOURCE_DIR}/tests)
  target_compile_definitions(fusion_fuzz PRIVATE FUSION_SOURCE_DIR="${CMAKE_SOURCE_DIR}")
  target_link_libraries(fusion_fuzz PRIVATE fusion_data LibTorch::torch GTest::gtest)
endfunction()

# fusion_wrap(PROGRAM SYMBOL...): calls of these functions go to __wrap_SYMBOL of the program's own sources, which may call __real_SYMBOL. So a test
# puts a mistake into the product without a switch in it.
function(fusion_wrap program)
  foreach(symbol ${ARGN})
    target_link_options(${program} PRIVATE -Wl,--wrap=${symbol})
  endforeach()
endfunction()

# The program `fusion` from tools/*.cpp, and the end-to-end tests in tests/e2e.
function(fusion_program)
  file(GLOB sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tools/*.cpp)
  if(NOT sources)
    return()
  endif()
  add_executable(fusion ${sources})
  target_compile_options(fusion PRIVATE ${FUSION_WARNINGS})
  target_compile_definitions(fusion PRIVATE FUSION_VERSION="${PROJECT_VERSION}")
  set(rooms ${FUSION_ROOMS})
  list(REVERSE rooms)
  list(TRANSFORM rooms PREPEND fusion_)
  target_link_libraries(fusion PRIVATE ${rooms} CLI11::CLI11)
  target_precompile_headers(fusion REUSE_FROM fusion_precompiled)
  if(FUSION_CUDA)
    target_link_libraries(fusion PRIVATE LibTorch::cuda)
  endif()
  # A training step asks for the same big blocks again and again, from several threads: 7 % of a step on a CPU against glibc's malloc.
  # The sanitizers bring an allocator of their own.
  if(NOT FUSION_SANITIZE)
    target_link_libraries(fusion PRIVATE -Wl,--push-state,--no-as-needed PkgConfig::TCMALLOC -Wl,--pop-state)
  endif()
  # The stacks that SIGQUIT prints have our functions' names.
  target_link_options(fusion PRIVATE "-Wl,--export-dynamic-symbol=_ZN6fusion*" "-Wl,--export-dynamic-symbol=_ZNK6fusion*")
  set_target_properties(fusion PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/bin)

  file(GLOB e2e CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/tests/e2e/*_test.sh)
  foreach(script ${e2e})
    get_filename_component(name ${script} NAME_WE)
    add_test(NAME e2e.${name} COMMAND bash ${script} WORKING_DIRECTORY ${CMAKE_BINARY_DIR})
    set_tests_properties(e2e.${name} PROPERTIES TIMEOUT 1200 SKIP_RETURN_CODE 125 ENVIRONMENT
                         "FUSION=$<TARGET_FILE:fusion>;SOURCE_DIR=${CMAKE_SOURCE_DIR};TORCH_SITE=${fusion_site}")
  endforeach()
endfunction()
