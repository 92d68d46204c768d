/* Matrix products of float32 by the vectors of any processor, under the names that
   products_bfloat16.h has. A word is one number, so rows and columns are read where they lie. */
#pragma once

#include "rows.h"

typedef float Stored; /* a number as products read it */
typedef float Word;   /* TERMS of them, neighbours along the summed dimension */

#define TERMS 1

#define PANEL (2 * LANES) /* columns that a tile computes: two vectors of sums for each row */
/* Rows that it computes: registers hold the sums, and a row's share of both factors. */
#if defined __AVX512F__ || defined __aarch64__
#define TILE 8
#else
#define TILE 6
#endif

/* `rows` is a constant where this is inlined. */
static inline __attribute__((always_inline)) void tile_of(const int rows, const Word *a,
                                                          int64_t by_row, int64_t by_word,
                                                          const Word *b,
                                                          int64_t b_stride, int64_t words, float *c,
                                                          int64_t c_stride, int64_t columns,
                                                          Into into) {
    Vector sums[TILE][2];
    float edge[PANEL] = {0}; /* a row of c that is shorter than a panel */
    size_t width = (size_t)(columns < PANEL ? columns : PANEL) * sizeof(float);
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        sums[r][0] = sums[r][1] = (Vector){0};
        if (into == ADD) {
            const float *row = c + r * c_stride;
            if (columns < PANEL) row = memcpy(edge, row, width);
            sums[r][0] = *(const Vector *)row, sums[r][1] = *(const Vector *)(row + LANES);
        }
    }
    for (int64_t k = 0; k < words; k++) {
        Vector left = *(const Vector *)b, right = *(const Vector *)(b + LANES);
#pragma GCC unroll 8
        for (int r = 0; r < rows; r++) {
            sums[r][0] += a[r * by_row] * left;
            sums[r][1] += a[r * by_row] * right;
        }
        a += by_word;
        b += b_stride;
    }
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
        float *to = columns < PANEL ? edge : c + r * c_stride;
        *(Vector *)to = sums[r][0], *(Vector *)(to + LANES) = sums[r][1];
        if (columns < PANEL) memcpy(c + r * c_stride, edge, width);
    }
}

/* For at most TILE rows and PANEL columns: c = a b. Row r of a has its number k at a[r * by_row +
   k * by_word]; b has a row of PANEL columns for each, `b_stride` apart: all of it is read, and
   `rows` by `columns` of c are stored. */
static void tile_product(const Word *a, int64_t by_row, int64_t by_word, const Word *b,
                         int64_t b_stride, int64_t words, void *c, int64_t c_stride, int64_t rows,
                         int64_t columns, Into into) {
    switch (rows < TILE ? rows : TILE) {
#define ROWS_ARE(n)                                                                                \
    case n:                                                                                        \
        tile_of(n, a, by_row, by_word, b, b_stride, words, c, c_stride, columns, into);            \
        break;
        ROWS_ARE(1) ROWS_ARE(2) ROWS_ARE(3) ROWS_ARE(4) ROWS_ARE(5) ROWS_ARE(6)
#if TILE > 6
        ROWS_ARE(7) ROWS_ARE(8)
#endif
#undef ROWS_ARE
    }
}

/* A row as products read it. */
static inline void store_row(const float *from, int64_t n, Stored *to) {
    memcpy(to, from, (size_t)n * sizeof(Stored));
}

/* A matrix (rows, columns) for one panel of the factor b: b = matrix^T. */
static inline void pack_columns(const float *matrix, int64_t rows, int64_t columns, int64_t panel,
                                Word *b) {
    Word *to = b + panel * PANEL * columns;
    int64_t first = panel * PANEL, here = rows - first < PANEL ? rows - first : PANEL;
    if (here < PANEL) memset(to, 0, (size_t)(PANEL * columns) * sizeof(Word));
    turn(matrix + first * columns, columns, here, columns, to, PANEL);
}

/* The same for b = matrix. */
static inline void pack_rows(const float *matrix, int64_t rows, int64_t columns, int64_t panel,
                             Word *b) {
    Word *to = b + panel * PANEL * rows;
    int64_t here = columns - panel * PANEL < PANEL ? columns - panel * PANEL : PANEL;
    for (int64_t k = 0; k < rows; k++, to += PANEL) {
        const float *row = matrix + k * columns + panel * PANEL;
        if (here == PANEL) /* a constant: vectors instead of a call that copies */
            for (int64_t j = 0; j < PANEL; j++) to[j] = row[j];
        else
            for (int64_t j = 0; j < PANEL; j++) to[j] = j < here ? row[j] : 0.0f;
    }
}

/* All panels of a matrix that is stored already. */
static inline void pack_stored_rows(const Stored *matrix, int64_t rows, int64_t columns, Word *b) {
    for (int64_t panel = 0; panel * PANEL < columns; panel++)
        pack_rows(matrix, rows, columns, panel, b);
}

/* The words of a matrix's columns, neighbours along a column: word k of column i is at
   i + k * stride. `room` is for those that are not there yet. */
static inline const Word *words_of_columns(const Stored *matrix, int64_t rows, int64_t columns,
                                           Word *room, int64_t *stride) {
    (void)rows, (void)room;
    *stride = columns;
    return matrix;
}
