/* Some rows times a matrix, which is packed in panels that are read in the order in which they lie.

   Each sum is formed along the columns by one chain of multiplications and additions, whatever the
   number of rows, so a row has the same bits beside any others. One row takes the time of reading
   memory: several panels are read at once, and asked for shortly before. For some thirty rows the
   arithmetic takes longer, if both go on at once: while a panel is multiplied, the next one is
   asked for, a few lines at a time. */
#pragma once

#include "decode_model.h"
#include "team.h"

/* Rows multiplied at once: as many as the registers hold sums of. */
#if LANES == 16
#define TILE 12
#else
#define TILE 6
#endif

/* Panels that one row is multiplied by at once: a sum waits for itself, and others fill the gap. */
#define GROUP (LANES == 16 ? 2 : 4)

/* Columns after which memory is asked for again. */
#define TERMS 8

/* Bytes of a panel that have been asked for when one row reads it. */
#define AHEAD 2048

/* What to do with a product: put it there, add it to what is there, or put its activation there.
   GATED: silu(gate) * up; a panel has a vector of each. */
typedef enum { PUT, ADD, GATED, GELU } Then;

static inline int64_t panels_of(int64_t rows, Then then) {
    return then == GATED ? (rows / 2 + LANES - 1) / LANES : padded(rows) / PANEL;
}

/* A panel begins with the scales of its rows, which integers stand for, and their biases. */
#define HEADER (2 * PANEL * (int64_t)sizeof(float))

/* Bytes of a panel, whole lines. */
static inline int64_t panel_size(int64_t columns, int64_t format) {
    return (HEADER + columns * PANEL * bytes_of(format) + LINE - 1) / LINE * LINE;
}

/* x / (1 + e^(-y)). */
static inline vec gated_by(vec x, vec y) {
    float in[LANES], open[LANES], out[LANES];
    *(vec *)in = x, *(vec *)open = y;
    for (int i = 0; i < LANES; i++) out[i] = in[i] / (1.0f + fast_exp(-open[i]));
    return *(vec *)out;
}

/* (Shazeer 2020, section 2.) */
static inline vec silu(vec x) { return gated_by(x, x); }

/* The tanh form, x (1 + tanh(y)) / 2, is x / (1 + e^(-2y)) (Hendrycks and Gimpel 2016). */
static inline vec gelu(vec x) { return gated_by(x, 1.5957691216f * (x + 0.044715f * x * x * x)); }

/* The sums of a row and panel, scaled and with its bias, to where they go. Not inlined, so that each
   tile rounds alike. */
static __attribute__((noinline)) void finish(
    vec left, vec right, const char *header, Then then, float *out
) {
    const vec *scale = (const vec *)header, *bias = scale + 2;
    vec *to = (vec *)out, *beside = (vec *)(out + LANES);
    left = left * scale[0] + bias[0];
    right = right * scale[1] + bias[1];
    if (then == GATED) {
        *to = silu(left) * right;
    } else if (then == GELU) {
        *to = gelu(left);
        *beside = gelu(right);
    } else if (then == ADD) {
        *to += left;
        *beside += right;
    } else {
        *to = left;
        *beside = right;
    }
}

/* A product's panels that a thread multiplies by now.
   columns: where they begin, in `format`; header: where scales and biases are. */
typedef struct {
    const char *columns, *header;
    int64_t depth, size;
    Then then;
} Panels;

/* What is asked for meanwhile: `rate` lines from `now` on for each TERMS columns, in each of the
   panels; from column `turn` on, from `next` on. */
typedef struct {
    const char *now, *next;
    int64_t rate, turn, next_size;
} Ahead;

/* `rows` of x, of `depth` elements each, times so many panels. What is constant where it is
   inlined: `format`, `rows` and `panels`, so that the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(
    const int format, const int rows, const int panels, const float *x, int64_t x_stride, Panels of,
    float *out, int64_t out_stride, Ahead ahead
) {
    vec sum[TILE][2];
#pragma GCC unroll 16
    for (int i = 0; i < rows * panels; i++) sum[i][0] = sum[i][1] = (vec){0};
    const char *column = of.columns;
    int64_t apart = of.size;
    for (int64_t k = 0; k < of.depth;) {
        int64_t end = k + TERMS < of.depth ? k + TERMS : of.depth;
        if (k >= ahead.turn) ahead.now = ahead.next, apart = ahead.next_size, ahead.turn = INT64_MAX;
        for (int64_t i = 0; i < ahead.rate; i++, ahead.now += LINE)
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                /* One row reads it soon, several when they are done with this panel. */
                if (rows == 1)
                    __builtin_prefetch(ahead.now + p * apart, 0, 3);
                else
                    __builtin_prefetch(ahead.now + p * apart, 0, 2);
            }
        for (; k < end; k++, column += PANEL * bytes_of(format)) {
#pragma GCC unroll 4
            for (int p = 0; p < panels; p++) {
                vec left, right;
                read_column(format, column + p * of.size, &left, &right);
#pragma GCC unroll 16
                for (int r = 0; r < rows; r++) {
                    float factor = x[r * x_stride + k];
                    sum[p * rows + r][0] += left * factor;
                    sum[p * rows + r][1] += right * factor;
                }
            }
        }
    }
    int64_t wide = of.then == GATED ? LANES : PANEL;
#pragma GCC unroll 4
    for (int p = 0; p < panels; p++)
#pragma GCC unroll 16
        for (int r = 0; r < rows; r++)
            finish(
                sum[p * rows + r][0], sum[p * rows + r][1], of.header + p * of.size, of.then,
                out + r * out_stride + p * wide
            );
}

#define DEFINE_TILES(FORMAT)                                                                       \
    static void tiles_##FORMAT(                                                                    \
        int rows, int panels, const float *x, int64_t x_stride, Panels of, float *out,             \
        int64_t out_stride, Ahead ahead                                                            \
    ) {                                                                                            \
        switch (rows * (panels == 1 ? 1 : -1)) {                                                   \
            case -1: tile(FORMAT, 1, GROUP, x, x_stride, of, out, out_stride, ahead); break;       \
            CASE(FORMAT, 1) CASE(FORMAT, 2) CASE(FORMAT, 3) CASE(FORMAT, 4) CASE(FORMAT, 5)        \
            CASE(FORMAT, 6) CASES_BEYOND_6(FORMAT)                                                 \
        }                                                                                          \
    }
#define CASE(FORMAT, n)                                                                            \
    case n: tile(FORMAT, n, 1, x, x_stride, of, out, out_stride, ahead); break;
#if TILE > 6
#define CASES_BEYOND_6(FORMAT)                                                                     \
    CASE(FORMAT, 7)                                                                                \
    CASE(FORMAT, 8) CASE(FORMAT, 9) CASE(FORMAT, 10) CASE(FORMAT, 11) CASE(FORMAT, 12)
#else
#define CASES_BEYOND_6(FORMAT)
#endif

DEFINE_TILES(FLOAT32)
DEFINE_TILES(BFLOAT16)
DEFINE_TILES(INT8)

/* A panel's columns in float32. */
static void widen(int64_t format, const char *column, int64_t depth, float *out) {
    for (int64_t k = 0; k < depth; k++, out += PANEL, column += PANEL * bytes_of(format)) {
        if (format == BFLOAT16)
            read_column(BFLOAT16, column, (vec *)out, (vec *)(out + LANES));
        else
            read_column(INT8, column, (vec *)out, (vec *)(out + LANES));
    }
}

typedef struct {
    Matrix matrix;
    Then then;
} Product;

/* How many panels of a product for `n` rows are taken at once. */
static inline int64_t group_of(Thread thread, const Product *product, int64_t n) {
    /* With fewer groups than twice the threads, some of them would have little to do. */
    int64_t panels = panels_of(product->matrix.rows, product->then);
    return n == 1 && panels >= 2 * GROUP * thread.of ? GROUP : 1;
}

static inline int64_t panel_size_of(const Product *product) {
    return panel_size(product->matrix.columns, product->matrix.format);
}

/* What to ask for while `tiles` tiles are multiplied by a panel of a product. */
static inline Ahead ahead_of(
    const Product *product, const char *panel, const char *next, int64_t next_size, int64_t tiles
) {
    int64_t depth = product->matrix.columns, size = panel_size_of(product);
    int64_t column = PANEL * bytes_of(product->matrix.format), stretch = TERMS * column;
    if (tiles == 0) {
        int64_t rate = stretch < LINE ? 1 : stretch / LINE;
        return (Ahead){panel + AHEAD, next, rate, (size - AHEAD) / column, next_size};
    }
    int64_t lines = next_size / LINE, times = tiles * ((depth + TERMS - 1) / TERMS);
    return (Ahead){next, next, (lines + times - 1) / times, INT64_MAX, next_size};
}

/* out = x W^T + bias, or what `then` says of it. To be called by all threads.

   x: (n, columns); out: n rows, `out_stride` apart; wide: the thread's own room for a panel in
   float32; after: the product that comes next. */
static void multiply(
    Thread thread, const Product *product, const float *x, int64_t n, float *out,
    int64_t out_stride, float *wide, const Product *after
) {
    int64_t depth = product->matrix.columns, format = product->matrix.format;
    int64_t size = panel_size_of(product), after_size = panel_size_of(after);
    int64_t panels = panels_of(product->matrix.rows, product->then), tiles = (n + TILE - 1) / TILE;
    int64_t elements = product->then == GATED ? LANES : PANEL, stride = stride_of(depth);
    int64_t group = group_of(thread, product, n), groups = (panels + group - 1) / group;
    const char *after_first =
        after->matrix.packed + thread.number * group_of(thread, after, n) * after_size;
    for (int64_t mine = take(thread, groups), then; mine < groups; mine = then) {
        then = take(thread, groups);
        int64_t first = mine * group, some = panels - first < group ? 1 : group;
        int64_t end = panels - first < group ? panels : first + group;
        /* The next panels, or the first that this thread will have of the next product. */
        const char *next = product->matrix.packed + then * group * size;
        int64_t next_size = then < groups ? size : after_size;
        if (then >= groups) next = after_first;
        for (; first < end; first += some) {
            const char *panel = product->matrix.packed + first * size;
            Panels of = {panel + HEADER, panel, depth, size, product->then};
            Ahead ahead = ahead_of(product, panel, next, next_size, n == 1 ? 0 : tiles);
            int64_t in = format;
            if (format != FLOAT32 && tiles > 1) {
                widen(format, of.columns, depth, wide);
                of.columns = (const char *)wide, in = FLOAT32;
            }
            for (int64_t t = 0; t < tiles; t++) {
                /* Tiles of nearly equal size. */
                int64_t from = n * t / tiles;
                (in == FLOAT32 ? tiles_FLOAT32 : in == BFLOAT16 ? tiles_BFLOAT16 : tiles_INT8)(
                    (int)(n * (t + 1) / tiles - from), (int)some, x + from * stride, stride, of,
                    out + from * out_stride + first * elements, out_stride, ahead
                );
                ahead.now += (depth + TERMS - 1) / TERMS * ahead.rate * LINE;
            }
        }
    }
    wait_for_all(thread);
}
