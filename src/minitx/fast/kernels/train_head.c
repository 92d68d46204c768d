/* The end of the model in training, in one call: the last norm, the logits, the mean cross-entropy,
   and the gradients of all that at once, since they are the same but for one factor
   (`Transformer.loss`). Logits are in memory for a few rows at a time. Products take bfloat16, as in
   train_block.c.

   For this processors need AVX512-BF16. */
#include <stddef.h>

#include "vector.h"

/* As `_Head` in fast/head.py. */
typedef struct {
    long rows, d_model, vocab;
    float eps;
    int threads;
    int64_t ignored;
    const float *x;             /* (rows, d_model) */
    const float *gain, *weight; /* (d_model), (vocab, d_model) */
    const int64_t *targets;     /* (rows) */
    void *scratch;              /* as many bytes as the function below says */
    float *loss;                /* the mean */
    float *back, *by_gain, *by_weight;
} Head;

#ifdef BFLOAT16_PRODUCTS
#pragma GCC target("avx512bf16")
#define BFLOAT16
#include "fused.h"

/* Rows whose logits are in memory at once, in one thread. */
#define ROWS 32

typedef struct {
    Pair *to_logits, *to_x;    /* the matrix for both directions */
    Pair *by_logits, *in;      /* of all rows: what the matrix's gradient is made of */
    float *gains;              /* one part for each ROWS rows */
    double *losses;            /* and its sum */
    char *own;
    size_t own_size;
} Scratch;

typedef struct {
    uint16_t *in, *by_logits;
    float *logits, *by_in, *scales;
} Own;

static Own own_in(const Head *head, Memory memory, size_t *used) {
    Own own;
    own.in = take(&memory, ROWS * head->d_model, sizeof(uint16_t));
    own.by_logits = take(&memory, ROWS * whole(head->vocab, 2), sizeof(uint16_t));
    own.logits = take(&memory, ROWS * head->vocab, sizeof(float));
    own.by_in = take(&memory, ROWS * head->d_model, sizeof(float));
    own.scales = take(&memory, ROWS, sizeof(float));
    *used = memory.used;
    return own;
}

static Scratch scratch_in(const Head *head, Memory memory, size_t *used) {
    long d = whole(head->d_model, PANEL), vocab = whole(head->vocab, PANEL);
    Scratch s;
    s.to_logits = take(&memory, vocab * head->d_model / 2, sizeof(Pair));
    s.to_x = take(&memory, d * whole(head->vocab, 2) / 2, sizeof(Pair));
    s.by_logits = take(&memory, parts(head->rows, 2) * vocab, sizeof(Pair));
    s.in = take(&memory, parts(head->rows, 2) * d, sizeof(Pair));
    s.gains = take(&memory, parts(head->rows, ROWS) * head->d_model, sizeof(float));
    s.losses = take(&memory, parts(head->rows, ROWS), sizeof(double));
    own_in(head, (Memory){0, 0}, &s.own_size);
    s.own = take(&memory, head->threads * (long)s.own_size, 1);
    *used = memory.used;
    return s;
}

static float largest(const float *row, long n) {
    __m512 best = _mm512_set1_ps(-INFINITY);
    for (long i = 0; i < n; i += 16) {
        __mmask16 valid = (__mmask16)(n - i >= 16 ? 0xffff : (1 << (n - i)) - 1);
        best = _mm512_mask_max_ps(best, valid, best, _mm512_maskz_loadu_ps(valid, row + i));
    }
    return _mm512_reduce_max_ps(best);
}

/* Of one row: its loss; the logits become their gradient. */
static float row_loss(float *logits, long vocab, int64_t target, float factor) {
    float top = largest(logits, vocab), sum = 0.0f;
    float chosen = logits[target];
    for (long i = 0; i < vocab; i++) {
        logits[i] = fast_exp(logits[i] - top);
        sum += logits[i];
    }
    float share = factor / sum;
    for (long i = 0; i < vocab; i++) logits[i] *= share;
    logits[target] -= factor;
    return top + logf(sum) - chosen;
}

static void some_rows(const Head *head, const Scratch *s, Own own, long part, float factor) {
    long first = part * ROWS, d = head->d_model, vocab = head->vocab, even = whole(vocab, 2);
    long rows = head->rows - first < ROWS ? head->rows - first : ROWS;
    float *back = head->back + first * d;
    norm_rows(head->x + first * d, head->gain, head->eps, rows, d, own.scales, own.in);
    product((const Pair *)own.in, d / 2, 1, rows, s->to_logits, d / 2, vocab, own.logits, vocab,
            SET);
    double loss = 0.0;
    for (long r = 0; r < rows; r++) {
        float *logits = own.logits + r * vocab;
        int64_t target = head->targets[first + r];
        if (target == head->ignored)
            memset(logits, 0, (size_t)vocab * sizeof(float));
        else
            loss += row_loss(logits, vocab, target, factor);
        store_row(logits, vocab, own.by_logits + r * even);
        if (vocab % 2) own.by_logits[r * even + vocab] = 0;
    }
    s->losses[part] = loss;
    for (long r = 0; r < rows; r += 2)
        pair_rows(own.by_logits + r * even, own.by_logits + (r + 1) * even, vocab,
                  s->by_logits + (first + r) / 2 * whole(vocab, PANEL));
    product((const Pair *)own.by_logits, even / 2, 1, rows, s->to_x, even / 2, d, own.by_in, d,
            SET);
    float *by_gain = s->gains + part * d;
    memset(by_gain, 0, (size_t)d * sizeof(float));
    memset(back, 0, (size_t)(rows * d) * sizeof(float));
    norm_rows_back(own.by_in, head->x + first * d, own.scales, head->gain, rows, d, by_gain, back,
                   s->in + first / 2 * whole(d, PANEL));
}

EXPORT size_t minitx_head_scratch(const Head *head) {
    size_t used;
    scratch_in(head, (Memory){0, 0}, &used);
    return used;
}

/* Returns how many targets are no token; then nothing that is given back counts. */
EXPORT long minitx_head_loss(const Head *head) {
    size_t used;
    long count = 0, wrong = 0, vocab = head->vocab, d = head->d_model;
    for (long r = 0; r < head->rows; r++) {
        int64_t target = head->targets[r];
        count += target != head->ignored;
        wrong += target != head->ignored && (target < 0 || target >= vocab);
    }
    if (wrong) return wrong;
    Scratch s = scratch_in(head, (Memory){head->scratch, 0}, &used);
    long chunks = parts(head->rows, ROWS);
    float factor = 1.0f / (float)count;
#pragma omp parallel num_threads(head->threads)
    {
        Own own = own_in(head, (Memory){s.own + (size_t)THREAD * s.own_size, 0}, &(size_t){0});
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(vocab, PANEL); p++)
            pack_columns(head->weight, vocab, d, p, s.to_logits);
#pragma omp for schedule(static)
        for (long p = 0; p < parts(d, PANEL); p++) pack_rows(head->weight, vocab, d, p, s.to_x);
#pragma omp for schedule(static)
        for (long part = 0; part < chunks; part++) some_rows(head, &s, own, part, factor);
#pragma omp for schedule(dynamic) nowait
        for (long strip = 0; strip < parts(vocab, STRIP); strip++)
            matrix_gradient(s.by_logits, s.in, head->rows / 2, vocab, d, strip, head->by_weight);
#pragma omp single nowait
        {
            double loss = 0.0;
            for (long part = 0; part < chunks; part++) loss += s.losses[part];
            *head->loss = (float)(loss / (double)count);
            add_partial(s.gains, chunks, d, head->by_gain);
        }
    }
    return 0;
}

#else

EXPORT size_t minitx_head_scratch(const Head *head) { return 0 * (size_t)head->rows; }
EXPORT long minitx_head_loss(const Head *head) { return 0 * head->rows; }

#endif
