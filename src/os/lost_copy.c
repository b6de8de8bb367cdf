/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/lost_copy.c - the copies of os/lost.h, and the table by which a fault in them is skipped.
 *
 * The copies are written in assembly, since only then is it known what the registers hold wherever one may fault.  Each
 * block of instructions that touches memory has a row in the section pnx_fixups: begin, end, and where to go on.  There
 * the result is set to "faulted", and nothing else needs to be right: no value of before is used again.
 *
 *   P1  No fault outside of such a block is ever skipped.
 *   P2  A word of 1, 2, 4 or 8 bytes is moved by one load and one store.
 */
#include "os/lost.h"

#include "base/atomic.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#include <string.h>

#if defined(__x86_64__) || defined(__aarch64__)

/* Offsets, so that nothing needs to be relocated. */
struct fixup {
    int32_t begin;
    int32_t end;
    int32_t go_on;
    int32_t unused;
};

#ifdef _WIN32
/*
 * From where the program or DLL is loaded.  Linkers sort what stands behind a "$": the rows lie between the other two
 * sections; what fills up a section is whole rows of zeros, that of no instruction.
 */
#define FIXUPS     ".section .rdata$pnx_fixups_m"
#define FIXUP_CODE ".section .text$pnx_fixup, \"x\""
#define BACK \
    ".text" /* there is no way to ask for the section of before: so no code is in another one */
#pragma GCC optimize("no-reorder-blocks-and-partition")
#define OFFSET(label) ".rva " label "\n"
extern const unsigned char image[] __asm__("__ImageBase");
static const struct fixup first_fixup[1]
        __attribute__((section(".rdata$pnx_fixups_a"), used, aligned(16))) = {{0, 0, 0, 0}};
static const struct fixup behind_fixups[1]
        __attribute__((section(".rdata$pnx_fixups_z"), used, aligned(16))) = {{0, 0, 0, 0}};

static uintptr_t at(const int32_t *offset) {
    return (uintptr_t)image + (uintptr_t)(intptr_t)*offset;
}
#else
/* From each member's own address. */
#define FIXUPS        ".pushsection pnx_fixups, \"a\""
#define FIXUP_CODE    ".pushsection .text.pnx_fixup, \"ax\""
#define BACK          ".popsection"
#define OFFSET(label) ".long " label " - .\n"
/* So that the section is there in a program of which the linker has left out all that is below: no instruction is in it. */
static const struct fixup no_fixup
        __attribute__((section("pnx_fixups"), used, aligned(16))) = {0, 0, 0, 0};
extern const struct fixup first_fixup[] __asm__("__start_pnx_fixups")
        __attribute__((visibility("hidden")));
extern const struct fixup behind_fixups[] __asm__("__stop_pnx_fixups")
        __attribute__((visibility("hidden")));

static uintptr_t at(const int32_t *offset) {
    return (uintptr_t)offset + (uintptr_t)(intptr_t)*offset;
}
#endif

bool pnx__os_skip(uintptr_t *pc) {
    for (const struct fixup *fixup = first_fixup; fixup < behind_fixups; fixup++) {
        if (*pc < at(&fixup->begin) || *pc >= at(&fixup->end))
            continue;
        *pc = at(&fixup->go_on);
        return true;
    }
    return false;
}

#if defined(__x86_64__)
#define SET_FAULTED "movl $1, %k[faulted]\n jmp 12b\n"
#else
#define SET_FAULTED "mov %w[faulted], #1\n b 12b\n"
#endif
/* Stand around the instructions; [faulted] is an operand "+r", 0 before. */
#define GUARDED(instructions) \
    "11:\n" instructions "12:\n" FIXUP_CODE "\n" \
    "13:\n" SET_FAULTED BACK "\n" FIXUPS "\n" \
    ".balign 16\n" OFFSET("11b") OFFSET("12b") OFFSET("13b") ".long 0\n" BACK "\n"

#define MOVE(name, instructions, scratch) \
    static inline bool name(unsigned char *dst, const unsigned char *src) { \
        unsigned faulted = 0; \
        __asm__ __volatile__(GUARDED(instructions) \
                             : [faulted] "+r"(faulted) \
                             : [dst] "r"(dst), [src] "r"(src) \
                             : "memory", scratch); \
        return faulted == 0; \
    }

/* Moves n bytes, a multiple of BLOCK and not 0. */
#define BLOCK 128u
static bool move_blocks(unsigned char *dst, const unsigned char *src, size_t n);

#if defined(__x86_64__)

MOVE(move_1, "movb (%[src]), %%al\n movb %%al, (%[dst])\n", "rax")
MOVE(move_2, "movw (%[src]), %%ax\n movw %%ax, (%[dst])\n", "rax")
MOVE(move_4, "movl (%[src]), %%eax\n movl %%eax, (%[dst])\n", "rax")
MOVE(move_8, "movq (%[src]), %%rax\n movq %%rax, (%[dst])\n", "rax")
MOVE(move_16, "movdqu (%[src]), %%xmm0\n movdqu %%xmm0, (%[dst])\n", "xmm0")

static bool move_blocks_sse(unsigned char *dst, const unsigned char *src, size_t n) {
    unsigned faulted = 0;
    intptr_t i = -(intptr_t)n;
    __asm__ __volatile__(GUARDED(".p2align 4\n"
                                 "10:\n"
                                 "movdqu (%[src],%[i]), %%xmm0\n movdqu 16(%[src],%[i]), %%xmm1\n"
                                 "movdqu 32(%[src],%[i]), %%xmm2\n movdqu 48(%[src],%[i]), %%xmm3\n"
                                 "movdqu %%xmm0, (%[dst],%[i])\n movdqu %%xmm1, 16(%[dst],%[i])\n"
                                 "movdqu %%xmm2, 32(%[dst],%[i])\n movdqu %%xmm3, 48(%[dst],%[i])\n"
                                 "addq $64, %[i]\n"
                                 "jnz 10b\n")
                         : [faulted] "+r"(faulted), [i] "+r"(i)
                         : [dst] "r"(dst + n), [src] "r"(src + n)
                         : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3");
    return faulted == 0;
}

static bool move_blocks_avx(unsigned char *dst, const unsigned char *src, size_t n) {
    unsigned faulted = 0;
    intptr_t i = -(intptr_t)n;
    __asm__ __volatile__(
            GUARDED(".p2align 5\n"
                    "10:\n"
                    "vmovdqu (%[src],%[i]), %%ymm0\n vmovdqu 32(%[src],%[i]), %%ymm1\n"
                    "vmovdqu 64(%[src],%[i]), %%ymm2\n vmovdqu 96(%[src],%[i]), %%ymm3\n"
                    "vmovdqu %%ymm0, (%[dst],%[i])\n vmovdqu %%ymm1, 32(%[dst],%[i])\n"
                    "vmovdqu %%ymm2, 64(%[dst],%[i])\n vmovdqu %%ymm3, 96(%[dst],%[i])\n"
                    "addq $128, %[i]\n"
                    "jnz 10b\n") "vzeroupper\n"
            : [faulted] "+r"(faulted), [i] "+r"(i)
            : [dst] "r"(dst + n), [src] "r"(src + n)
            : "memory", "cc", "xmm0", "xmm1", "xmm2", "xmm3");
    return faulted == 0;
}

static bool move_by_blocks(unsigned char *dst, const unsigned char *src, size_t n) {
    /* One load and a test: the compiler's runtime has asked the processor, and whether the system saves its registers. */
    return __builtin_cpu_supports("avx") ? move_blocks_avx(dst, src, n)
                                         : move_blocks_sse(dst, src, n);
}

/*
 * The processor's own copy gets more out of memory at once than loads do, which counts where the bytes are in no cache; where
 * they are it is the slower one, by 20 ns a page.  To a destination that is not aligned some processors take 20 times as
 * long.
 */
#define ERMS         (1u << 9) /* of leaf 7, in ebx */
#define STRING_MIN   4096u
#define STRING_ALIGN 64u
static bool move_string(unsigned char *dst, const unsigned char *src, size_t n) {
    unsigned faulted = 0;
    __asm__ __volatile__(GUARDED("rep movsb\n")
                         : [faulted] "+r"(faulted), "+D"(dst), "+S"(src), "+c"(n)
                         :
                         : "memory");
    return faulted == 0;
}

/* Whether the processor says that rep movsb is fast; asked once, since the answer may take a hypervisor. */
static bool has_strings(void) {
    static struct pnx_a32 known; /* 0: not asked yet; 1: no; 2: yes */
    uint32_t answer = pnx_load(&known, PNX_RELAXED, "lost.strings"); /* everybody finds the same */
    if (answer == 0) {
        unsigned a, b = 0, c, d;
        answer = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (b & ERMS) ? 2 : 1;
        pnx_store(&known, answer, PNX_RELAXED, "lost.strings_known"); /* the same */
    }
    return answer == 2;
}

static bool move_blocks(unsigned char *dst, const unsigned char *src, size_t n) {
    if (n < STRING_MIN || !has_strings())
        return move_by_blocks(dst, src, n);
    size_t before = -(uintptr_t)dst % STRING_ALIGN;
    if (before && !move_by_blocks(dst, src, BLOCK))
        return false;
    return move_string(dst + before, src + before, n - before);
}

#else /* aarch64 */

MOVE(move_1, "ldrb w9, [%[src]]\n strb w9, [%[dst]]\n", "x9")
MOVE(move_2, "ldrh w9, [%[src]]\n strh w9, [%[dst]]\n", "x9")
MOVE(move_4, "ldr w9, [%[src]]\n str w9, [%[dst]]\n", "x9")
MOVE(move_8, "ldr x9, [%[src]]\n str x9, [%[dst]]\n", "x9")
MOVE(move_16, "ldr q0, [%[src]]\n str q0, [%[dst]]\n", "v0")

static bool move_blocks(unsigned char *dst, const unsigned char *src, size_t n) {
    unsigned faulted = 0;
    __asm__ __volatile__(GUARDED(".p2align 4\n"
                                 "10:\n"
                                 "ldp q0, q1, [%[src]]\n ldp q2, q3, [%[src], #32]\n"
                                 "ldp q4, q5, [%[src], #64]\n ldp q6, q7, [%[src], #96]\n"
                                 "stp q0, q1, [%[dst]]\n stp q2, q3, [%[dst], #32]\n"
                                 "stp q4, q5, [%[dst], #64]\n stp q6, q7, [%[dst], #96]\n"
                                 "add %[src], %[src], #128\n add %[dst], %[dst], #128\n"
                                 "subs %[n], %[n], #128\n"
                                 "b.ne 10b\n")
                         : [faulted] "+r"(faulted), [dst] "+r"(dst), [src] "+r"(src), [n] "+r"(n)
                         :
                         : "memory", "cc", "v0", "v1", "v2", "v3", "v4", "v5", "v6", "v7");
    return faulted == 0;
}

#endif

/* Fewer than BLOCK bytes. */
static bool move_rest(unsigned char *dst, const unsigned char *src, size_t n) {
    bool ok = true;
    for (; n >= 16 && ok; n -= 16, dst += 16, src += 16)
        ok = move_16(dst, src);
    if (n & 8 && ok) {
        ok = move_8(dst, src);
        dst += 8;
        src += 8;
    }
    if (n & 4 && ok) {
        ok = move_4(dst, src);
        dst += 4;
        src += 4;
    }
    if (n & 2 && ok) {
        ok = move_2(dst, src);
        dst += 2;
        src += 2;
    }
    return ok && (!(n & 1) || move_1(dst, src));
}

bool pnx__os_copy(void *to, const void *from, size_t n) {
    unsigned char *dst = to;
    const unsigned char *src = from;
    size_t blocks = n & ~(size_t)(BLOCK - 1);
    if (blocks && !move_blocks(dst, src, blocks))
        return false;
    return move_rest(dst + blocks, src + blocks, n - blocks);
}

bool pnx__os_copy_word(void *dst, const void *src, size_t width) {
    switch (width) {
    case 1:
        return move_1(dst, src);
    case 2:
        return move_2(dst, src);
    case 4:
        return move_4(dst, src);
    default:
        return move_8(dst, src);
    }
}

#else /* no handler on this machine: these are called only for what cannot fault */

bool pnx__os_skip(uintptr_t *pc) {
    (void)pc;
    return false;
}

bool pnx__os_copy(void *dst, const void *src, size_t n) {
    memcpy(dst, src, n);
    return true;
}

bool pnx__os_copy_word(void *dst, const void *src, size_t width) {
    memcpy(dst, src, width);
    return true;
}

#endif
