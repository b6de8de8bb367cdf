#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_platform.py ROOT - what belongs to the platform stands in src/os, and the library prints and exits nowhere.

Outside src/os: no #if on a platform, compiler vendor of another system, or processor; no system header but those
of C11 and <pthread.h>; a lock is the library's own mutex, which has a rank.  In all of src: nothing prints but the
one line with which a debug build aborts, and nothing exits, sleeps or installs handlers; the environment is read in
one file, for who asks for it.  Every rank of src/base/lock_ranks.def is that of a lock.
"""
import re
import sys
from pathlib import Path

C11 = set("""assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg
stdatomic stdbool stddef stdint stdio stdlib stdnoreturn string tgmath threads time uchar wchar wctype""".split())
# What a file may include besides, and why.
ALSO = {
    "src/base/hash_inline.h": {"xxhash.h"},  # header only, at build time
    "src/adapters/sqlite": {"sqlite3.h"},  # what the adapter adapts
}
INCLUDE = re.compile(r"^\s*#\s*include\s*<([^>]+)>")
CONDITION = re.compile(r"^\s*#\s*(?:el)?if(?:n?def)?\b(.*)")
PLATFORM = re.compile(r"\b(__linux\w*|linux|_WIN\d+|WIN32|__MINGW\w+|__CYGWIN__|_MSC_VER|__APPLE__|__unix\w*|__ANDROID__|"
                      r"__\w+BSD__|__GLIBC\w*|__x86_64\w*|__i386\w*|__aarch64\w*|__arm\w*|__powerpc\w*|__riscv\w*)\b")
ENVIRON, ENVIRON_FILE = re.compile(r"\benviron\b"), "src/os/environ.c"
RAW_LOCK = re.compile(r"\bpthread_(mutex|rwlock|cond|spin|create|cancel|setspecific|key_create)\w*")
FORBIDDEN = re.compile(r"(?<![\w.>])(printf|vprintf|puts|putchar|perror|exit|_exit|_Exit|quick_exit|atexit|sleep|usleep|"
                       r"nanosleep|clock_nanosleep|thrd_sleep|signal|sigaction|getenv|secure_getenv|setlocale|"
                       r"pthread_cancel|malloc|calloc|realloc|strdup|strndup|asprintf)\s*\(")
PRINTS = re.compile(r"\b(fprintf|vfprintf|fputs|fwrite|fputc)\s*\(")
# The system's allocator; the record of a thread, which no env could give; a sanitizer's or debugger's help.
# The processor's cheap full barrier and the thread-local pointer, in public inline functions; what a declaration says to
# the compiler.
PUBLIC_CONDITIONS = {"include/patinox/atomic_inl.h", "include/patinox/base.h"}
SYSTEM_MEMORY = {"src/os/env_system.c", "src/os/thread.c", "src/os/windows/thread.c"}
MEMORY = {"malloc", "calloc", "realloc"}
# The handler of SIGBUS, which is installed when the first access scope begins, or by the program.
HANDLER, HANDLES = "src/os/sigbus.c", {"sigaction"}
LEAVE, LEAVES = {"src/os/leave.c", "src/os/windows/leave.c"}, {"atexit", "_exit"}  # the check of leaks, where it was asked for


def code_of(path):
    """The text without comments and string contents, with its lines."""
    text = path.read_text(encoding="utf-8")
    return re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"',
                  lambda m: '""' if m[0][0] == '"' else re.sub(r"[^\n]+", "", m[0]), text, flags=re.S)


def headers_of(name):
    return {f"{header}.h" for header in C11} | {"pthread.h"} | {
        header for prefix, also in ALSO.items() if name.startswith(prefix) for header in also}


def objections(name, path):
    in_os = name.startswith("src/os/")
    lines = code_of(path).splitlines()
    for number, line in enumerate(lines, 1):
        where = f"{name}:{number}"
        include, condition = INCLUDE.match(line), CONDITION.match(line)
        if not in_os and include and not include[1].startswith("patinox/") and include[1] not in headers_of(name):
            yield f"{where}: <{include[1]}> belongs to src/os"
        if not in_os and name not in PUBLIC_CONDITIONS and condition and PLATFORM.search(condition[1]):
            yield f"{where}: a platform #if belongs to src/os: {condition[1].strip()}"
        if not in_os and RAW_LOCK.search(line):
            yield f"{where}: {RAW_LOCK.search(line)[0]}: use os/mutex.h, os/thread.h"
        if not name.startswith("src/"):
            continue
        if ENVIRON.search(line) and name != ENVIRON_FILE:
            yield f"{where}: the environment is read in {ENVIRON_FILE}"
        for match in FORBIDDEN.finditer(line):
            if not (match[1] in MEMORY and name in SYSTEM_MEMORY) and not (match[1] in LEAVES and name in LEAVE) \
                    and not (match[1] in HANDLES and name == HANDLER):
                yield f"{where}: {match[1]}() is not for a library"
        if PRINTS.search(line) and "abort()" not in " ".join(lines[number - 1:number + 6]):
            yield f"{where}: the library prints nothing, but for the line before a debug build's abort()"


def unused_ranks(root):
    table = root / "src/base/lock_ranks.def"
    ranks = re.findall(r"^LOCK\((\w+)", table.read_text(), re.M) if table.exists() else []
    used = set(re.findall(r"\bPNX_RANK_(\w+)", "".join(path.read_text() for path in (root / "src").rglob("*.c"))))
    return [f"src/base/lock_ranks.def: no lock has the rank {rank}" for rank in ranks if rank not in used]


def main(root):
    bad = count = 0
    for top in ("src", "include"):
        for path in sorted((root / top).rglob("*")):
            if path.suffix not in (".c", ".h", ".inc", ".def"):
                continue
            count += 1
            for objection in objections(path.relative_to(root).as_posix(), path):
                print(objection)
                bad += 1
    for objection in unused_ranks(root):
        print(objection)
        bad += 1
    print(f"{count} files, {bad} objections")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
