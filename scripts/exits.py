#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""exits.py [--update] [--save FILE | --load FILE] [--only COMPILER[,COMPILER]] [--header FILE] [-D NAME] ROOT LIBRARY
- which exits run a guard, by trying.

Builds the programs of tests/resource/exits by each compiler, with and without -fexceptions, with and without
optimisation, and C++ callers of either compiler; goes every way out of a scope with guards; and holds the table in
patinox/guard.h against what came of it.  --update writes the table.
"""
import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

# What to build: the name in the table, the compiler of the functions with the guards, and its flags.
BUILDS = [("gcc", "gcc", []), ("gcc -fexceptions", "gcc", ["-fexceptions"]),
          ("clang", "clang", []), ("clang -fexceptions", "clang", ["-fexceptions"]),
          ("g++ -fno-exceptions", "g++", ["-fno-exceptions"]), ("g++", "g++", []),
          ("clang++ -fno-exceptions", "clang++", ["-fno-exceptions"]), ("clang++", "clang++", []),
          ("musl-gcc", "musl-gcc", []), ("musl-gcc -fexceptions", "musl-gcc", ["-fexceptions"])]
C_OF = {"g++": "gcc", "clang++": "clang"}  # by whom the rest of the program is compiled
OPTIMISE = ("-O0", "-O2")

WAYS = [("fall", "falling through"), ("return", "return"), ("break", "break"), ("continue", "continue"),
        ("goto", "goto out of it"), ("exception", "a C++ exception"), ("pthread_exit", "pthread_exit"),
        ("pthread_cancel", "thread cancellation"), ("thrd_exit", "thrd_exit"), ("longjmp", "longjmp past it"),
        ("siglongjmp", "siglongjmp past it"), ("exit", "exit"), ("_Exit", "_Exit"), ("abort", "abort"),
        ("signal", "a fatal signal"), ("exec", "exec")]
ABSENT = "-"  # no C++ there

BEGIN = " *   -- the table: scripts/exits.py --update writes it, check.exits tries every cell --\n"
END = " *   -- end of the table --\n"


class Failure(Exception):
    pass


def run(*command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise Failure(" ".join(command) + f": status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def programs(root, library, compiler, flags, defines, scratch):
    """Yields (caller, level of optimisation, program) of one build."""
    here = root / "tests/resource/exits"
    rest = C_OF.get(compiler, compiler)
    include = [f"-I{root / 'include'}", f"-I{root / 'src'}", "-D_GNU_SOURCE", *[f"-D{name}" for name in defines]]
    for level in OPTIMISE:
        frame, main = scratch / f"frame{level}.o", scratch / f"main{level}.o"
        language = ["-x", "c++", "-std=c++11"] if compiler in C_OF else ["-std=gnu11"]
        run(compiler, level, *flags, *include, *language, "-c", str(here / "frame.c"), "-o", str(frame))
        if compiler == "musl-gcc":
            program = scratch / f"program{level}"
            run(compiler, level, *include, "-std=gnu11", "-DWITHOUT_CPP", "-fexceptions", str(frame), str(here / "main.c"),
                str(here / "alone.c"), str(root / "src/resource/scope.c"), "-static", "-o", str(program))
            yield None, level, program
            continue
        run(rest, level, *include, "-std=gnu11", "-c", str(here / "main.c"), "-o", str(main))
        for caller in [compiler] if compiler in C_OF else sorted(C_OF):
            program = scratch / f"program{level}-{caller}"
            run(caller, level, *include, "-std=c++11", str(here / "caller.cc"), "-x", "none", str(frame), str(main),
                str(library), "-pthread", "-o", str(program))
            yield caller, level, program


def measure(root, library, only, defines):
    """{name in the table: {way: verdict}}; what callers or levels of optimisation differ in has a name of its own."""
    results = {}
    for name, compiler, flags in BUILDS:
        if only and compiler not in only:
            continue
        if not shutil.which(compiler):
            raise Failure(f"{compiler} is missing: scripts/setup.sh test")
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for caller, level, program in programs(root, library, compiler, flags, defines, Path(folder)):
                found[caller, level] = dict(line.split("\t") for line in run(str(program)).splitlines())
        if all(verdicts == next(iter(found.values())) for verdicts in found.values()):
            results[name] = next(iter(found.values()))
        else:
            results.update({f"{name} {level}, called from {caller}": verdicts
                            for (caller, level), verdicts in found.items()})
    return results


def join(names):
    """Names of one column; a compiler with both of its flags is named once."""
    names = list(names)
    for plain, flagged in (("musl-gcc", "musl-gcc -fexceptions"), ("gcc", "gcc -fexceptions"),
                           ("clang", "clang -fexceptions")):
        if plain in names and flagged in names:
            names[names.index(plain)] = f"{plain} with or without -fexceptions"
            names.remove(flagged)
    return ", ".join(names)


def table(results):
    """The table as lines of the header's comment; builds with the same column share it."""
    columns = {}
    for name, verdicts in results.items():
        columns.setdefault(tuple(verdicts.get(way, ABSENT) for way, _ in WAYS), []).append(name)
    letters = [chr(ord("A") + i) for i in range(len(columns))]
    lines = [" *", *[f" *     {letter}  {join(names)}" for letter, names in zip(letters, columns.values())], " *",
             (" *   leaving the scope by     " + "".join(f"{letter:12}" for letter in letters)).rstrip()]
    for i, (_, text) in enumerate(WAYS):
        lines.append((f" *   {text:25}" + "".join(f"{column[i]:12}" for column in columns)).rstrip())
    return "".join(line + "\n" for line in [*lines, " *"])


def compare(header, wanted, update):
    text = header.read_text()
    if text.count(BEGIN) != 1 or text.count(END) != 1 or text.index(BEGIN) > text.index(END):
        raise Failure(f"{header}: no place for the table")
    start, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    if text[start:end] == wanted:
        return 0
    if update:
        header.write_text(text[:start] + wanted + text[end:])
        return 0
    stands, came = text[start:end].splitlines(), wanted.splitlines()
    print("\n".join([f"{header} says:", *[line for line in stands if line not in came],
                     "what came of trying:", *[line for line in came if line not in stands],
                     "if this is meant: scripts/exits.py --update"]))
    return 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update", action="store_true")
    parser.add_argument("--save", metavar="FILE", type=Path, help="write what came of trying")
    parser.add_argument("--load", metavar="FILE", type=Path, help="do not try, but read it")
    parser.add_argument("--only", metavar="COMPILER[,COMPILER]", type=lambda text: text.split(","))
    parser.add_argument("--header", metavar="FILE", type=Path, help="in place of the tree's")
    parser.add_argument("-D", metavar="NAME", dest="defines", action="append", default=[])
    parser.add_argument("root", type=Path)
    parser.add_argument("library", type=Path, help="libpatinox.a")
    args = parser.parse_args()
    root = args.root.resolve()
    try:
        results = (json.loads(args.load.read_text()) if args.load
                   else measure(root, args.library.resolve(), args.only, args.defines))
        if args.save:
            args.save.write_text(json.dumps(results, indent=1))
        return compare(args.header or root / "include/patinox/guard.h", table(results), args.update)
    except Failure as failure:
        print(failure)
        return 1


if __name__ == "__main__":
    sys.exit(main())
