# SPDX-License-Identifier: Apache-2.0
# Flags of all our targets, in one interface target: pnx_flags.
set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON) # gnu11: cleanup attribute, statement expressions in src/
set(CMAKE_CXX_STANDARD 11)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

add_library(pnx_flags INTERFACE)
file(RELATIVE_PATH source_from_build "${CMAKE_BINARY_DIR}" "${PROJECT_SOURCE_DIR}")
target_compile_options(pnx_flags INTERFACE
    -Wall -Wextra -Wconversion -Wshadow -Wvla -Wundef -Wimplicit-fallthrough
    $<$<COMPILE_LANGUAGE:C>:-Wstrict-prototypes -Wmissing-prototypes>
    -fno-strict-aliasing
    # Sites (PNX_SITE) as they stand in the tree, wherever it is built.
    # However the compiler is told their place: a compiler cache may make paths relative.
    "-fmacro-prefix-map=${PROJECT_SOURCE_DIR}/=" "-fmacro-prefix-map=${source_from_build}=")
target_compile_definitions(pnx_flags INTERFACE _GNU_SOURCE)
if(WIN32)
    target_compile_definitions(pnx_flags INTERFACE _WIN32_WINNT=0x0A00) # Windows 10
    # What is header only is beside headers of this system: one of them alone.
    find_file(PNX_XXHASH xxhash.h PATHS /usr/include NO_CMAKE_FIND_ROOT_PATH REQUIRED)
    file(COPY "${PNX_XXHASH}" DESTINATION "${CMAKE_BINARY_DIR}/include")
    target_include_directories(pnx_flags SYSTEM INTERFACE "${CMAKE_BINARY_DIR}/include")
endif()
if(PNX_WERROR)
    target_compile_options(pnx_flags INTERFACE -Werror)
endif()
if(PNX_DEBUG)
    target_compile_definitions(pnx_flags INTERFACE PNX_DEBUG)
    target_compile_options(pnx_flags INTERFACE -UNDEBUG) # RelWithDebInfo defines it; assert() is wanted here
endif()
if(PNX_FAULTS)
    target_compile_definitions(pnx_flags INTERFACE PNX_FAULTS)
endif()
if(PNX_ATOMIC_SITES)
    target_compile_definitions(pnx_flags INTERFACE PNX_ATOMIC_SITES)
endif()
if(PNX_SANITIZE)
    target_compile_options(pnx_flags INTERFACE
        -fsanitize=${PNX_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
    target_link_options(pnx_flags INTERFACE -fsanitize=${PNX_SANITIZE})
endif()
if(PNX_BUILD_FUZZ)
    target_compile_options(pnx_flags INTERFACE -fsanitize=fuzzer-no-link)
endif()
if(PNX_COVERAGE)
    # atomic: many threads and forked children update the same counters
    # no-builtin-fork: GCC's own fork() forgets in the child what its fork handlers have run
    target_compile_options(pnx_flags INTERFACE --coverage -fprofile-update=atomic -fno-builtin-fork)
    target_link_options(pnx_flags INTERFACE --coverage)
endif()
find_package(Threads REQUIRED)
target_link_libraries(pnx_flags INTERFACE Threads::Threads)
