/* What the norm and SwiGLU do to one row in float32, forward and backward. The formulas are in
   model/transformer.py. */
#pragma once

#include <math.h>

#include "vector.h"

/* 1 / sqrt(mean(x^2) + eps). */
static inline float unit_scale(const float *x, int64_t n, float eps) {
    float square = 0.0f;
    for (int64_t i = 0; i < n; i++) square += x[i] * x[i];
    return 1.0f / sqrtf(square / (float)n + eps);
}

/* The way back of x * scale * gain: `grad` becomes the gradient of x. What lies along x drops out,
   since the length of `unit`, x * scale, is fixed. by_gain is added to. */
static inline void norm_row_back(float *restrict grad, const float *restrict unit,
                                 const float *restrict gain, float scale, int64_t n,
                                 float *restrict by_gain) {
    float along = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        by_gain[i] += grad[i] * unit[i];
        grad[i] *= gain[i];
        along += grad[i] * unit[i];
    }
    along /= (float)n;
    for (int64_t i = 0; i < n; i++) grad[i] = (grad[i] - unit[i] * along) * scale;
}

static inline float sigmoid(float x) { return 1.0f / (1.0f + fast_exp(-x)); }

/* silu(gate) * up. */
static inline void swiglu_row(const float *restrict gate, const float *restrict up, int64_t n,
                              float *restrict given) {
    for (int64_t i = 0; i < n; i++) given[i] = gate[i] * (sigmoid(gate[i]) * up[i]);
}

/* The way back: gradients of gate and up. `given` gets what the row was. */
static inline void swiglu_row_back(const float *restrict grad, const float *restrict gate,
                                   const float *restrict up, int64_t n, float *restrict by_gate,
                                   float *restrict by_up, float *restrict given) {
    for (int64_t i = 0; i < n; i++) {
        float open = sigmoid(gate[i]);
        given[i] = gate[i] * open * up[i];
        by_gate[i] = grad[i] * up[i] * open * (1.0f + gate[i] * (1.0f - open));
        by_up[i] = grad[i] * gate[i] * open;
    }
}
