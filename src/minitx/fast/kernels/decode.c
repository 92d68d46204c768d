/* One token of one text through the whole model: `Transformer.forward` for a single vector.

   Every weight is read once and used twice, so the time is that of reading memory. All threads go
   through the token together: each computes a part of the rows of every product, and they wait
   for each other where one reads what others wrote. Each row is summed up in the same order
   whoever computes it, so the result does not depend on how many threads there are. */
#include "decode_model.h"
#include "team.h"
#include "weights.h"

#include <math.h>
#include <stdbool.h>
#include <stddef.h>

enum { FLOAT32, BFLOAT16, INT8 };

/* Rows multiplied at once: x is read once for all of them. */
enum { ROWS = 4 };

/* Elements of a few whole vectors, whatever the processor: a loop over so many has no rest. */
enum { VECTORS = 64 };

/* residual: (d_model,), qkv: (rows of qkv,), heads: (n_heads * head_dim,), hidden: (2, d_ff);
   for each thread normed: (d_model,) and scores: (context,). */
typedef struct {
    float *residual, *qkv, *heads, *hidden, *normed, *scores;
} Workspace;

/* Products */

/* sums[r] = rows[r] . x, for ROWS rows of so many columns. */
#define DEFINE_DOTS(FORMAT, TYPE)                                                                  \
    static void dots_##FORMAT(const TYPE *const rows[ROWS], const float *x, int64_t columns,       \
                              float sums[ROWS]) {                                                  \
        Floats lanes[ROWS] = {0};                                                                  \
        int64_t i = 0;                                                                             \
        for (; i + LANES <= columns; i += LANES) {                                                 \
            Floats factor = load_float32(x + i);                                                   \
            if (i % (LINE / (int64_t)sizeof(TYPE)) == 0)                                           \
                for (int r = 0; r < ROWS; r++) fetch_ahead(rows[r] + i);                           \
            for (int r = 0; r < ROWS; r++) lanes[r] += load_##FORMAT(rows[r] + i) * factor;        \
        }                                                                                          \
        for (int r = 0; r < ROWS; r++) {                                                           \
            sums[r] = total(lanes[r]);                                                             \
            for (int64_t rest = i; rest < columns; rest++)                                         \
                sums[r] += from_##FORMAT(rows[r][rest]) * x[rest];                                 \
        }                                                                                          \
    }                                                                                              \
    static void dots_of_block_##FORMAT(const Matrix *matrix, int64_t row, const float *x,          \
                                       float sums[ROWS]) {                                         \
        const TYPE *rows[ROWS];                                                                    \
        for (int64_t r = 0; r < ROWS; r++) {                                                       \
            int64_t there = row + r < matrix->rows ? row + r : matrix->rows - 1;                   \
            rows[r] = (const TYPE *)matrix->weights + there * matrix->stride;                      \
        }                                                                                          \
        dots_##FORMAT(rows, x, matrix->columns, sums);                                             \
    }

DEFINE_DOTS(float32, float)
DEFINE_DOTS(bfloat16, uint16_t)
DEFINE_DOTS(int8, int8_t)

/* Some rows: [first, end). */
typedef struct {
    int64_t first, end;
} Range;

/* Those of a thread: whole blocks, so that each block is computed by the same code, to the bit,
   whoever has it. `block` is a multiple of ROWS. */
static Range part_of(Thread thread, int64_t rows, int64_t block) {
    int64_t blocks = (rows + block - 1) / block;
    int64_t first = blocks * thread.number / thread.of * block;
    int64_t end = blocks * (thread.number + 1) / thread.of * block;
    return (Range){first, end < rows ? end : rows};
}

static Range rows_of(Thread thread, int64_t rows) { return part_of(thread, rows, ROWS); }

/* out[row] (+)= matrix[row] . x + bias[row], for some rows. x: (columns,), out: (rows,). */
static void multiply(const Matrix *matrix, Range some, const float *x, float *out, bool add) {
    for (int64_t row = some.first; row < some.end; row += ROWS) {
        float sums[ROWS];
        if (matrix->format == FLOAT32)
            dots_of_block_float32(matrix, row, x, sums);
        else if (matrix->format == BFLOAT16)
            dots_of_block_bfloat16(matrix, row, x, sums);
        else
            dots_of_block_int8(matrix, row, x, sums);
        for (int64_t r = 0; r < ROWS && row + r < some.end; r++) {
            float sum = sums[r];
            if (matrix->scale) sum *= matrix->scale[row + r];
            if (matrix->bias) sum += matrix->bias[row + r];
            out[row + r] = add ? out[row + r] + sum : sum;
        }
    }
}

/* Norms and rotation */

static float dot(const float *a, const float *b, int64_t size) {
    float sum = 0;
    for (int64_t i = 0; i < size; i++) sum += a[i] * b[i];
    return sum;
}

/* out = x / sqrt(mean(x^2) + eps) * gain, (width,); may be x itself. */
static void rms_norm(const float *x, const float *gain, int64_t width, double eps, float *out) {
    float scale = (float)(1.0 / sqrt((double)dot(x, x, width) / (double)width + eps));
    for (int64_t i = 0; i < width; i++) out[i] = x[i] * scale * gain[i];
}

/* The same of x - mean(x), plus a bias. */
static void layer_norm(const float *x, Norm norm, int64_t width, double eps, float *out) {
    float sum = 0;
    for (int64_t i = 0; i < width; i++) sum += x[i];
    float mean = sum / (float)width;
    for (int64_t i = 0; i < width; i++) out[i] = x[i] - mean;
    rms_norm(out, norm.gain, width, eps, out);
    for (int64_t i = 0; i < width; i++) out[i] += norm.bias[i];
}

static void normalize(const float *x, Norm norm, const Model *model, float *out) {
    if (norm.bias)
        layer_norm(x, norm, model->d_model, model->eps, out);
    else
        rms_norm(x, norm.gain, model->d_model, model->eps, out);
}

/* Turn each pair (x[i], x[i + width / 2]) by its angle; all (width,). */
static void rotate(float *x, const float *cosine, const float *sine, int64_t width) {
    float *first = x, *second = x + width / 2;
    for (int64_t i = 0; i < width / 2; i++) {
        float a = first[i], b = second[i];
        first[i] = a * cosine[i] - b * sine[i];
        second[i] = b * cosine[i] + a * sine[i];
    }
}

/* Attention */

/* scores to e^(score - largest), whose sum is given back. */
static float exponentiate(float *scores, int64_t size) {
    float largest = scores[0], sum = 0;
    for (int64_t i = 1; i < size; i++) largest = scores[i] > largest ? scores[i] : largest;
    for (int64_t i = 0; i < size; i++) {
        scores[i] = fast_exp(scores[i] - largest);
        sum += scores[i];
    }
    return sum;
}

/* out = weights @ values; weights: (size,), values: (size, width), out: (width,). */
static void gather(const float *weights, const float *values, int64_t size, int64_t width,
                   float *restrict out) {
    memset(out, 0, (size_t)width * sizeof *out);
    int64_t at = 0;
    for (; at + ROWS <= size; at += ROWS) {
        const float *w = weights + at, *v = values + at * width;
        for (int64_t i = 0; i < width; i++)
            out[i] += w[0] * v[i] + w[1] * v[width + i] + w[2] * v[2 * width + i] +
                      w[3] * v[3 * width + i];
    }
    for (; at < size; at++)
        for (int64_t i = 0; i < width; i++) out[i] += weights[at] * values[at * width + i];
}

/* What one query gathers; query, out: (width,); keys, values: (size, width). */
static void look(float *query, const float *keys, const float *values, int64_t size, int64_t width,
                 float *scores, float *out) {
    float factor = 1.0f / sqrtf((float)width);
    for (int64_t i = 0; i < width; i++) query[i] *= factor;
    Matrix matrix = {keys, NULL, NULL, size, width, width, FLOAT32};
    multiply(&matrix, (Range){0, size}, query, scores, false);
    float sum = exponentiate(scores, size);
    gather(scores, values, size, width, out);
    for (int64_t i = 0; i < width; i++) out[i] /= sum;
}

static void norm_and_rotate(float *x, const float *gain, const Model *model, int64_t position) {
    int64_t width = model->head_dim;
    if (gain) rms_norm(x, gain, width, model->eps, x);
    if (model->cosine)
        rotate(x, model->cosine + position * width, model->sine + position * width, width);
}

/* One key/value head, and the query heads that share it (Ainslie et al. 2023, GQA). Stores the
   new key and value, and fills the query heads' part of `work.heads`. */
static void attend(const Model *model, const Layer *layer, Cache cache, int64_t kv_head,
                   int64_t position, Workspace work, float *scores) {
    int64_t width = model->head_dim, group = model->n_heads / model->n_kv_heads;
    float *key = work.qkv + (model->n_heads + kv_head) * width;
    float *value = key + model->n_kv_heads * width;
    float *keys = cache.start + kv_head * cache.head, *values = keys + cache.kind;
    norm_and_rotate(key, layer->key_gain, model, position);
    memcpy(keys + position * width, key, (size_t)width * sizeof *key);
    memcpy(values + position * width, value, (size_t)width * sizeof *value);
    for (int64_t head = kv_head * group; head < (kv_head + 1) * group; head++) {
        float *query = work.qkv + head * width;
        norm_and_rotate(query, layer->query_gain, model, position);
        look(query, keys, values, position + 1, width, scores, work.heads + head * width);
    }
}

/* MLP */

/* silu(gate) * up into gate, (size,) (Shazeer 2020, section 2). */
static void swiglu(float *restrict gate, const float *restrict up, int64_t size) {
    for (int64_t i = 0; i < size; i++) gate[i] = gate[i] / (1.0f + fast_exp(-gate[i])) * up[i];
}

/* The tanh form, x (1 + tanh(y)) / 2, is x / (1 + e^(-2y)) (Hendrycks and Gimpel 2016). */
static void gelu(float *x, int64_t size) {
    for (int64_t i = 0; i < size; i++) {
        float y = 0.7978845608f * (x[i] + 0.044715f * x[i] * x[i] * x[i]);
        x[i] = x[i] / (1.0f + fast_exp(-2.0f * y));
    }
}

/* Rows [first, first + rows) of a matrix. */
static Matrix rows_from(Matrix matrix, int64_t first, int64_t rows) {
    const int64_t sizes[] = {[FLOAT32] = 4, [BFLOAT16] = 2, [INT8] = 1};
    matrix.weights = (const char *)matrix.weights + first * matrix.stride * sizes[matrix.format];
    if (matrix.scale) matrix.scale += first;
    if (matrix.bias) matrix.bias += first;
    matrix.rows = rows;
    return matrix;
}

/* This thread's part of the active hidden values, into hidden[0], (d_ff,). */
static void activate(const Model *model, const Layer *layer, const float *x, float *hidden,
                     Thread thread) {
    int64_t d_ff = model->d_ff;
    Range mine = part_of(thread, d_ff, VECTORS);
    int64_t size = mine.end - mine.first;
    if (is_gated(model, layer)) {
        Matrix gate = rows_from(layer->gate_up, 0, d_ff), up = rows_from(layer->gate_up, d_ff, d_ff);
        multiply(&gate, mine, x, hidden, false);
        multiply(&up, mine, x, hidden + d_ff, false);
        swiglu(hidden + mine.first, hidden + d_ff + mine.first, size);
    } else {
        multiply(&layer->gate_up, mine, x, hidden, false);
        gelu(hidden + mine.first, size);
    }
}

/* The whole model */

static void run_layer(const Model *model, const Layer *layer, Cache cache, int64_t position,
                      Workspace work, Thread thread) {
    float *normed = work.normed + thread.number * model->d_model;
    float *scores = work.scores + thread.number * model->context;
    Range mine = rows_of(thread, model->d_model);

    normalize(work.residual, layer->attention_norm, model, normed);
    multiply(&layer->qkv, rows_of(thread, layer->qkv.rows), normed, work.qkv, false);
    wait_for_all(thread);
    for (int64_t head = thread.number; head < model->n_kv_heads; head += thread.of)
        attend(model, layer, cache, head, position, work, scores);
    wait_for_all(thread);
    multiply(&layer->output, mine, work.heads, work.residual, true);
    wait_for_all(thread);
    normalize(work.residual, layer->mlp_norm, model, normed);
    activate(model, layer, normed, work.hidden, thread);
    wait_for_all(thread);
    multiply(&layer->down, mine, work.hidden, work.residual, true);
    wait_for_all(thread);
}

static void embed(const Model *model, int64_t token, int64_t position, float *residual) {
    const float *embedding = model->embedding + token * model->d_model;
    for (int64_t i = 0; i < model->d_model; i++) {
        residual[i] = embedding[i];
        if (model->positions) residual[i] += model->positions[position * model->d_model + i];
    }
}

static void run_model(const Model *model, Cache cache, Workspace work, int64_t token,
                      int64_t position, float *logits, Thread thread) {
    if (thread.number == 0) embed(model, token, position, work.residual);
    wait_for_all(thread);
    for (int64_t at = 0; at < model->n_layers; at++) {
        run_layer(model, &model->layers[at], cache, position, work, thread);
        cache.start += cache.layer;
    }
    float *normed = work.normed + thread.number * model->d_model;
    normalize(work.residual, model->norm, model, normed);
    multiply(&model->head, rows_of(thread, model->head.rows), normed, logits, false);
}

/* logits: (vocab_size,) of what follows the token, which stands at `position` of the cache. */
EXPORT void minitx_decode_token(const Model *model, const Cache *cache, const Workspace *work,
                                int64_t token, int64_t position, float *logits, int threads) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
        Thread thread = this_thread(&meeting);
        run_model(model, *cache, *work, token, position, logits, thread);
    }
}
