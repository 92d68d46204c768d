/* A model as it reads tokens of several texts, and how its buffers lie. */
#pragma once

#include "decode_model.h"
#include "weights.h"

#include <math.h>
#include <stddef.h>

/* Rows multiplied at once: as many as the registers hold sums of. */
#if LANES == 16
#define TILE 12
#else
#define TILE 6
#endif

/* Columns of a panel: two vectors. */
#define PANEL (2 * LANES)

/* Elements between rows beyond their length, so that rows don't fall on the same lines of the
   cache where the length is a power of two. */
#define GAP 16

/* Ask for a line of memory that a step reads once: it need not be kept, since the cache that all
   cores share is smaller than what is read until the next step. */
static inline void fetch(const void *line) { __builtin_prefetch(line, 0, 0); }

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* Keys of a row and head; their values are `kind` further on. */
static inline float *keys_of(const Cache *cache, int64_t row, int64_t head) {
    return cache->start + row * cache->row + head * cache->head;
}

static inline int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

/* Elements from one row of a buffer to the next. */
static inline int64_t stride_of(int64_t columns) { return padded(columns) + GAP; }

static void norm_row(
    const float *x, int64_t size, const float *gain, const float *shift, float eps, float *out
) {
    float mean = 0.0f, square = 0.0f;
    if (shift) {
        for (int64_t i = 0; i < size; i++) mean += x[i];
        mean /= (float)size;
    }
    for (int64_t i = 0; i < size; i++) square += (x[i] - mean) * (x[i] - mean);
    float scale = 1.0f / sqrtf(square / (float)size + eps);
    for (int64_t i = 0; i < size; i++) out[i] = (x[i] - mean) * scale * gain[i];
    if (shift)
        for (int64_t i = 0; i < size; i++) out[i] += shift[i];
}
