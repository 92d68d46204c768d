/* Pieces of the kernels that take rows through several layers: memory, norms as products read and
   write them, and the gradient of a matrix. */
#pragma once

#include <stddef.h>

#include "layers.h"
#include "products.h"
#include "thread.h"

#define CHUNK 64   /* rows that go through a product together */
#define STRIP 32   /* rows of a matrix's gradient that are computed together */
#define STRETCH 64 /* pairs of rows that are summed before the next strip: they stay in the cache */

static inline long parts(long n, long part) { return (n + part - 1) / part; }

static inline long most(long a, long b) { return a > b ? a : b; }

/* Hands out memory in whole cache lines. Without a base it only counts. */
typedef struct {
    char *base;
    size_t used;
} Memory;

static inline void *take(Memory *memory, long count, long size) {
    size_t at = memory->used;
    memory->used += (size_t)whole(count * size, 64);
    return memory->base ? memory->base + at : 0;
}

/* Rows of x through a norm, as a product reads them. */
static inline void norm_rows(const float *x, const float *gain, float eps, long rows, long width,
                             float *scales, uint16_t *in) {
    for (long r = 0; r < rows; r++) {
        float scaled[width];
        const float *row = x + r * width;
        float scale = scales[r] = unit_scale(row, width, eps);
        for (long i = 0; i < width; i++) scaled[i] = row[i] * scale * gain[i];
        store_row(scaled, width, in + r * width);
    }
}

/* Rows two by two. */
static inline void pair_all(const uint16_t *rows, long n, long width, Pair *pairs) {
    for (long r = 0; r < n; r += 2)
        pair_rows(rows + r * width, rows + (r + 1) * width, width,
                  pairs + r / 2 * whole(width, PANEL));
}

/* The way back of norm_rows: `grad` of the normed rows, added to `sum` as the gradient of x. Gives
   the normed rows again, in pairs. */
static inline void norm_rows_back(float *grad, const float *x, const float *scales,
                                  const float *gain, long rows, long width, float *by_gain,
                                  float *sum, Pair *pairs) {
    uint16_t normed[2 * width];
    for (long r = 0; r < rows; r++) {
        float unit[width], scaled[width];
        for (long i = 0; i < width; i++) {
            unit[i] = x[r * width + i] * scales[r];
            scaled[i] = unit[i] * gain[i];
        }
        store_row(scaled, width, normed + r % 2 * width);
        if (r % 2) pair_rows(normed, normed + width, width, pairs + r / 2 * whole(width, PANEL));
        norm_row_back(grad + r * width, unit, gain, scales[r], width, by_gain);
        for (long i = 0; i < width; i++) sum[r * width + i] += grad[r * width + i];
    }
}

/* A strip of rows of by_matrix = grad^T in, summed over all rows that there are pairs of. */
static inline void matrix_gradient(const Pair *grad, const Pair *in, long pairs, long rows,
                                   long columns, long strip, float *by_matrix) {
    long grad_stride = whole(rows, PANEL), in_stride = whole(columns, PANEL);
    long from = strip * STRIP, to = from + STRIP < rows ? from + STRIP : rows;
    for (long k = 0; k < pairs; k += STRETCH) {
        long here = pairs - k < STRETCH ? pairs - k : STRETCH;
        for (long j = 0; j < columns; j += PANEL)
            for (long r = from; r < to; r += TILE) {
                const Pair *a = grad + k * grad_stride + r, *b = in + k * in_stride + j;
                float *c = by_matrix + r * columns + j;
                if (k)
                    tile_product(a, 1, grad_stride, b, in_stride, here, c, columns, to - r,
                                 columns - j, ADD);
                else
                    tile_product(a, 1, grad_stride, b, in_stride, here, c, columns, to - r,
                                 columns - j, SET);
            }
    }
}
