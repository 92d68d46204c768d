/* A model and a cache as both decoding kernels read them: `decode.c`, one text; `batch.c`, several.
   The structures are those of decode_weights.py. */
#pragma once

#include <stdint.h>

/* weights: (rows, columns) in `format`, a row every `stride` elements; for batch.c in float32 as
   `minitx_batch_pack` leaves them, with the bias among them.
   scale: (rows,), what integers stand for; bias: (rows,). NULL if there is none. */
typedef struct {
    const void *weights;
    const float *scale, *bias;
    int64_t rows, columns, stride, format;
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

static inline int is_gated(const Model *model, const Layer *layer) {
    return layer->gate_up.rows > model->d_ff;
}

/* Keys and values: (n_layers, 2, rows, n_kv_heads, capacity, head_dim), elements between them. */
typedef struct {
    float *start;
    int64_t layer, kind, row, head;
} Cache;
