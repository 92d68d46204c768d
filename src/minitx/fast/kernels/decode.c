/* Tokens of one text or several through the model, one of each or a whole prompt: `Transformer.forward`
   without its gradients.

   Every token is a row that is computed by itself, its sums in an order that depends on nothing but
   the model. So its numbers are the same whichever rows are beside it, and however many threads
   share them. */

#include "decode_attention.h"
#include "decode_product.h"

#include <stdbool.h>

/* Elements from one row of logits to the next. */
EXPORT int64_t minitx_decode_stride(int64_t columns) { return stride_of(columns); }

/* Bytes of a matrix `(rows, columns)` when packed. */
EXPORT int64_t minitx_decode_packed_size(int64_t rows, int64_t columns, int64_t format, int64_t gated) {
    return panels_of(rows, gated ? GATED : PUT) * panel_size(columns, format);
}

/* Rows of a matrix, `first` to `first + n`, into a panel from its row `at` on. */
static inline __attribute__((always_inline)) void pack_rows(
    const int64_t format, const char *weights, int64_t columns, int64_t n, int64_t at, char *to
) {
    /* A few columns of all rows at a time: they stay in the cache until they are whole lines. */
    for (int64_t from = 0; from < columns; from += LINE)
        for (int64_t i = 0; i < n; i++)
            for (int64_t k = from; k < columns && k < from + LINE; k++)
                memcpy(
                    to + (k * PANEL + slot_of(format, at + i)) * bytes_of(format),
                    weights + (i * columns + k) * bytes_of(format), (size_t)bytes_of(format)
                );
}

/* Put a matrix `(rows, columns)` in a format, with the scales and biases `(rows)`, or null, in the
   order in which `multiply` reads them: panels of PANEL rows, column by column.
   gated: the first half of the rows are gates, and a panel is LANES of them and LANES others.
   out: zeros. */
EXPORT void minitx_decode_pack(
    const char *weights, const float *scale, const float *bias, int64_t rows, int64_t columns,
    int64_t format, int64_t gated, char *out, int threads
) {
    int64_t panels = panels_of(rows, gated ? GATED : PUT), half = gated ? rows / 2 : rows;
    int64_t parts = gated ? 2 : 1, wide = PANEL / parts;
#pragma omp parallel for num_threads(threads) if (threads > 1)
    for (int64_t one = 0; one < panels * parts; one++) {
        int64_t p = one / parts, at = one % parts * wide, first = one % parts * half + p * wide;
        int64_t left = half - p * wide, n = left < wide ? left : wide;
        char *panel = out + p * panel_size(columns, format), *to = panel + HEADER;
        float *scales = (float *)panel + at, *biases = scales + PANEL;
        for (int64_t i = 0; i < n; i++) {
            scales[i] = scale ? scale[first + i] : 1.0f;
            biases[i] = bias ? bias[first + i] : 0.0f;
        }
        const char *from = weights + first * columns * bytes_of(format);
        if (format == FLOAT32)
            pack_rows(FLOAT32, from, columns, n, at, to);
        else if (format == BFLOAT16)
            pack_rows(BFLOAT16, from, columns, n, at, to);
        else
            pack_rows(INT8, from, columns, n, at, to);
    }
}

/* Of all rows; `out` is the thread's own: to wait for others' would take as long. */
static void norm(const Model *model, const float *x, int64_t rows, Norm norm, float *out) {
    int64_t size = model->d_model, stride = stride_of(size);
    for (int64_t r = 0; r < rows; r++)
        norm_row(x + r * stride, size, norm.gain, norm.bias, (float)model->eps, out + r * stride);
}

/* Bytes of each buffer that `minitx_decode_step` works in. */
typedef struct {
    int64_t x, heads, qkv, hidden, normed, scores, wide, shared, own;
} Room;

static Room room_of(const Model *model, int64_t rows) {
    int64_t gathered = model->n_heads * model->head_dim, size = (int64_t)sizeof(float);
    Room room = {
        .x = rows * stride_of(model->d_model) * size,
        .heads = rows * stride_of(gathered) * size,
        .qkv = rows * stride_of(gathered + 2 * model->n_kv_heads * model->head_dim) * size,
        .hidden = rows * stride_of(model->d_ff) * size,
        .normed = rows * stride_of(model->d_model) * size,
        .scores = stride_of(model->context + LANES) * size,
    };
    int64_t deepest = model->d_model > gathered ? model->d_model : gathered;
    room.wide = PANEL * (deepest > model->d_ff ? deepest : model->d_ff) * size;
    room.shared = room.x + room.heads + room.qkv + room.hidden;
    room.own = room.normed + room.scores + room.wide;
    return room;
}

/* Bytes of the buffer that `minitx_decode_step` works in. */
EXPORT int64_t minitx_decode_room(const Model *model, int64_t rows, int threads) {
    Room room = room_of(model, rows);
    return room.shared + threads * room.own;
}

static void embed(Thread thread, const Model *model, const Tokens *new, float *x) {
    int64_t size = model->d_model;
    for (int64_t r = thread.number; r < new->count; r += thread.of) {
        float *to = x + r * stride_of(size);
        const float *token = model->embedding + new->tokens[r] * size;
        const float *place = model->positions ? model->positions + new->positions[r] * size : NULL;
        for (int64_t i = 0; i < size; i++) to[i] = token[i] + (place ? place[i] : 0.0f);
        for (int64_t i = size; i < stride_of(size); i++) to[i] = 0.0f;
    }
    wait_for_all(thread);
}

static void run(
    Thread thread, const Model *model, const Cache *cache, const Tokens *new, const int64_t *asked,
    int64_t n_asked, char *buffer, float *logits
) {
    int64_t rows = new->count, size = model->d_model, stride = stride_of(size);
    Room room = room_of(model, rows);
    float *x = (float *)buffer, *heads = (float *)(buffer += room.x);
    float *qkv = (float *)(buffer += room.heads), *hidden = (float *)(buffer += room.qkv);
    float *normed = (float *)(buffer += room.hidden + thread.number * room.own);
    float *scores = (float *)(buffer += room.normed), *wide = (float *)(buffer + room.scores);
    Product head = {model->head, PUT}, first = {model->layers->qkv, PUT};
    embed(thread, model, new, x);
    for (const Layer *layer = model->layers; layer < model->layers + model->n_layers; layer++) {
        bool is_last = layer + 1 == model->layers + model->n_layers;
        Product qkv_product = {layer->qkv, PUT}, output = {layer->output, ADD};
        Product up = {layer->gate_up, is_gated(model, layer) ? GATED : GELU};
        Product down = {layer->down, ADD}, next = is_last ? head : (Product){layer[1].qkv, PUT};
        Cache here = *cache;
        here.start += (layer - model->layers) * cache->layer;
        norm(model, x, rows, layer->attention_norm, normed);
        multiply(thread, &qkv_product, normed, rows, qkv, stride_of(layer->qkv.rows), wide, &output);
        attend(thread, model, layer, &here, new, qkv, scores, heads);
        multiply(thread, &output, heads, rows, x, stride, wide, &up);
        norm(model, x, rows, layer->mlp_norm, normed);
        multiply(thread, &up, normed, rows, hidden, stride_of(model->d_ff), wide, &down);
        multiply(thread, &down, hidden, rows, x, stride, wide, &next);
    }
    for (int64_t i = 0; i < n_asked; i++)
        norm(model, x + asked[i] * stride, 1, model->norm, normed + i * stride);
    if (n_asked) multiply(thread, &head, normed, n_asked, logits, stride_of(model->head.rows), wide, &first);
}

/* Append tokens to texts.

   tokens, positions, texts: (count), see `Tokens`.
   asked: (n_asked), in order, maybe none: the tokens for which the logits of what follows are wanted.
   buffer: of `minitx_decode_room` bytes.
   logits: (n_asked, `minitx_decode_stride` of the vocabulary). */
EXPORT void minitx_decode_step(
    const Model *model, const Cache *cache, const int64_t *tokens, const int64_t *positions,
    const int64_t *texts, int64_t count, const int64_t *asked, int64_t n_asked, char *buffer,
    float *logits, int threads
) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Tokens new = {tokens, positions, texts, count, 0};
    for (int64_t r = 1; r < count; r++) new.is_shared |= texts[r] == texts[r - 1];
    Meeting meeting = {0};
#pragma omp parallel num_threads(threads) if (threads > 1)
    run(this_thread(&meeting), model, cache, &new, asked, n_asked, buffer, logits);
}
