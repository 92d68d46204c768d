/* Dropout by counting instead of drawing: whether a number is kept is a hash of a seed and of its
   place, so that forward and backward find the same, in any order and with any number of threads. */
#pragma once

#include <stdint.h>

/* With `dropped` of 2^32 numbers gone, the others times `scale`. 0 dropped: no dropout. */
typedef struct {
    uint32_t dropped;
    float scale;
    uint64_t seed;
} Dropout;

static inline Dropout dropout_of(float probability, uint64_t seed) {
    return (Dropout){(uint32_t)(probability * 4294967296.0), 1.0f / (1.0f - probability), seed};
}

/* The finalizer of splitmix64 (Steele et al. 2014, figure 16). */
static inline uint64_t mix(uint64_t x) {
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

/* What the numbers of a row have in common. */
static inline uint32_t row_key(Dropout dropout, uint64_t row) {
    return (uint32_t)(mix(dropout.seed + (row + 1) * 0x9e3779b97f4a7c15u) >> 32);
}

/* The factor of number i of a row: 0 or `scale`. A finalizer of 32 bits, so that a loop over i
   becomes vectors. */
static inline float keep_factor(Dropout dropout, uint32_t key, uint32_t i) {
    uint32_t hash = key + i * 0x9e3779b9u;
    hash = (hash ^ (hash >> 16)) * 0x7feb352du;
    hash = (hash ^ (hash >> 15)) * 0x846ca68bu;
    hash ^= hash >> 16;
    return hash >= dropout.dropped ? dropout.scale : 0.0f;
}

static inline void drop_row(float *row, int64_t n, Dropout dropout, uint64_t number) {
    if (!dropout.dropped) return;
    uint32_t key = row_key(dropout, number);
    for (int64_t i = 0; i < n; i++) row[i] *= keep_factor(dropout, key, (uint32_t)i);
}
