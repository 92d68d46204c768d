/* Rows of float32 or bfloat16 ("half"), read into float32 and written back. */
#pragma once

#include "vector.h"

static inline float widen(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* To the nearest bfloat16, ties to the even one; NaN stays NaN. */
static inline uint16_t narrow(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    uint32_t nearest = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (uint16_t)(x != x ? 0x7fc0 : nearest);
}

/* n numbers from place `at` on. */
static inline void read_row(const void *from, int64_t at, int half, int64_t n, float *restrict to) {
    if (half) {
        const uint16_t *row = (const uint16_t *)from + at;
        for (int64_t i = 0; i < n; i++) to[i] = widen(row[i]);
    } else {
        memcpy(to, (const float *)from + at, (size_t)n * sizeof(float));
    }
}

/* The same where they lie, or in `room` if they must be widened: numbers that were copied in vectors
   of one size and are then read in another wait for the memory. */
static inline const float *row_at(const void *from, int64_t at, int half, int64_t n, float *room) {
    if (!half) return (const float *)from + at;
    read_row(from, at, half, n, room);
    return room;
}

static inline void write_row(void *to, int64_t at, int half, int64_t n,
                             const float *restrict from) {
    if (half) {
        uint16_t *row = (uint16_t *)to + at;
        for (int64_t i = 0; i < n; i++) row[i] = narrow(from[i]);
    } else {
        memcpy((float *)to + at, from, (size_t)n * sizeof(float));
    }
}

/* Rows whose sums over rows are formed together: the same for any number of threads, so that a
   sum is as well. */
#define SLICE 64

static inline int64_t slices(int64_t rows) { return (rows + SLICE - 1) / SLICE; }

/* sums[i] = partial[0][i] + partial[1][i] + ..., in this order. */
static inline void add_partial(const float *restrict partial, int64_t n, int64_t width,
                               float *restrict sums) {
    for (int64_t i = 0; i < width; i++) sums[i] = 0.0f;
    for (int64_t s = 0; s < n; s++)
        for (int64_t i = 0; i < width; i++) sums[i] += partial[s * width + i];
}
