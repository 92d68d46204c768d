/* What all kernels share. */
#pragma once

#include <stdint.h>
#include <string.h>

/* Visible to Python. */
#ifdef _WIN32
#define EXPORT __declspec(dllexport)
#else
#define EXPORT __attribute__((visibility("default")))
#endif

/* Must equal `ABI` in library.py. */
#define MINITX_ABI 14

/* Floats in a vector of this processor. */
#if defined __AVX512F__
#define LANES 16
#elif defined __AVX2__
#define LANES 8
#else
#define LANES 4
#endif

/* Elements of two vectors by their numbers, which go on from a to b. Clang finds the instruction by
   itself where `order` is known. */
#ifdef __clang__
#define shuffle(a, b, order)                                                          \
    ({                                                                                \
        __typeof__(a) made;                                                           \
        _Pragma("unroll") for (int l = 0; l < LANES; l++) made[l] =                   \
            (order)[l] < LANES ? (a)[(order)[l]] : (b)[(order)[l] - LANES];           \
        made;                                                                         \
    })
#else
#define shuffle(a, b, order) __builtin_shuffle(a, b, order)
#endif

/* The processor's own products of bfloat16: AVX512-BF16. */
#ifdef __AVX512BF16__
#define BFLOAT16_PRODUCTS
#endif

/* exp(x), to 2 units in the last place; written so that loops over it become vectors.
   x = n ln 2 + r, with |r| <= ln 2 / 2; e^r by a polynomial, 2^n by the exponent bits. */
static inline float fast_exp(float x) {
    x = x < -87.3f ? -87.3f : x;
    x = x > 88.0f ? 88.0f : x;
    float n = __builtin_rintf(x * 1.44269504f);
    float r = x - n * 0.693359375f;
    r = r + n * 2.12194440e-4f;
    float p = 1.9875691500e-4f;
    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    p = p * r * r + r + 1.0f;
    int32_t bits = ((int32_t)n + 127) << 23;
    float scale;
    memcpy(&scale, &bits, sizeof scale);
    return p * scale;
}
