/* Matrix products in the format that a file is compiled for: bfloat16 if it says BFLOAT16 first,
   else float32. Sums are in float32. A product reads its factors in words, each of TERMS numbers
   that are neighbours along the summed dimension. */
#pragma once

#include "memory.h"
#include "rows.h"
#include "turn.h"

/* What becomes of the sums: put there, added to what is there (both in float32), or stored as
   products read them. */
typedef enum { SET, ADD, SET_STORED } Into;

/* A kernel that is there for both formats says which it is for. */
#ifdef BFLOAT16
#define NAMED(name) minitx_##name##_bfloat16
#include "products_bfloat16.h"
#else
#define NAMED(name) minitx_##name##_float32
#include "products_float.h"
#endif

/* c = a b for rows of words, `rows` by `columns`. In bfloat16 the memory of a reaches to the next
   multiple of TILE rows. b is as `pack_rows` or `pack_columns` left it: one panel of columns after
   the other. */
static inline __attribute__((always_inline)) void product(const Word *a, int64_t by_row,
                                                          int64_t by_word,
                                                          int64_t rows, const Word *b,
                                                          int64_t words,
                                                          int64_t columns, void *c,
                                                          int64_t c_stride,
                                                          Into into) {
    int64_t size = into == SET_STORED ? sizeof(Stored) : sizeof(float);
    for (int64_t j = 0; j < columns; j += PANEL)
        for (int64_t r = 0; r < rows; r += TILE)
            tile_product(a + r * by_row, by_row, by_word, b + j * words, PANEL, words,
                         (char *)c + (r * c_stride + j) * size, c_stride, rows - r, columns - j,
                         into);
}

/* `product` where c (n, n) is known to be symmetric, for what is not below the diagonal. */
static inline __attribute__((always_inline)) void upper_product(const Word *a, int64_t by_row,
                                                                int64_t by_word, const Word *b,
                                                                int64_t words, int64_t n, float *c,
                                                                Into into) {
    for (int64_t j = 0; j < n; j += PANEL)
        product(a, by_row, by_word, j + PANEL < n ? j + PANEL : n, b + j * words, words,
                n - j < PANEL ? n - j : PANEL, c + j, n, into);
}

/* What is above the diagonal of c (n, n) is put below it. */
static inline void mirror(float *c, int64_t n) {
    for (int64_t r = LANES; r < n; r += LANES)
        turn(c + r, n, r, n - r < LANES ? n - r : LANES, c + r * n, n);
}
