#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# self.sh ROOT PYTHON - the checkers themselves can fail: each is shown a tree with one fault in it.
set -eu
root=$1 python=$2
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT INT TERM
fail() {
    echo "self: $1"
    exit 1
}

# Layers: a lower module that includes a higher one, and a sibling.
mkdir -p "$scratch/src/base" "$scratch/src/pool" "$scratch/include/patinox"
echo '#include "pool/pool.h"' >"$scratch/src/base/a.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: upward include passed"
grep -q 'src/base/a.c:1: base may not include pool/pool.h' "$scratch/out" || fail "layers: no message"
echo '#include "cache/cache.h"' >"$scratch/src/pool/b.c"
rm "$scratch/src/base/a.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: sibling include passed"
echo '#include "base/list.h"' >"$scratch/src/pool/b.c"
"$python" "$root/scripts/check_layers.py" "$scratch" || fail "layers: a downward include was refused"

echo '#include <cache/cache.h>' >"$scratch/src/pool/b.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: a sibling in <> passed"
echo '#include "../cache/cache.h"' >"$scratch/src/pool/b.c"
"$python" "$root/scripts/check_layers.py" "$scratch" >"$scratch/out" && fail "layers: a way around passed"

# Platform: each line alone is an objection.
for line in '#ifdef __linux__' '#if defined(_WIN32)' '#include <sys/mman.h>' '#include <unistd.h>' \
    'void f(void) { exit(1); }' 'void f(void) { printf("x"); }' 'void f(void) { fprintf(stderr, "x"); }' \
    'void f(void) { pthread_mutex_lock(0); }' 'void *f(void) { return malloc(1); }' \
    'void f(void) { sigaction(7, 0, 0); }'; do
    printf '%s\n' "$line" >"$scratch/src/pool/b.c"
    "$python" "$root/scripts/check_platform.py" "$scratch" >"$scratch/out" && fail "platform: passed: $line"
done
printf '%s\n' '/* exit(1) */ const char *text = "printf(";' >"$scratch/src/pool/b.c"
"$python" "$root/scripts/check_platform.py" "$scratch" >"$scratch/out" || fail "platform: a comment was refused"
mkdir -p "$scratch/src/base"
echo 'LOCK(NOBODY, "nothing")' >"$scratch/src/base/lock_ranks.def"
"$python" "$root/scripts/check_platform.py" "$scratch" >"$scratch/out" && fail "platform: a rank without a lock passed"

# Defaults: a guide and a header that say something else than the table.
mkdir -p "$scratch/tree"
cp -r "$root/src" "$root/include" "$root/docs" "$root/examples" "$scratch/tree"
defaults() { "$python" "$root/scripts/check_defaults.py" "$scratch/tree" cc >"$scratch/out"; }
defaults || fail "defaults: a good state was refused"
sed -i 's/^| `poll_ns` | 2 s/| `poll_ns` | 3 s/' "$scratch/tree/docs/guide/share.md"
defaults && fail "defaults: another default in the guide passed"
cp "$root/docs/guide/share.md" "$scratch/tree/docs/guide"
sed -i 's/unused this long; default 1 s;/unused this long; default 2 s;/' "$scratch/tree/include/patinox/pool.h"
defaults && fail "defaults: another default in the header passed"

# Inline: a thread-local variable that costs a call, and a function that is called on the way.
inline() { "$python" "$root/scripts/check_inline.py" "$scratch/tree" cc >"$scratch/out"; }
inline || fail "inline: a good state was refused"
if [ "$(uname -m)" = x86_64 ]; then
    sed -i 's/tls_model("initial-exec")/unused/' "$scratch/tree/include/patinox/atomic_inl.h"
    inline && fail "inline: a call of __tls_get_addr passed"
    cp "$root/include/patinox/atomic_inl.h" "$scratch/tree/include/patinox"
    sed -i 's/^    return (struct pnx_reclaim_section \*)pnx__load(/    extern _Bool pnx_reclaim_in_section(struct pnx_reclaim *); (void)pnx_reclaim_in_section(domain);\n&/' \
        "$scratch/tree/include/patinox/reclaim_inl.h"
    inline && fail "inline: a call passed"
    cp "$root/include/patinox/reclaim_inl.h" "$scratch/tree/include/patinox"
fi

# Use: a function that nobody calls.
mkdir -p "$scratch/objects/examples" "$scratch/objects/tests"
echo 'int pnx_a(void); int f(void); int f(void) { return pnx_a(); }' >"$scratch/use.c"
cc -c "$scratch/use.c" -o "$scratch/objects/examples/use.o"
cp "$scratch/objects/examples/use.o" "$scratch/objects/tests"
echo pnx_a >"$scratch/symbols"
"$python" "$root/scripts/check_api_use.py" "$scratch/objects" "$scratch/symbols" >"$scratch/out" ||
    fail "use: a good state was refused"
echo pnx_b >>"$scratch/symbols"
"$python" "$root/scripts/check_api_use.py" "$scratch/objects" "$scratch/symbols" >"$scratch/out" &&
    fail "use: a function that nobody calls passed"

# Promises: a test that did not run, one that failed, and an unexpected skip.
mkdir -p "$scratch/docs/promises" "$scratch/tests" "$scratch/build/results"
: >"$scratch/tests/expected-skips"
: >"$scratch/build/CTestTestfile.cmake"
printf 'id\tpromise\ttests\nP1\ta thing\ta.b.c\n' >"$scratch/docs/promises/x.tsv"
promises() { "$python" "$root/scripts/check_promises.py" "$scratch" "$scratch/build" >"$scratch/out"; }
printf 'a.b.d\tpass\t\n' >"$scratch/build/results/a.b"
promises && fail "promises: a test that did not run passed"
printf 'a.b.c\tfail\texit\n' >"$scratch/build/results/a.b"
promises && fail "promises: a failed test passed"
printf 'a.b.c\tpass\t\na.b.e\tskip\tno network\n' >"$scratch/build/results/a.b"
promises && fail "promises: an unexpected skip passed"
printf 'a.b.c\tskip\tno network\n' >"$scratch/build/results/a.b"
echo 'a.b.c no network' >"$scratch/tests/expected-skips"
promises && fail "promises: one whose only test was skipped passed"
printf 'a.b.c\tpass\t\na.b.e\tskip\tno network\n' >"$scratch/build/results/a.b"
echo 'a.b.e no network' >"$scratch/tests/expected-skips"
promises || fail "promises: a good state was refused"
printf 'id\tpromise\ttests\nP1\ta thing\tz.z.c\n' >"$scratch/docs/promises/y.tsv"
promises && fail "promises: a program that did not run passed"
echo 'PNX_SANITIZE:STRING=thread' >"$scratch/build/CMakeCache.txt"
promises || fail "promises: a program that is left out with a sanitizer was refused"
printf 'id\tpromise\ttests\nP1\ta thing\ta.b.z\n' >"$scratch/docs/promises/y.tsv"
promises && fail "promises: with a sanitizer a test that did not run passed"
rm "$scratch/docs/promises/y.tsv" "$scratch/build/CMakeCache.txt"
echo ' *   P2  Something else holds.' >"$scratch/include/patinox/x.h"
promises && fail "promises: a guarantee of a header without a row passed"
echo "the checkers can fail"
