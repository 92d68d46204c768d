/* A model and a cache as `decode.c` reads them, and how its buffers lie. The structures are those
   of decode_weights.py. */
#pragma once

#include <math.h>
#include <stddef.h>

#include "weights.h"

/* A matrix (rows, columns) and its bias, packed by `minitx_decode_pack` in `format`. */
typedef struct {
    const char *packed;
    int64_t rows, columns, format;
} Matrix;

/* gain, bias: (width,). Without a bias it is RMSNorm, and with one LayerNorm. */
typedef struct {
    const float *gain, *bias;
} Norm;

/* qkv: rows of queries, keys, values, by heads. gate_up: rows of gates, then as many of what they
   let through; half as many rows, without gates, in a plain MLP. query_gain, key_gain:
   (head_dim,); NULL where there is no norm of queries and keys. */
typedef struct {
    Norm attention_norm, mlp_norm;
    const float *query_gain, *key_gain;
    Matrix qkv, output, gate_up, down;
} Layer;

/* embedding: (vocab_size, d_model); positions: (context, d_model), or NULL and then
   cosine, sine: (context, head_dim). */
typedef struct {
    int64_t n_layers, n_heads, n_kv_heads, head_dim, d_model, d_ff, context;
    double eps;
    const float *embedding, *positions, *cosine, *sine;
    const Layer *layers;
    Norm norm;
    Matrix head;
} Model;

/* Keys and values: (n_layers, 2, rows, n_kv_heads, capacity, head_dim), elements between them. */
typedef struct {
    float *start;
    int64_t layer, kind, row, head;
} Cache;

static inline int is_gated(const Model *model, const Layer *layer) {
    return layer->gate_up.rows > model->d_ff;
}

/* Keys of a row and head; their values are `kind` further on. */
static inline float *keys_of(const Cache *cache, int64_t row, int64_t head) {
    return cache->start + row * cache->row + head * cache->head;
}

/* Elements between rows beyond their length, so that rows don't fall on the same lines of the
   cache where the length is a power of two. */
#define GAP 16

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
