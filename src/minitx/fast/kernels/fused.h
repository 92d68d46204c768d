/* Pieces of the kernels that take rows through several layers: norms as products read and write
   them, and the gradient of a matrix. */
#pragma once

#include "layers.h"
#include "memory.h"
#include "products.h"
#include "thread.h"

#define CHUNK 64           /* rows that go through a product together; even */
#define STRIP (4 * TILE)   /* rows of a matrix's gradient that are computed together */
#define STRETCH (128 / TERMS) /* words that are summed before the next strip: they stay in the cache */

/* A row of numbers as float32: where it lies, or in `room`. */
static inline const float *widened(const Stored *row, long n, float *room) {
#if TERMS == 1
    (void)n, (void)room;
    return row;
#else
    read_row(row, 0, 1, n, room);
    return room;
#endif
}

/* The factors of a matrix's gradient, which sums over rows: words of TERMS neighbouring rows, laid
   out so that what a tile reads is contiguous. STRETCH words at a time, `across` columns of each
   beside each other (STRIP for the first factor, PANEL for the second). */
static inline long laid_size(long rows, long width, long across) {
    return whole(parts(rows, TERMS), STRETCH) * whole(width, across);
}

/* TERMS rows, `stride` apart, of which the first is number `row`. The columns beyond `width` become
   0. */
static inline __attribute__((always_inline)) void lay_word(const Stored *rows, long stride,
                                                           long row, long width, long across,
                                                           Word *laid) {
    long word = row / TERMS, stretch = word / STRETCH * STRETCH;
    Word *to = laid + stretch * whole(width, across) + word % STRETCH * across;
    for (long i = 0; i < width; i += across, to += STRETCH * across) {
        long here = width - i < across ? width - i : across;
#if TERMS == 1
        (void)stride;
        for (long j = 0; j < here; j++) to[j] = rows[i + j];
#else
        for (long j = 0; j < here; j++)
            to[j] = (Word)rows[i + j] | (Word)rows[stride + i + j] << 16;
#endif
        for (long j = here; j < across; j++) to[j] = 0;
    }
}

/* `n` rows from number `first` on, both whole words. */
static inline void lay_rows(const Stored *rows, long first, long n, long width, long across,
                            Word *laid) {
    for (long r = 0; r < n; r += TERMS)
        lay_word(rows + r * width, width, first + r, width, across, laid);
}

/* Rows of x through a norm, as a product reads them. */
static inline void norm_rows(const float *x, const float *gain, float eps, long rows, long width,
                             float *scales, Stored *in) {
    for (long r = 0; r < rows; r++) {
        float scaled[width];
        const float *row = x + r * width;
        float scale = scales[r] = unit_scale(row, width, eps);
        for (long i = 0; i < width; i++) scaled[i] = row[i] * scale * gain[i];
        store_row(scaled, width, in + r * width);
    }
}

/* The way back of norm_rows: `grad` of the normed rows, added to `sum` as the gradient of x. Lays
   out the normed rows, the first of which is number `first`. */
static inline void norm_rows_back(float *grad, const float *x, const float *scales,
                                  const float *gain, long first, long rows, long width,
                                  float *by_gain, float *sum, Word *laid) {
    Stored normed[TERMS * width];
    for (long r = 0; r < rows; r++) {
        float unit[width], scaled[width];
        for (long i = 0; i < width; i++) {
            unit[i] = x[r * width + i] * scales[r];
            scaled[i] = unit[i] * gain[i];
        }
        store_row(scaled, width, normed + r % TERMS * width);
        if (r % TERMS == TERMS - 1) lay_word(normed, width, first + r, width, PANEL, laid);
        norm_row_back(grad + r * width, unit, gain, scales[r], width, by_gain);
        for (long i = 0; i < width; i++) sum[r * width + i] += grad[r * width + i];
    }
}

/* A strip of rows of by_matrix = grad^T in, summed over `words` words that are laid out. */
static inline void matrix_gradient(const Word *grad, const Word *in, long words, long rows,
                                   long columns, long strip, float *by_matrix) {
    long grad_width = whole(rows, STRIP), in_width = whole(columns, PANEL);
    long from = strip * STRIP, to = from + STRIP < rows ? from + STRIP : rows;
    for (long k = 0; k < words; k += STRETCH) {
        long here = words - k < STRETCH ? words - k : STRETCH;
        const Word *a = grad + k * grad_width + from * STRETCH, *b = in + k * in_width;
        for (long j = 0; j < columns; j += PANEL, b += PANEL * STRETCH)
            for (long r = from; r < to; r += TILE) {
                float *c = by_matrix + r * columns + j;
                if (k)
                    tile_product(a + r - from, 1, STRIP, b, PANEL, here, c, columns, to - r,
                                 columns - j, ADD);
                else
                    tile_product(a + r - from, 1, STRIP, b, PANEL, here, c, columns, to - r,
                                 columns - j, SET);
            }
    }
}
