/* Some rows times a matrix, which is packed in panels that are read in the order in which they lie.

   For some thirty rows the arithmetic takes longer than to bring the weights from memory, if both
   go on at once: so while a panel is multiplied, the next one is asked for, a few lines at a time. */
#pragma once

#include "batch_model.h"
#include "team.h"

/* Terms of a sum after which memory is asked for again. */
#define TERMS 4

/* What to do with a product: put it there, add it to what is there, or put its activation there.
   GATED: silu(gate) * up; a panel has a vector of each. */
typedef enum { PUT, ADD, GATED, GELU } Then;

static inline int64_t panels_of(int64_t rows, Then then) {
    return then == GATED ? (rows / 2 + LANES - 1) / LANES : padded(rows) / PANEL;
}

/* The tanh form, x (1 + tanh(y)) / 2, is x / (1 + e^(-2y)) (Hendrycks and Gimpel 2016). */
static inline vec gelu(vec x) {
    vec twice_y = 1.5957691216f * (x + 0.044715f * x * x * x);
    float in[LANES], y[LANES], out[LANES];
    *(vec *)in = x, *(vec *)y = twice_y;
    for (int i = 0; i < LANES; i++) out[i] = in[i] / (1.0f + fast_exp(-y[i]));
    return *(vec *)out;
}

/* (Shazeer 2020, section 2.) */
static inline vec silu(vec x) {
    float in[LANES], out[LANES];
    *(vec *)in = x;
    for (int i = 0; i < LANES; i++) out[i] = in[i] / (1.0f + fast_exp(-in[i]));
    return *(vec *)out;
}

/* `rows` of x, of `depth` elements each, times one panel. `rows` is a constant where it is inlined:
   the sums stay in registers. `next`: where to ask for `rate` lines for each TERMS terms. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const float *x, int64_t x_stride, const float *panel, int64_t depth,
    float *out, int64_t out_stride, Then then, const char *next, int64_t rate
) {
    vec sum[TILE][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = *(const vec *)panel;
        sum[r][1] = *(const vec *)(panel + LANES);
    }
    for (int64_t k = 0; k < depth; k++) {
        if (k % TERMS == 0)
            for (int64_t i = 0; i < rate; i++, next += LINE) fetch(next);
        panel += PANEL;
        vec left = *(const vec *)panel, right = *(const vec *)(panel + LANES);
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++) {
            float one = x[r * x_stride + k];
            sum[r][0] += left * one;
            sum[r][1] += right * one;
        }
    }
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        vec *to = (vec *)(out + r * out_stride), *beside = (vec *)(out + r * out_stride + LANES);
        if (then == GATED) {
            *to = silu(sum[r][0]) * sum[r][1];
        } else if (then == GELU) {
            *to = gelu(sum[r][0]);
            *beside = gelu(sum[r][1]);
        } else if (then == ADD) {
            *to += sum[r][0];
            *beside += sum[r][1];
        } else {
            *to = sum[r][0];
            *beside = sum[r][1];
        }
    }
}

static void some_rows(
    int rows, const float *x, int64_t x_stride, const float *panel, int64_t depth, float *out,
    int64_t out_stride, Then then, const char *next, int64_t rate
) {
#define CASE(n)                                                                                    \
    case n: tile(n, x, x_stride, panel, depth, out, out_stride, then, next, rate); break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
#undef CASE
}

/* packed: a matrix (rows, columns) and its bias; see `minitx_batch_pack`. */
typedef struct {
    const float *packed;
    int64_t rows, columns;
    Then then;
} Product;

/* out = x W^T + bias, or what `then` says of it. To be called by all threads.

   x: (n, columns); out: n rows, `out_stride` apart; after: the product that comes next. */
static void multiply(
    Thread thread, const Product *product, const float *x, int64_t n, float *out,
    int64_t out_stride, const Product *after
) {
    int64_t depth = product->columns, size = PANEL * (depth + 1);
    int64_t panels = panels_of(product->rows, product->then), tiles = (n + TILE - 1) / TILE;
    int64_t wide = product->then == GATED ? LANES : PANEL, times = (depth + TERMS - 1) / TERMS;
    for (int64_t mine = take(thread, panels), then; mine < panels; mine = then) {
        then = take(thread, panels);
        const float *panel = product->packed + mine * size;
        /* The next panel, or the first that this thread will have of the next product. */
        int64_t next_size = then < panels ? size : PANEL * (after->columns + 1);
        const char *next = (const char *)(then < panels ? product->packed + then * size
                                                        : after->packed + thread.number * next_size);
        int64_t lines = next_size * (int64_t)sizeof(float) / LINE, asked = times * tiles;
        int64_t rate = (lines + asked - 1) / asked;
        for (int64_t t = 0; t < tiles; t++) {
            /* Tiles of nearly equal size. */
            int64_t from = n * t / tiles, some = n * (t + 1) / tiles - from;
            some_rows(
                (int)some, x + from * stride_of(depth), stride_of(depth), panel, depth,
                out + from * out_stride + mine * wide, out_stride, product->then, next, rate
            );
            next += rate * times * LINE;
        }
    }
    wait_for_all(thread);
}
