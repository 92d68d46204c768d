/* One token of each of many texts through the model: `Transformer.forward` without its gradients.

   Every row is computed by itself, its sums in an order that depends on nothing but the model. So a
   row's numbers are the same whichever rows are beside it, and however many threads share them. */

#include <math.h>
#include <stddef.h>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "vector.h"

#if defined(__AVX512F__)
#define LANES 16
#define TILE 12
#elif defined(__AVX__)
#define LANES 8
#define TILE 6
#else
#define LANES 4
#define TILE 6
#endif

/* Columns of a panel: two vectors. */
#define PANEL (2 * LANES)

/* Elements between rows beyond their length, so that rows don't fall on the same lines of the
   cache where the length is a power of two. */
#define GAP 16

/* Elements of a line of the processor's cache. */
#define LINE 16

typedef float vec __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

/* As `_Layer` in batch_pass.py. Matrices are packed: see `minitx_batch_pack`. */
typedef struct {
    const float *attention_gain, *attention_shift; /* (d_model), no shift: RMSNorm */
    const float *qkv, *output, *up, *down;
    const float *query_gain, *key_gain; /* (head_dim), or null */
    const float *mlp_gain, *mlp_shift;
} Layer;

/* As `_Model` in batch_pass.py. */
typedef struct {
    int64_t layers, d_model, heads, kv_heads, head_dim, hidden, vocabulary, context, gated;
    const float *embedding;     /* (vocabulary, d_model) */
    const float *positions;     /* (context, d_model), or null */
    const float *cosine, *sine; /* (context, head_dim), or null */
    const float *gain, *shift;  /* of the last norm */
    const float *head;
    float eps;
} Model;

/* Keys and values: (layers, 2, rows, kv_heads, positions, head_dim), elements between them. */
typedef struct {
    float *start;
    int64_t layer, kind, row, head;
} Cache;

static int64_t padded(int64_t columns) { return (columns + PANEL - 1) / PANEL * PANEL; }

static int64_t stride_of(int64_t columns) { return padded(columns) + GAP; }

/* Elements from one row of logits to the next. */
EXPORT int64_t minitx_batch_stride(int64_t columns) { return stride_of(columns); }

/* Elements of a matrix `(rows, columns)` when packed. */
EXPORT int64_t minitx_batch_packed_size(int64_t rows, int64_t columns) {
    return padded(rows) * (columns + 1);
}

/* Put a matrix `(rows, columns)` and the bias `(rows)`, or null, in the order in which `multiply`
   reads them: panels of PANEL rows, each as a line of biases and then one line for each column. */
EXPORT void minitx_batch_pack(
    const float *weight, const float *bias, int64_t rows, int64_t columns, float *out
) {
    for (int64_t first = 0; first < rows; first += PANEL) {
        for (int64_t i = 0; i < PANEL; i++) {
            int64_t row = first + i;
            out[i] = bias && row < rows ? bias[row] : 0.0f;
            for (int64_t column = 0; column < columns; column++)
                out[(column + 1) * PANEL + i] = row < rows ? weight[row * columns + column] : 0.0f;
        }
        out += PANEL * (columns + 1);
    }
}

/* `rows` of x, of `depth` elements each, times one panel. `rows` is a constant where it is inlined:
   the sums stay in registers. */
static inline __attribute__((always_inline)) void tile(
    const int rows, const float *x, int64_t x_stride, const float *panel, int64_t depth,
    float *out, int64_t out_stride, const int add
) {
    vec sum[TILE][2];
#pragma GCC unroll 16
    for (int r = 0; r < rows; r++) {
        sum[r][0] = *(const vec *)panel;
        sum[r][1] = *(const vec *)(panel + LANES);
    }
    for (int64_t k = 0; k < depth; k++) {
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
        vec *to = (vec *)(out + r * out_stride);
        vec *next = (vec *)(out + r * out_stride + LANES);
        if (add) {
            sum[r][0] += *to;
            sum[r][1] += *next;
        }
        *to = sum[r][0];
        *next = sum[r][1];
    }
}

static inline __attribute__((always_inline)) void some_rows(
    int rows, const float *x, int64_t x_stride, const float *panel, int64_t depth, float *out,
    int64_t out_stride, const int add
) {
#define CASE(n) \
    case n: \
        tile(n, x, x_stride, panel, depth, out, out_stride, add); \
        break;
    switch (rows) {
        CASE(1) CASE(2) CASE(3) CASE(4) CASE(5) CASE(6)
#if TILE > 6
        CASE(7) CASE(8) CASE(9) CASE(10) CASE(11) CASE(12)
#endif
    }
#undef CASE
}

/* out = x W^T + bias, or that added to out. To be called by all threads: each takes panels. */
static void multiply(
    const float *x, int64_t rows, int64_t depth, const float *packed, int64_t columns, float *out,
    int add
) {
    int64_t x_stride = stride_of(depth), out_stride = stride_of(columns);
    int64_t panels = padded(columns) / PANEL, tiles = (rows + TILE - 1) / TILE;
    /* Whoever is free takes the next panel, so that a busy core doesn't hold up the other. */
#pragma omp for schedule(dynamic)
    for (int64_t p = 0; p < panels; p++) {
        const float *panel = packed + p * PANEL * (depth + 1);
        for (int64_t t = 0; t < tiles; t++) {
            /* Tiles of nearly equal size. */
            int64_t from = rows * t / tiles, size = rows * (t + 1) / tiles - from;
            const float *source = x + from * x_stride;
            float *into = out + from * out_stride + p * PANEL;
            if (add)
                some_rows((int)size, source, x_stride, panel, depth, into, out_stride, 1);
            else
                some_rows((int)size, source, x_stride, panel, depth, into, out_stride, 0);
        }
    }
}

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

static void norm(
    const float *x, int64_t rows, int64_t size, const float *gain, const float *shift, float eps,
    float *out
) {
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++)
        norm_row(x + r * stride_of(size), size, gain, shift, eps, out + r * stride_of(size));
}

/* hidden = silu(gate) * up, where both holds gate and up side by side; or gelu(both). */
static void activate(float *both, int64_t rows, int64_t size, int gated, float *hidden) {
    int64_t from_stride = stride_of(gated ? 2 * size : size);
#pragma omp for schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        const float *from = both + r * from_stride, *up = from + size;
        float *to = hidden + r * stride_of(size);
        if (gated) {
            for (int64_t i = 0; i < size; i++) to[i] = from[i] / (1.0f + fast_exp(-from[i])) * up[i];
        } else {
            for (int64_t i = 0; i < size; i++) {
                float x = from[i];
                float inner = 0.7978845608f * (x + 0.044715f * x * x * x);
                /* (1 + tanh(y)) / 2 = 1 / (1 + exp(-2y)) */
                to[i] = x / (1.0f + fast_exp(-2.0f * inner));
            }
        }
    }
}

/* Bring a head's vector to unit size, and turn its pairs by the angles of a position. */
static void norm_and_turn(
    float *head, int64_t width, const float *gain, float eps, const float *cosine, const float *sine
) {
    int64_t half = width / 2;
    norm_row(head, width, gain, NULL, eps, head);
    for (int64_t i = 0; i < half; i++) {
        float a = head[i], b = head[half + i];
        head[i] = a * cosine[i] - b * sine[i];
        head[half + i] = b * cosine[half + i] + a * sine[half + i];
    }
}

/* out = softmax(query . keys / sqrt(width)) . values, with `held` keys and values.

   A head of a row is a stream too short for the processor to see it coming. So the values are
   fetched while the keys are read, and the keys of who comes next (`next`) while the values are.
   `vectors` is a constant where it is inlined: how many make up a head; 0 for any width. */
static inline __attribute__((always_inline)) void look(
    const int vectors, int64_t width, const float *query, const float *keys, const float *values,
    const float *next, int64_t held, float *scores, float *out
) {
    if (vectors) width = vectors * LANES;
    float factor = 1.0f / sqrtf((float)width), largest = -INFINITY, total = 0.0f;
    for (int64_t t = 0; t < held; t++) {
        float score = 0.0f;
        for (int64_t i = 0; i < width; i += LINE)
            __builtin_prefetch(values + t * width + i, 0, 2);
        for (int64_t i = 0; i < width; i++) score += query[i] * keys[t * width + i];
        scores[t] = score * factor;
    }
    for (int64_t t = 0; t < held; t++) largest = scores[t] > largest ? scores[t] : largest;
    for (int64_t t = 0; t < held; t++) scores[t] = fast_exp(scores[t] - largest);
    for (int64_t t = 0; t < held; t++) total += scores[t];
    if (vectors) {
        vec sum[8] = {0};
        for (int64_t t = 0; t < held; t++) {
            for (int64_t i = 0; i < width; i += LINE)
                __builtin_prefetch(next + t * width + i, 0, 2);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++)
                sum[v] += *(const vec *)(values + t * width + v * LANES) * scores[t];
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) *(vec *)(out + v * LANES) = sum[v] / total;
        return;
    }
    for (int64_t i = 0; i < width; i++) out[i] = 0.0f;
    for (int64_t t = 0; t < held; t++)
        for (int64_t i = 0; i < width; i++) out[i] += scores[t] * values[t * width + i];
    for (int64_t i = 0; i < width; i++) out[i] /= total;
}

static void look_by_width(
    int64_t width, const float *query, const float *keys, const float *values,
    const float *next, int64_t held, float *scores, float *out
) {
    switch (width % LANES ? 0 : width / LANES) {
        case 1: look(1, width, query, keys, values, next, held, scores, out); break;
        case 2: look(2, width, query, keys, values, next, held, scores, out); break;
        case 4: look(4, width, query, keys, values, next, held, scores, out); break;
        case 8: look(8, width, query, keys, values, next, held, scores, out); break;
        default: look(0, width, query, keys, values, next, held, scores, out);
    }
}

/* Each row's queries, keys and values `qkv`, the last two into the cache; then what each head
   gathers, `(rows, heads * head_dim)`. */
static void attend(
    const Model *model, const Layer *layer, float *keys, float *values, const Cache *cache,
    const int64_t *lengths, int64_t rows, float *qkv, float *scores, float *out
) {
    int64_t width = model->head_dim, group = model->heads / model->kv_heads;
    int64_t qkv_stride = stride_of((model->heads + 2 * model->kv_heads) * width);
    int64_t out_stride = stride_of(model->heads * width);
    int64_t last = rows * model->kv_heads;
#pragma omp for schedule(dynamic, 4)
    for (int64_t one = 0; one < last; one++) {
        int64_t r = one / model->kv_heads, h = one % model->kv_heads, place = lengths[r];
        float *queries = qkv + r * qkv_stride + h * group * width;
        float *key = qkv + r * qkv_stride + (model->heads + h) * width;
        float *value = key + model->kv_heads * width;
        float *all_keys = keys + r * cache->row + h * cache->head;
        float *all_values = values + r * cache->row + h * cache->head;
        int64_t then = one + 1 < last ? one + 1 : one;
        const float *next = keys + then / model->kv_heads * cache->row +
                            then % model->kv_heads * cache->head;
        if (model->cosine) {
            const float *cosine = model->cosine + place * width;
            const float *sine = model->sine + place * width;
            norm_and_turn(key, width, layer->key_gain, model->eps, cosine, sine);
            for (int64_t q = 0; q < group; q++)
                norm_and_turn(
                    queries + q * width, width, layer->query_gain, model->eps, cosine, sine
                );
        }
        memcpy(all_keys + place * width, key, (size_t)width * sizeof(float));
        memcpy(all_values + place * width, value, (size_t)width * sizeof(float));
        for (int64_t q = 0; q < group; q++)
            look_by_width(
                width, queries + q * width, all_keys, all_values, next, place + 1, scores,
                out + r * out_stride + (h * group + q) * width
            );
    }
}

/* Elements of the buffer that `minitx_batch_step` works in. */
EXPORT int64_t minitx_batch_room(const Model *model, int64_t rows, int threads) {
    int64_t gathered = model->heads * model->head_dim;
    int64_t both = model->gated ? 2 * model->hidden : model->hidden;
    return rows *
               (2 * stride_of(model->d_model) + stride_of(gathered) +
                stride_of(gathered + 2 * model->kv_heads * model->head_dim) + stride_of(both) +
                stride_of(model->hidden)) +
           threads * (model->context + GAP);
}

/* Append a token to each row.

   tokens, lengths: (rows), lengths before.
   room: of `minitx_batch_room` elements.
   logits: (rows, `minitx_batch_stride` of the vocabulary). */
EXPORT void minitx_batch_step(
    const Model *model, const Layer *layers, const Cache *cache, const int64_t *tokens,
    const int64_t *lengths, int64_t rows, float *room, float *logits, int threads
) {
    int64_t size = model->d_model, gathered = model->heads * model->head_dim;
    int64_t both = model->gated ? 2 * model->hidden : model->hidden;
    int64_t qkv_size = gathered + 2 * model->kv_heads * model->head_dim;
    float *x = room, *normed = x + rows * stride_of(size);
    float *heads = normed + rows * stride_of(size), *qkv = heads + rows * stride_of(gathered);
    float *up = qkv + rows * stride_of(qkv_size), *hidden = up + rows * stride_of(both);
    float *scores = hidden + rows * stride_of(model->hidden);
#pragma omp parallel num_threads(threads)
    {
        float *own = scores;
#ifdef _OPENMP
        own += omp_get_thread_num() * (model->context + GAP);
#endif
#pragma omp for schedule(static)
        for (int64_t r = 0; r < rows; r++) {
            float *to = x + r * stride_of(size);
            const float *token = model->embedding + tokens[r] * size;
            const float *place = model->positions ? model->positions + lengths[r] * size : NULL;
            for (int64_t i = 0; i < size; i++) to[i] = token[i] + (place ? place[i] : 0.0f);
            for (int64_t i = size; i < stride_of(size); i++) to[i] = 0.0f;
        }
        for (int64_t l = 0; l < model->layers; l++) {
            const Layer *layer = layers + l;
            float *keys = cache->start + l * cache->layer, *values = keys + cache->kind;
            norm(
                x, rows, size, layer->attention_gain, layer->attention_shift, model->eps, normed
            );
            multiply(normed, rows, size, layer->qkv, qkv_size, qkv, 0);
            attend(model, layer, keys, values, cache, lengths, rows, qkv, own, heads);
            multiply(heads, rows, gathered, layer->output, size, x, 1);
            norm(x, rows, size, layer->mlp_gain, layer->mlp_shift, model->eps, normed);
            multiply(normed, rows, size, layer->up, both, up, 0);
            activate(up, rows, model->hidden, (int)model->gated, hidden);
            multiply(hidden, rows, model->hidden, layer->down, size, x, 1);
        }
        norm(x, rows, size, model->gain, model->shift, model->eps, normed);
        multiply(normed, rows, size, model->head, model->vocabulary, logits, 0);
    }
}
