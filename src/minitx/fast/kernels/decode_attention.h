/* Attention of all rows in a layer: each row's heads look at its own text. */
#pragma once

#include "decode_model.h"
#include "team.h"

/* Vectors that make up the widest head whose sums stay in registers. */
#define MOST_VECTORS 8

static inline vec larger(vec a, vec b) {
    typeof(a > b) mask = a > b;
    return (vec)((mask & (typeof(mask))a) | (~mask & (typeof(mask))b));
}

/* The sums of LANES vectors, each in a lane: neighbours are added until there is one vector. */
static inline vec totals(vec sums[LANES]) {
    typedef int32_t Order __attribute__((vector_size(4 * LANES)));
    Order even, odd;
    for (int i = 0; i < LANES; i++) even[i] = 2 * i, odd[i] = 2 * i + 1;
#pragma GCC unroll 8
    for (int n = LANES / 2; n; n /= 2)
#pragma GCC unroll 16
        for (int i = 0; i < n; i++)
            sums[i] = shuffle(sums[2 * i], sums[2 * i + 1], even) +
                      shuffle(sums[2 * i], sums[2 * i + 1], odd);
    return sums[0];
}

/* Scores of the keys from `first` on, one in each lane. Past the end it is the last key's. */
static inline __attribute__((always_inline)) vec score(
    const int vectors, int64_t width, const float *query, const float *keys, int64_t first,
    int64_t held
) {
    vec sums[LANES];
    float loose[LANES];
#pragma GCC unroll 16
    for (int i = 0; i < LANES; i++) {
        const float *key = keys + (first + i < held ? first + i : held - 1) * width;
        if (vectors) {
            vec sum = *(const vec *)query * *(const vec *)key;
#pragma GCC unroll 8
            for (int v = 1; v < vectors; v++)
                sum += *(const vec *)(query + v * LANES) * *(const vec *)(key + v * LANES);
            sums[i] = sum;
        } else {
            loose[i] = 0.0f;
            for (int64_t w = 0; w < width; w++) loose[i] += query[w] * key[w];
        }
    }
    return vectors ? totals(sums) : *(vec *)loose;
}

/* Ask for a line of memory that a step reads once: it need not be kept, since the cache that all
   cores share is smaller than what is read until the next step. */
static inline void fetch(const void *line) { __builtin_prefetch(line, 0, 0); }

static inline void fetch_floats(const float *at, int64_t n) {
    for (int64_t i = 0; i < n; i += LINE / (int64_t)sizeof(float)) fetch(at + i);
}

/* out = softmax(query . keys / sqrt(width)) . values, with `held` keys and values.
   scores: room for `held` and a vector.

   A head of a row is a stream too short for the processor to see it coming. So the values are
   fetched while the keys are read, and the keys of who comes next (`next`) while the values are.
   `vectors` is a constant where it is inlined: how many make up a head; 0 for any width. */
static inline __attribute__((always_inline)) void look(
    const int vectors, int64_t width, const float *query, const float *keys, const float *values,
    const float *next, int64_t held, float *scores, float *out
) {
    if (vectors) width = vectors * LANES;
    float factor = 1.0f / sqrtf((float)width), total = 0.0f;
    vec most = {0};
    most -= INFINITY;
    for (int64_t t = 0; t < held; t += LANES) {
        fetch_floats(values + t * width, LANES * width);
        vec some = score(vectors, width, query, keys, t, held) * factor;
        *(vec *)(scores + t) = some;
        /* The last one again changes nothing. */
        most = larger(some, most);
    }
    float largest = most[0];
    for (int i = 1; i < LANES; i++) largest = most[i] > largest ? most[i] : largest;
    for (int64_t t = 0; t < held; t += LANES)
        for (int64_t i = t; i < t + LANES; i++) scores[i] = fast_exp(scores[i] - largest);
    for (int64_t t = 0; t < held; t++) total += scores[t];
    if (vectors) {
        /* Positions in turn to two sums, so that neither waits for itself. */
        vec sum[2][MOST_VECTORS] = {0};
        for (int64_t t = 0; t + 1 < held; t += 2) {
            fetch_floats(next + t * width, 2 * width);
#pragma GCC unroll 8
            for (int v = 0; v < vectors; v++) {
                const float *value = values + t * width + v * LANES;
                sum[0][v] += *(const vec *)value * scores[t];
                sum[1][v] += *(const vec *)(value + width) * scores[t + 1];
            }
        }
#pragma GCC unroll 8
        for (int v = 0; v < vectors; v++) {
            vec both = sum[0][v] + sum[1][v];
            if (held % 2)
                both += *(const vec *)(values + (held - 1) * width + v * LANES) * scores[held - 1];
            *(vec *)(out + v * LANES) = both / total;
        }
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

/* New tokens of some texts: `tokens`, and for each the position it takes and the row of the cache that
   its text has. The tokens of a text stand in order. `is_shared`: some text has several. */
typedef struct {
    const int64_t *tokens, *positions, *texts;
    int64_t count, is_shared;
} Tokens;

/* Norm and rotation of a token's queries and key in one key/value head, and its key and value into
   the cache. Not inlined, so that a prompt's tokens are rounded as single ones are. */
static __attribute__((noinline)) void place(
    const Model *model, const Layer *layer, float *keys, int64_t kind, int64_t h, int64_t position,
    float *qkv
) {
    int64_t width = model->head_dim, group = model->n_heads / model->n_kv_heads;
    float *queries = qkv + h * group * width, *key = qkv + (model->n_heads + h) * width;
    float *value = key + model->n_kv_heads * width, *values = keys + kind;
    if (model->cosine) {
        const float *cosine = model->cosine + position * width;
        const float *sine = model->sine + position * width;
        norm_and_turn(key, width, layer->key_gain, (float)model->eps, cosine, sine);
        for (int64_t q = 0; q < group; q++)
            norm_and_turn(
                queries + q * width, width, layer->query_gain, (float)model->eps, cosine, sine
            );
    }
    memcpy(keys + position * width, key, (size_t)width * sizeof(float));
    memcpy(values + position * width, value, (size_t)width * sizeof(float));
}

/* Queries, keys and values `qkv` of new tokens, the last two into the cache; then what each head
   gathers, `(count, heads * head_dim)`. To be called by all threads. */
static void attend(
    Thread thread, const Model *model, const Layer *layer, const Cache *cache, const Tokens *new,
    float *qkv, float *scores, float *out
) {
    int64_t width = model->head_dim, heads = model->n_kv_heads, group = model->n_heads / heads;
    int64_t qkv_stride = stride_of((model->n_heads + 2 * heads) * width);
    int64_t out_stride = stride_of(model->n_heads * width), last = new->count * heads;
    if (new->is_shared) {
        /* All keys of a text must be there before one of its tokens looks. */
        for (int64_t one; (one = take(thread, last)) < last;) {
            int64_t r = one / heads, h = one % heads;
            place(
                model, layer, keys_of(cache, new->texts[r], h), cache->kind, h, new->positions[r],
                qkv + r * qkv_stride
            );
        }
        wait_for_all(thread);
    }
    for (int64_t one = take(thread, last), then; one < last; one = then) {
        then = take(thread, last);
        int64_t r = one / heads, h = one % heads, after = then < last ? then : one;
        float *keys = keys_of(cache, new->texts[r], h);
        if (!new->is_shared)
            place(
                model, layer, keys, cache->kind, h, new->positions[r], qkv + r * qkv_stride
            );
        for (int64_t q = h * group; q < (h + 1) * group; q++)
            look_by_width(
                width, qkv + r * qkv_stride + q * width, keys, keys + cache->kind,
                keys_of(cache, new->texts[after / heads], after % heads), new->positions[r] + 1,
                scores, out + r * out_stride + q * width
            );
    }
    wait_for_all(thread);
}
