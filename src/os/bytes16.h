/* SPDX-License-Identifier: Apache-2.0 */
/*
 * os/bytes16.h - which of up to 16 bytes are a given one, in few instructions: by those of the processor for vectors, where there are.
 *
 * The portable way, which tests under ThreadSanitizer try, may name bytes wrongly that differ by a bit: but never as the first.
 */
#ifndef PNX_SRC_OS_BYTES16_H
#define PNX_SRC_OS_BYTES16_H

#include <stdint.h>

#if defined(__SSE2__) && !defined(__SANITIZE_THREAD__)
#define PNX_BYTES16_SSE2 1
#include <emmintrin.h>
#endif

/* A bit for each of the first n bytes (9 to 16) of low and high that is this one, for pnx__bytes16_position(). */
static inline uint64_t pnx__bytes16_match(uint64_t low, uint64_t high, uint32_t byte, uint32_t n) {
#ifdef PNX_BYTES16_SSE2
    const __m128i bytes = _mm_set_epi64x((long long)high, (long long)low);
    const __m128i same = _mm_cmpeq_epi8(bytes, _mm_set1_epi8((char)byte));
    return (uint32_t)_mm_movemask_epi8(same) & ((1u << n) - 1);
#else
    const uint64_t ones = UINT64_C(0x0101010101010101);
    uint64_t all = byte * ones, x = low ^ all, y = high ^ all;
    x = (x - ones) & ~x & (ones << 7);
    y = (y - ones) & ~y & (ones << 7) & (UINT64_MAX >> (128 - 8 * n));
    return x >> 7 | y >> 6;
#endif
}

/* The byte that the lowest bit stands for, counted from 0. */
static inline uint32_t pnx__bytes16_position(uint64_t match) {
    uint32_t bit = (uint32_t)__builtin_ctzll(match);
#ifdef PNX_BYTES16_SSE2
    return bit;
#else
    return bit / 8 + bit % 2 * 8;
#endif
}

#endif
