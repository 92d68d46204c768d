/* What the test program of the kernels shares: random inputs, plain double loops to compare with,
   and the table of tests. */
#pragma once

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A kernel, or kernels that belong together, on one random shape. */
typedef struct {
    const char *name;
    void (*run)(void);
} Test;

extern const Test OF_ROWS[], OF_UPDATES[], OF_ATTENTION[], OF_BLOCKS[], OF_DECODING[];

/* Random numbers, the same for a seed everywhere. */
int64_t pick(int64_t low, int64_t high); /* from low to high, both possible; small ones more often */
double normal(void);

/* Memory of exactly so many bytes, until the end of the test, of NaN. */
void *room(int64_t bytes);
float *floats(int64_t n);
double *doubles(int64_t n);

/* n random numbers in float32 or bfloat16; what they are exactly in `exact`. */
void *stored(int64_t n, int half, double size, double *exact);
float *drawn(int64_t n, double size, double *exact);
/* n numbers to the format, and what they are then. */
void *rounded(int64_t n, int half, double *exact);
double read_stored(const void *from, int half, int64_t i);

/* Fails if a number is further from the right one than so much of the largest right one. */
void compare(const char *what, const void *found, int half, const double *right, int64_t n,
             double tolerance);
/* Fails unless both have the same bits. */
void same_bits(const char *what, const void *one, const void *other, int64_t bytes);
void expect(const char *what, int holds);
/* Fails if `gradient` is not that of `value` at `inputs`, seen along random directions. */
void compare_gradient(const char *what, double (*value)(const double *inputs, const void *of),
                      const void *of, double *inputs, const double *gradient, int64_t n,
                      double tolerance);
/* Puts n numbers behind those in `all`, of which there are `*held`. */
void append(double *all, int64_t *held, const void *from, int half, int64_t n);

/* The plain formulas of model/transformer.py, in double. */
typedef struct {
    int64_t batch, seq, heads, kv_heads, head_dim;
    double eps;
} AttentionShape;

/* Without gain nothing is multiplied; with a bias it is LayerNorm, else RMSNorm. */
void plain_norm(const double *x, const double *gain, const double *bias, double eps, int64_t rows,
                int64_t width, double *out);
/* out = x matrix^T (+ bias). matrix: (columns, width) */
void plain_product(const double *x, const double *matrix, const double *bias, int64_t rows,
                   int64_t width, int64_t columns, double *out);
/* qkv: (batch, seq, heads + 2 * kv_heads, head_dim). Gains and tables may be null. */
void plain_attention(AttentionShape shape, const double *qkv, const double *query_gain,
                     const double *key_gain, const double *cosine, const double *sine, double *out,
                     double *log_sums);
void plain_swiglu(const double *gate_up, int64_t rows, int64_t width, double *out);
double plain_loss(const double *logits, const int64_t *targets, int64_t ignored, int64_t rows,
                  int64_t vocab);
double weighed(const double *x, const double *weights, int64_t n); /* the sum of x * weights */
/* Random angles of positions and pairs: (seq, head_dim) each. */
void angles(int64_t seq, int64_t head_dim, double *cosine, double *sine);
