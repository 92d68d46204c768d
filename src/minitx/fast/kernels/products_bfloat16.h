/* Matrix products of bfloat16 with sums in float32, by the processor's own instruction for them
   (AVX512-BF16): 16 sums at once, each of which takes a pair of neighbours along the summed
   dimension. So both factors are read as pairs, two numbers in one word. */
#pragma once

#include <immintrin.h>

#include "rows.h"

typedef uint16_t Stored; /* a number as products read it */
typedef uint32_t Word;   /* TERMS of them, neighbours along the summed dimension */
typedef Word Pair;

#define TERMS 2

#define PANEL 32 /* columns that a tile computes: two vectors of sums for each row */
#define TILE 8   /* rows that it computes */

/* For TILE rows and PANEL columns: c = a b. Row r of a has its pair k at a[r * by_row +
   k * by_pair]; b has a row of PANEL columns for each pair, `b_stride` apart. All of a tile is
   computed, and `rows` by `columns` of it are stored. */
static inline __attribute__((always_inline)) void tile_product(
    const Pair *a, int64_t by_row, int64_t by_pair, const Pair *b, int64_t b_stride, int64_t pairs,
    void *c, int64_t c_stride, int64_t rows, int64_t columns, Into into) {
    __m512 sums[TILE][2];
    uint32_t valid = columns >= PANEL ? 0xffffffffu : (1u << columns) - 1;
    __mmask16 left = (__mmask16)valid, right = (__mmask16)(valid >> 16);
#pragma GCC unroll 8
    for (int64_t r = 0; r < TILE; r++) {
        sums[r][0] = sums[r][1] = _mm512_setzero_ps();
        if (into == ADD && r < rows) {
            const float *row = (const float *)c + r * c_stride;
            sums[r][0] = _mm512_maskz_loadu_ps(left, row);
            sums[r][1] = _mm512_maskz_loadu_ps(right, row + 16);
        }
    }
    for (int64_t k = 0; k < pairs; k++) {
        __m512bh b0 = (__m512bh)_mm512_loadu_si512(b), b1 = (__m512bh)_mm512_loadu_si512(b + 16);
#pragma GCC unroll 8
        for (int64_t r = 0; r < TILE; r++) {
            __m512bh x = (__m512bh)_mm512_set1_epi32((int)a[r * by_row]);
            sums[r][0] = _mm512_dpbf16_ps(sums[r][0], x, b0);
            sums[r][1] = _mm512_dpbf16_ps(sums[r][1], x, b1);
        }
        a += by_pair;
        b += b_stride;
    }
#pragma GCC unroll 8
    for (int64_t r = 0; r < TILE; r++) {
        if (r >= rows) break;
        if (into == SET_STORED) {
            uint16_t *row = (uint16_t *)c + r * c_stride;
            __m512i both = (__m512i)_mm512_cvtne2ps_pbh(sums[r][1], sums[r][0]);
            _mm512_mask_storeu_epi16(row, valid, both);
        } else {
            float *row = (float *)c + r * c_stride;
            _mm512_mask_storeu_ps(row, left, sums[r][0]);
            _mm512_mask_storeu_ps(row + 16, right, sums[r][1]);
        }
    }
}

/* A row to bfloat16, to the nearest. */
static inline void store_row(const float *from, int64_t n, Stored *to) {
    for (int64_t i = 0; i < n; i += 32) {
        uint32_t valid = n - i >= 32 ? 0xffffffffu : (1u << (n - i)) - 1;
        __m512 low = _mm512_maskz_loadu_ps((__mmask16)valid, from + i);
        __m512 high = _mm512_maskz_loadu_ps((__mmask16)(valid >> 16), from + i + 16);
        _mm512_mask_storeu_epi16(to + i, valid, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

static inline Pair pair(float first, float second) {
    return (Pair)narrow(first) | (Pair)narrow(second) << 16;
}

/* Pairs of a matrix (rows, columns) for one panel of the factor b: b = matrix^T, pairs along the
   matrix's columns. */
static inline void pack_columns(const float *matrix, int64_t rows, int64_t columns, int64_t panel,
                                Pair *b) {
    Pair *to = b + panel * PANEL * (columns / 2);
    for (int64_t j = 0; j < PANEL; j++) {
        int64_t r = panel * PANEL + j;
        const float *row = matrix + r * columns;
        for (int64_t k = 0; k < columns / 2; k++)
            to[k * PANEL + j] = r < rows ? pair(row[2 * k], row[2 * k + 1]) : 0;
    }
}

/* The same for b = matrix, pairs along its rows. The last of an odd number is paired with 0. */
static inline void pack_rows(const float *matrix, int64_t rows, int64_t columns, int64_t panel,
                             Pair *b) {
    int64_t pairs = whole(rows, 2) / 2;
    Pair *to = b + panel * PANEL * pairs;
    int64_t here = columns - panel * PANEL < PANEL ? columns - panel * PANEL : PANEL;
    for (int64_t k = 0; k < pairs; k++) {
        const float *first = matrix + 2 * k * columns + panel * PANEL, *second = first + columns;
        int both = 2 * k + 1 < rows;
        for (int64_t j = 0; j < here; j++)
            to[k * PANEL + j] = pair(first[j], both ? second[j] : 0.0f);
        for (int64_t j = here; j < PANEL; j++) to[k * PANEL + j] = 0;
    }
}

/* Rows two by two: word i has number i of both. `width` words, then 0 up to whole panels. */
static inline void pair_rows(const uint16_t *first, const uint16_t *second, int64_t width,
                             Pair *to) {
    for (int64_t i = 0; i < width; i++) to[i] = (Pair)first[i] | (Pair)second[i] << 16;
    for (int64_t i = width; i < whole(width, PANEL); i++) to[i] = 0;
}

/* All panels of a matrix that is stored already, of an even number of rows and columns. */
static inline void pack_stored_rows(const Stored *matrix, int64_t rows, int64_t columns, Word *b) {
    for (int64_t k = 0; k < rows / 2; k++) {
        const Stored *first = matrix + 2 * k * columns, *second = first + columns;
        for (int64_t from = 0; from < columns; from += PANEL)
            pair_rows(first + from, second + from, columns - from < PANEL ? columns - from : PANEL,
                      b + from * (rows / 2) + k * PANEL);
    }
}

/* The words of a matrix's columns, neighbours along a column: word k of column i is at
   i + k * stride. `room` is for those that are not there yet. */
static inline const Word *words_of_columns(const Stored *matrix, int64_t rows, int64_t columns,
                                           Word *room, int64_t *stride) {
    *stride = whole(columns, PANEL);
    for (int64_t r = 0; r < rows; r += 2)
        pair_rows(matrix + r * columns, matrix + (r + 1) * columns, columns,
                  room + r / 2 * *stride);
    return room;
}
