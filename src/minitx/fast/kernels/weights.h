/* Weights as they are stored, read as floats: float32, bfloat16, and 8-bit integers. */
#pragma once

#include "vector.h"

#if defined __AVX2__
#include <immintrin.h>
#endif

typedef float Floats __attribute__((vector_size(4 * LANES)));

static inline float from_float32(float weight) { return weight; }

static inline float from_int8(int8_t weight) { return (float)weight; }

/* The upper half of a float32. */
static inline float from_bfloat16(uint16_t weight) {
    uint32_t bits = (uint32_t)weight << 16;
    float number;
    memcpy(&number, &bits, sizeof number);
    return number;
}

static inline Floats load_float32(const float *at) {
    Floats loaded;
    memcpy(&loaded, at, sizeof loaded);
    return loaded;
}

/* Compilers widen integers in more steps than the processor needs. */
#if defined __AVX512F__
static inline Floats load_int8(const int8_t *at) {
    __m128i bytes = _mm_loadu_si128((const void *)at);
    return (Floats)_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
}

static inline Floats load_bfloat16(const uint16_t *at) {
    __m256i halves = _mm256_loadu_si256((const void *)at);
    return (Floats)_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16);
}
#elif defined __AVX2__
static inline Floats load_int8(const int8_t *at) {
    __m128i bytes = _mm_loadl_epi64((const void *)at);
    return (Floats)_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
}

static inline Floats load_bfloat16(const uint16_t *at) {
    __m128i halves = _mm_loadu_si128((const void *)at);
    return (Floats)_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16);
}
#else
static inline Floats load_int8(const int8_t *at) {
    Floats loaded;
    for (int lane = 0; lane < LANES; lane++) loaded[lane] = from_int8(at[lane]);
    return loaded;
}

static inline Floats load_bfloat16(const uint16_t *at) {
    Floats loaded;
    for (int lane = 0; lane < LANES; lane++) loaded[lane] = from_bfloat16(at[lane]);
    return loaded;
}
#endif

static inline float total(Floats x) {
    float sum = 0;
    for (int lane = 0; lane < LANES; lane++) sum += x[lane];
    return sum;
}

/* Memory is asked for this many bytes before it is read, some rows further on: rows end too soon
   for the processor to see by itself what comes. */
#define AHEAD 4096
#define LINE 64

static inline void fetch_ahead(const void *at) { __builtin_prefetch((const char *)at + AHEAD); }
