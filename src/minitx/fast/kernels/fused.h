/* Pieces of the kernels that take rows through several layers: norms as products read and write
   them, and the gradient of a matrix. */
#pragma once

#include "layers.h"
#include "memory.h"
#include "products.h"
#include "thread.h"

#define CHUNK (8 * TILE) /* rows that go through a product together */

/* Of a matrix's gradient: rows that are laid out together, words that are summed before the next
   (a part of both factors for them stays in the first cache), and what a thread computes. */
#define STRIP (2 * TILE)
#define STRETCH (4096 / PANEL)
#define GRADIENT_ROWS (16 * TILE)
#define GRADIENT_COLUMNS 384

/* A row of numbers as float32: where it lies, or in `room`. */
static inline const float *widened(const Stored *row, int64_t n, float *room) {
#if TERMS == 1
    (void)n, (void)room;
    return row;
#else
    read_row(row, 0, 1, n, room);
    return room;
#endif
}

/* Where n numbers are computed that are then stored as `to`: there, or in `room`. */
static inline float *place_for(Stored *to, float *room) {
#if TERMS == 1
    (void)room;
    return to;
#else
    (void)to;
    return room;
#endif
}

static inline void store_placed(const float *from, int64_t n, Stored *to) {
#if TERMS == 1
    (void)from, (void)n, (void)to;
#else
    store_row(from, n, to);
#endif
}

/* The factors of a matrix's gradient, which sums over rows: words of TERMS neighbouring rows, laid
   out so that what a tile reads is contiguous. STRETCH words at a time, `across` columns of each
   beside each other (STRIP for the first factor, PANEL for the second). */
static inline int64_t laid_part(int64_t across) {
    /* A line of the cache more, so that a row's parts do not all fall on the same place in it. */
    return STRETCH * across + 16;
}

static inline int64_t laid_size(int64_t rows, int64_t width, int64_t across) {
    return parts(parts(rows, TERMS), STRETCH) * parts(width, across) * laid_part(across);
}

/* TERMS rows, `stride` apart, of which the first is number `row`. The columns beyond `width` become
   0. */
static inline __attribute__((always_inline)) void lay_word(const Stored *rows, int64_t stride,
                                                           int64_t row, int64_t width,
                                                           int64_t across,
                                                           Word *laid) {
    int64_t word = row / TERMS, part = laid_part(across);
    Word *to = laid + word / STRETCH * parts(width, across) * part + word % STRETCH * across;
    for (int64_t i = 0; i < width; i += across, to += part) {
        int64_t here = width - i < across ? width - i : across;
#if TERMS == 1
        (void)stride;
        if (here == across) /* a constant: vectors instead of a call that copies */
            for (int64_t j = 0; j < across; j++) to[j] = rows[i + j];
        else
            for (int64_t j = 0; j < here; j++) to[j] = rows[i + j];
#else
        for (int64_t j = 0; j < here; j++)
            to[j] = (Word)rows[i + j] | (Word)rows[stride + i + j] << 16;
#endif
        for (int64_t j = here; j < across; j++) to[j] = 0;
    }
}

/* `n` rows from number `first` on, both whole words. */
static inline void lay_rows(const Stored *rows, int64_t first, int64_t n, int64_t width,
                            int64_t across, Word *laid) {
    for (int64_t r = 0; r < n; r += TERMS)
        lay_word(rows + r * width, width, first + r, width, across, laid);
}

/* Rows of x through a norm, as a product reads them. */
static inline void norm_rows(const float *x, const float *gain, float eps, int64_t rows,
                             int64_t width, float *scales, Stored *in) {
    for (int64_t r = 0; r < rows; r++) {
        float room[width], *restrict scaled = place_for(in + r * width, room);
        const float *row = x + r * width;
        float scale = scales[r] = unit_scale(row, width, eps);
        for (int64_t i = 0; i < width; i++) scaled[i] = row[i] * scale * gain[i];
        store_placed(scaled, width, in + r * width);
    }
}

/* The way back of norm_rows: `grad` of the normed rows, added to `sum` as the gradient of x. Lays
   out the normed rows, the first of which is number `first`. */
static inline void norm_rows_back(float *grad, const float *x, const float *scales,
                                  const float *gain, int64_t first, int64_t rows, int64_t width,
                                  float *by_gain, float *sum, Word *laid) {
    Stored normed[TERMS * width];
    for (int64_t r = 0; r < rows; r++) {
        Stored *to = normed + r % TERMS * width;
        float unit[width], room[width], *restrict scaled = place_for(to, room);
        for (int64_t i = 0; i < width; i++) {
            unit[i] = x[r * width + i] * scales[r];
            scaled[i] = unit[i] * gain[i];
        }
        store_placed(scaled, width, to);
        if (r % TERMS == TERMS - 1) lay_word(normed, width, first + r, width, PANEL, laid);
        norm_row_back(grad + r * width, unit, gain, scales[r], width, by_gain);
        for (int64_t i = 0; i < width; i++) sum[r * width + i] += grad[r * width + i];
    }
}

/* Into how many pieces of work the gradient of a matrix falls. */
static inline int64_t gradient_parts(int64_t rows, int64_t columns) {
    return parts(rows, GRADIENT_ROWS) * parts(columns, GRADIENT_COLUMNS);
}

/* One of them, GRADIENT_ROWS by GRADIENT_COLUMNS of by_matrix = grad^T in, summed over `words` words that are laid
   out: small enough to stay in the second cache, large enough that what is read for it is used
   often. */
static inline void matrix_gradient(const Word *grad, const Word *in, int64_t words, int64_t rows,
                                   int64_t columns, int64_t number, float *by_matrix) {
    int64_t grad_parts = parts(rows, STRIP), in_parts = parts(columns, PANEL);
    int64_t heights = parts(rows, GRADIENT_ROWS);
    int64_t from = number % heights * GRADIENT_ROWS, left = number / heights * GRADIENT_COLUMNS;
    int64_t to = from + GRADIENT_ROWS < rows ? from + GRADIENT_ROWS : rows;
    int64_t right = left + GRADIENT_COLUMNS < columns ? left + GRADIENT_COLUMNS : columns;
    for (int64_t k = 0; k < words; k += STRETCH) {
        int64_t here = words - k < STRETCH ? words - k : STRETCH;
        const Word *a = grad + (k / STRETCH * grad_parts + from / STRIP) * laid_part(STRIP);
        const Word *b = in + (k / STRETCH * in_parts + left / PANEL) * laid_part(PANEL);
        for (int64_t j = left; j < right; j += PANEL, b += laid_part(PANEL))
            for (int64_t r = from; r < to; r += TILE) {
                const Word *tile = a + (r - from) / STRIP * laid_part(STRIP) + (r - from) % STRIP;
                float *c = by_matrix + r * columns + j;
                if (k)
                    tile_product(tile, 1, STRIP, b, PANEL, here, c, columns, to - r, columns - j,
                                 ADD);
                else
                    tile_product(tile, 1, STRIP, b, PANEL, here, c, columns, to - r, columns - j,
                                 SET);
            }
    }
}
