/* Matrices of float32, transposed by vectors. */
#pragma once

#include "vector.h"

typedef float Vector __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Rows of a matrix become its columns. */
static inline __attribute__((always_inline)) void transpose(Vector square[LANES]) {
    typedef int32_t Order __attribute__((vector_size(4 * LANES)));
#pragma GCC unroll 4
    for (int step = 1; step < LANES; step *= 2) {
        Order first, second;
        for (int i = 0; i < LANES; i++) {
            first[i] = i & step ? LANES + i - step : i;
            second[i] = i & step ? LANES + i : i + step;
        }
#pragma GCC unroll 16
        for (int i = 0; i < LANES; i++) {
            if (i & step) continue;
            Vector a = square[i], b = square[i + step];
            square[i] = shuffle(a, b, first);
            square[i + step] = shuffle(a, b, second);
        }
    }
}

/* `to` (columns, rows) = the transposed `from` (rows, columns). */
static inline void turn(const float *from, int64_t from_stride, int64_t rows, int64_t columns,
                        float *to, int64_t to_stride) {
    for (int64_t r = 0; r < rows; r += LANES)
        for (int64_t i = 0; i < columns; i += LANES) {
            const float *a = from + r * from_stride + i;
            float *b = to + i * to_stride + r;
            if (r + LANES <= rows && i + LANES <= columns) {
                Vector square[LANES];
#pragma GCC unroll 16
                for (int64_t k = 0; k < LANES; k++)
                    square[k] = *(const Vector *)(a + k * from_stride);
                transpose(square);
#pragma GCC unroll 16
                for (int64_t k = 0; k < LANES; k++) *(Vector *)(b + k * to_stride) = square[k];
            } else {
                for (int64_t k = 0; k < LANES && r + k < rows; k++)
                    for (int64_t j = 0; j < LANES && i + j < columns; j++)
                        b[j * to_stride + k] = a[k * from_stride + j];
            }
        }
}
