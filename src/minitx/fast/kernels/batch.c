/* Tokens of several texts through the model, one of each or a whole prompt: `Transformer.forward`
   without its gradients.

   Every token is a row that is computed by itself, its sums in an order that depends on nothing but
   the model. So its numbers are the same whichever rows are beside it, and however many threads
   share them. */

#include "batch_attention.h"
#include "batch_product.h"

#include <stdbool.h>

/* Elements from one row of logits to the next. */
EXPORT int64_t minitx_batch_stride(int64_t columns) { return stride_of(columns); }

/* Elements of a matrix `(rows, columns)` when packed. */
EXPORT int64_t minitx_batch_packed_size(int64_t rows, int64_t columns, int64_t gated) {
    return panels_of(rows, gated ? GATED : PUT) * PANEL * (columns + 1);
}

/* Put a matrix `(rows, columns)` and the bias `(rows)`, or null, in the order in which `multiply`
   reads them: panels of PANEL rows, each as a line of biases and then one line for each column.
   gated: the first half of the rows are gates, and a panel is LANES of them and LANES others. */
EXPORT void minitx_batch_pack(
    const float *weight, const float *bias, int64_t rows, int64_t columns, int64_t gated, float *out
) {
    int64_t panels = panels_of(rows, gated ? GATED : PUT), half = rows / 2;
    for (int64_t p = 0; p < panels; p++) {
        for (int64_t i = 0; i < PANEL; i++) {
            int64_t row = p * PANEL + i, end = rows;
            if (gated) {
                row = p * LANES + i % LANES + i / LANES * half;
                end = i < LANES ? half : rows;
            }
            out[i] = bias && row < end ? bias[row] : 0.0f;
            for (int64_t column = 0; column < columns; column++)
                out[(column + 1) * PANEL + i] = row < end ? weight[row * columns + column] : 0.0f;
        }
        out += PANEL * (columns + 1);
    }
}

/* Of all rows; `out` is the thread's own: to wait for others' would take as long. */
static void norm(const Model *model, const float *x, int64_t rows, Norm norm, float *out) {
    int64_t size = model->d_model, stride = stride_of(size);
    for (int64_t r = 0; r < rows; r++)
        norm_row(x + r * stride, size, norm.gain, norm.bias, (float)model->eps, out + r * stride);
}

/* Bytes of each buffer that `minitx_batch_step` works in. */
typedef struct {
    int64_t x, heads, qkv, hidden, normed, scores, shared, own;
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
    room.shared = room.x + room.heads + room.qkv + room.hidden;
    room.own = room.normed + room.scores;
    return room;
}

/* Bytes of the buffer that `minitx_batch_step` works in. */
EXPORT int64_t minitx_batch_room(const Model *model, int64_t rows, int threads) {
    Room room = room_of(model, rows);
    return room.shared + threads * room.own;
}

static Product product_of(Matrix matrix, Then then) {
    return (Product){matrix.weights, matrix.rows, matrix.columns, then};
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
    float *scores = (float *)(buffer += room.normed);
    Product head = product_of(model->head, PUT), first = product_of(model->layers->qkv, PUT);
    embed(thread, model, new, x);
    for (const Layer *layer = model->layers; layer < model->layers + model->n_layers; layer++) {
        bool is_last = layer + 1 == model->layers + model->n_layers;
        Product qkv_product = product_of(layer->qkv, PUT);
        Product output = product_of(layer->output, ADD), down = product_of(layer->down, ADD);
        Product up = product_of(layer->gate_up, is_gated(model, layer) ? GATED : GELU);
        Product next = is_last ? head : product_of(layer[1].qkv, PUT);
        Cache here = *cache;
        here.start += (layer - model->layers) * cache->layer;
        norm(model, x, rows, layer->attention_norm, normed);
        multiply(thread, &qkv_product, normed, rows, qkv, stride_of(layer->qkv.rows), &output);
        attend(thread, model, layer, &here, new, qkv, scores, heads);
        multiply(thread, &output, heads, rows, x, stride, &up);
        norm(model, x, rows, layer->mlp_norm, normed);
        multiply(thread, &up, normed, rows, hidden, stride_of(model->d_ff), &down);
        multiply(thread, &down, hidden, rows, x, stride, &next);
    }
    for (int64_t i = 0; i < n_asked; i++)
        norm(model, x + asked[i] * stride, 1, model->norm, normed + i * stride);
    if (n_asked) multiply(thread, &head, normed, n_asked, logits, stride_of(head.rows), &first);
}

/* Append tokens to texts.

   tokens, positions, texts: (count), see `Tokens`.
   asked: (n_asked), in order, maybe none: the tokens for which the logits of what follows are wanted.
   buffer: of `minitx_batch_room` bytes.
   logits: (n_asked, `minitx_batch_stride` of the vocabulary). */
EXPORT void minitx_batch_step(
    const Model *model, const Cache *cache, const int64_t *tokens, const int64_t *positions,
    const int64_t *texts, int64_t count, const int64_t *asked, int64_t n_asked, char *buffer,
    float *logits, int threads
) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Tokens new = {tokens, positions, texts, count, 0};
    for (int64_t r = 1; r < count; r++) new.is_shared |= texts[r] == texts[r - 1];
    Meeting meeting = {0};
#pragma omp parallel num_threads(threads)
    run(this_thread(&meeting), model, cache, &new, asked, n_asked, buffer, logits);
}
