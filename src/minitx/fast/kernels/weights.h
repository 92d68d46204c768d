/* Weights as they are stored, read as floats: float32, bfloat16, and 8-bit integers. */
#pragma once

#include "vector.h"

#if defined __AVX2__
#include <immintrin.h>
#endif

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t Words __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Rows of a matrix that lie side by side, column by column: two vectors. */
#define PANEL (2 * LANES)

/* Bytes of a line of memory. */
#define LINE 64

enum { FLOAT32, BFLOAT16, INT8 };

/* Bytes of a weight. */
static inline int64_t bytes_of(int64_t format) { return 4 >> format; }

/* Where row i of a panel lies in a column. Two bfloat16 of both vectors share a word, the left one
   in its lower half, so that a vector of words is widened by one operation for each half. */
static inline int64_t slot_of(int64_t format, int64_t i) {
    return format == BFLOAT16 ? i % LANES * 2 + i / LANES : i;
}

static inline vec widen_int8(const int8_t *at) {
    /* Compilers widen integers in more steps than the processor needs. */
#if defined __AVX512F__
    return (vec)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const void *)at)));
#elif defined __AVX2__
    return (vec)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const void *)at)));
#else
    vec loaded;
    for (int lane = 0; lane < LANES; lane++) loaded[lane] = (float)at[lane];
    return loaded;
#endif
}

/* A column of a panel. `format` is a constant where it is inlined. */
static inline __attribute__((always_inline)) void read_column(
    const int format, const char *column, vec *left, vec *right
) {
    if (format == FLOAT32) {
        *left = *(const vec *)column;
        *right = *(const vec *)(column + sizeof(vec));
    } else if (format == BFLOAT16) {
        Words both = *(const Words *)column;
        *left = (vec)(both << 16);
        *right = (vec)(both & 0xffff0000u);
    } else {
        *left = widen_int8((const int8_t *)column);
        *right = widen_int8((const int8_t *)column + LANES);
    }
}
