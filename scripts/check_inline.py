#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""check_inline.py ROOT CC - entering and leaving a section or an access scope is straight code in the program that does it.

Compiles both, as position-independent code, and reads the relocations: the thread's record is found by one
initial-exec load (no call of __tls_get_addr, no descriptor), and nothing is called but the slow halves.
"""
import platform
import re
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCE = """
#include <patinox/fault.h>
#include <patinox/reclaim.h>
int scope(struct pnx_mapping *mapping);
int scope(struct pnx_mapping *mapping) {
    struct pnx_fault_scope scope;
    int rc = pnx_fault_begin(mapping, &scope);
    return rc ? rc : pnx_fault_end(&scope);
}
void section(struct pnx_reclaim *domain);
void section(struct pnx_reclaim *domain) { pnx_reclaim_enter(domain); pnx_reclaim_exit(domain); }
void section_of_default(void);
void section_of_default(void) { pnx_reclaim_enter(0); pnx_reclaim_exit(0); }
"""
MAY_CALL = {"pnx_reclaim_enter_slow_", "pnx_reclaim_exit_slow_", "pnx_reclaim_wake_", "pnx_fault_begin_slow_",
            "pnx_fault_end_slow_"}


def problems(relocations):
    """relocations: pairs of type and symbol."""
    found = []
    thread = [kind for kind, symbol in relocations if symbol == "pnx_self_"]
    if not thread:
        found.append("nothing refers to pnx_self_: has the test lost its object?")
    found += [f"pnx_self_ is found by {kind}, not by one load" for kind in thread if kind != "R_X86_64_GOTTPOFF"]
    found += [f"the fast path refers to {symbol} ({kind})" for kind, symbol in relocations
              if symbol != "pnx_self_" and symbol not in MAY_CALL]
    return found


def main(root, cc):
    if platform.machine() != "x86_64":
        print("check_inline: knows the relocations of x86-64 only")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        source, binary = Path(folder) / "inline.c", Path(folder) / "inline.o"
        source.write_text(SOURCE, encoding="utf-8")
        subprocess.run([cc, "-std=c11", "-O2", "-fPIC", "-fno-asynchronous-unwind-tables", "-I", f"{root}/include",
                        "-c", source, "-o", binary], check=True)
        out = subprocess.run(["objdump", "-r", "-j", ".text", "-j", ".text.unlikely", binary], check=True,
                             capture_output=True, text=True).stdout
    found = problems(re.findall(r"(R_X86_64_\w+)\s+([\w.]+?)(?:[-+]0x[0-9a-f]+)?$", out, flags=re.M))
    for line in found:
        print(f"check_inline: {line}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
