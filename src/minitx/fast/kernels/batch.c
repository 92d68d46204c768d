/* One token of each of many texts through the model: `Transformer.forward` without its gradients.

   Every row is computed by itself, its sums in an order that depends on nothing but the model. So a
   row's numbers are the same whichever rows are beside it, and however many threads share them. */

#include "batch_attention.h"
#include "batch_product.h"

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
static void norm(
    const float *x, int64_t rows, int64_t size, const float *gain, const float *shift, float eps,
    float *out
) {
    for (int64_t r = 0; r < rows; r++)
        norm_row(x + r * stride_of(size), size, gain, shift, eps, out + r * stride_of(size));
}

/* Bytes of each buffer that `minitx_batch_step` works in. */
typedef struct {
    int64_t x, heads, qkv, hidden, normed, scores, shared, own;
} Room;

static Room room_of(const Model *model, int64_t rows) {
    int64_t gathered = model->heads * model->head_dim, size = (int64_t)sizeof(float);
    Room room = {
        .x = rows * stride_of(model->d_model) * size,
        .heads = rows * stride_of(gathered) * size,
        .qkv = rows * stride_of(gathered + 2 * model->kv_heads * model->head_dim) * size,
        .hidden = rows * stride_of(model->hidden) * size,
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

static Product qkv_of(const Model *model, const Layer *layer) {
    int64_t heads = model->heads + 2 * model->kv_heads;
    return (Product){layer->qkv, heads * model->head_dim, model->d_model, PUT};
}

static Product output_of(const Model *model, const Layer *layer) {
    return (Product){layer->output, model->d_model, model->heads * model->head_dim, ADD};
}

static Product up_of(const Model *model, const Layer *layer) {
    int64_t rows = model->gated ? 2 * model->hidden : model->hidden;
    return (Product){layer->up, rows, model->d_model, model->gated ? GATED : GELU};
}

static Product down_of(const Model *model, const Layer *layer) {
    return (Product){layer->down, model->d_model, model->hidden, ADD};
}

static Product head_of(const Model *model) {
    return (Product){model->head, model->vocabulary, model->d_model, PUT};
}

static void embed(
    Thread thread, const Model *model, const int64_t *tokens, const int64_t *lengths, int64_t rows,
    float *x
) {
    int64_t size = model->d_model;
    for (int64_t r = thread.number; r < rows; r += thread.of) {
        float *to = x + r * stride_of(size);
        const float *token = model->embedding + tokens[r] * size;
        const float *place = model->positions ? model->positions + lengths[r] * size : NULL;
        for (int64_t i = 0; i < size; i++) to[i] = token[i] + (place ? place[i] : 0.0f);
        for (int64_t i = size; i < stride_of(size); i++) to[i] = 0.0f;
    }
    wait_for_all(thread);
}

static void run(
    Thread thread, const Model *model, const Layer *layers, const Cache *cache,
    const int64_t *tokens, const int64_t *lengths, int64_t rows, char *buffer, float *logits
) {
    Room room = room_of(model, rows);
    float *x = (float *)buffer, *heads = (float *)(buffer += room.x);
    float *qkv = (float *)(buffer += room.heads), *hidden = (float *)(buffer += room.qkv);
    float *normed = (float *)(buffer += room.hidden + thread.number * room.own);
    float *scores = (float *)(buffer += room.normed);
    int64_t size = model->d_model;
    embed(thread, model, tokens, lengths, rows, x);
    for (int64_t l = 0; l < model->layers; l++) {
        const Layer *layer = layers + l;
        Product first = qkv_of(model, layer), output = output_of(model, layer);
        Product up = up_of(model, layer), down = down_of(model, layer);
        Product next = l + 1 < model->layers ? qkv_of(model, layer + 1) : head_of(model);
        Cache here = *cache;
        here.start += l * cache->layer;
        norm(x, rows, size, layer->attention_gain, layer->attention_shift, model->eps, normed);
        multiply(thread, &first, normed, rows, qkv, stride_of(first.rows), &output);
        attend(thread, model, layer, &here, lengths, rows, qkv, scores, heads);
        multiply(thread, &output, heads, rows, x, stride_of(size), &up);
        norm(x, rows, size, layer->mlp_gain, layer->mlp_shift, model->eps, normed);
        multiply(thread, &up, normed, rows, hidden, stride_of(model->hidden), &down);
        multiply(thread, &down, hidden, rows, x, stride_of(size), &next);
    }
    norm(x, rows, size, model->gain, model->shift, model->eps, normed);
    Product head = head_of(model), again = qkv_of(model, layers);
    multiply(thread, &head, normed, rows, logits, stride_of(head.rows), &again);
}

/* Append a token to each row.

   tokens, lengths: (rows), lengths before.
   buffer: of `minitx_batch_room` bytes.
   logits: (rows, `minitx_batch_stride` of the vocabulary). */
EXPORT void minitx_batch_step(
    const Model *model, const Layer *layers, const Cache *cache, const int64_t *tokens,
    const int64_t *lengths, int64_t rows, char *buffer, float *logits, int threads
) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    Meeting meeting = {0};
#pragma omp parallel num_threads(threads)
    run(this_thread(&meeting), model, layers, cache, tokens, lengths, rows, buffer, logits);
}
