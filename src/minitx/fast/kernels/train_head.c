/* The end of the model in training, in one call: the last norm, the logits, the mean cross-entropy,
   and the gradients of all that at once, since they are the same but for one factor
   (`Transformer.loss`). Logits are in memory for a few rows at a time. Products take
   what `Stored` says, as in train_block.c. */
#include "fused.h"
#include "team.h"
#include "thread.h"

/* As `_Head` in fast/head.py. */
typedef struct {
    int64_t rows, d_model, vocab;
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

/* Rows whose logits are in memory at once, in one thread. */
#define ROWS (4 * TILE)

typedef struct {
    Word *to_logits, *to_x;    /* the matrix for both directions */
    Word *by_logits, *in;      /* of all rows, laid out: what the matrix's gradient is made of */
    float *gains;              /* one part for each ROWS rows */
    double *losses;            /* and its sum */
    char *own;
    size_t own_size;
} Scratch;

typedef struct {
    Stored *in, *by_logits;
    float *logits, *by_in, *scales;
} Own;

static Own own_in(const Head *head, Memory memory, size_t *used) {
    Own own;
    own.in = reserve(&memory, whole(ROWS, TILE) * head->d_model, sizeof(Stored));
    own.by_logits = reserve(&memory, whole(ROWS, TILE) * whole(head->vocab, TERMS), sizeof(Stored));
    own.logits = reserve(&memory, ROWS * head->vocab, sizeof(float));
    own.by_in = reserve(&memory, ROWS * head->d_model, sizeof(float));
    own.scales = reserve(&memory, ROWS, sizeof(float));
    *used = memory.used;
    return own;
}

static Scratch scratch_in(const Head *head, Memory memory, size_t *used) {
    int64_t d = head->d_model, vocab = head->vocab;
    Scratch s;
    s.to_logits = reserve(&memory, whole(vocab, PANEL) * d / TERMS, sizeof(Word));
    s.to_x = reserve(&memory, whole(d, PANEL) * parts(vocab, TERMS), sizeof(Word));
    s.by_logits = reserve(&memory, laid_size(head->rows, vocab, STRIP), sizeof(Word));
    s.in = reserve(&memory, laid_size(head->rows, d, PANEL), sizeof(Word));
    s.gains = reserve(&memory, parts(head->rows, ROWS) * head->d_model, sizeof(float));
    s.losses = reserve(&memory, parts(head->rows, ROWS), sizeof(double));
    own_in(head, (Memory){0, 0}, &s.own_size);
    s.own = reserve(&memory, head->threads * (int64_t)s.own_size, 1);
    *used = memory.used;
    return s;
}

static float largest(const float *row, int64_t n) {
    float best[16];
    for (int l = 0; l < 16; l++) best[l] = -INFINITY;
    int64_t i = 0;
    for (; i + 16 <= n; i += 16)
        for (int l = 0; l < 16; l++) best[l] = row[i + l] > best[l] ? row[i + l] : best[l];
    for (; i < n; i++) best[0] = row[i] > best[0] ? row[i] : best[0];
    for (int half = 8; half > 0; half /= 2)
        for (int l = 0; l < half; l++) best[l] = best[l + half] > best[l] ? best[l + half] : best[l];
    return best[0];
}

/* Of one row: its loss; the logits become their gradient. */
static float row_loss(float *logits, int64_t vocab, int64_t target, float factor) {
    float top = largest(logits, vocab), sum = 0.0f;
    float chosen = logits[target];
    for (int64_t i = 0; i < vocab; i++) {
        logits[i] = fast_exp(logits[i] - top);
        sum += logits[i];
    }
    float share = factor / sum;
    for (int64_t i = 0; i < vocab; i++) logits[i] *= share;
    logits[target] -= factor;
    return top + logf(sum) - chosen;
}

static void these_rows(const Head *head, const Scratch *s, Own own, int64_t part, float factor) {
    int64_t first = part * ROWS, d = head->d_model, vocab = head->vocab;
    int64_t padded = whole(vocab, TERMS);
    int64_t rows = head->rows - first < ROWS ? head->rows - first : ROWS;
    float *back = head->back + first * d;
    norm_rows(head->x + first * d, head->gain, head->eps, rows, d, own.scales, own.in);
    product((const Word *)own.in, d / TERMS, 1, rows, s->to_logits, d / TERMS, vocab, own.logits,
            vocab, SET);
    double loss = 0.0;
    for (int64_t r = 0; r < rows; r++) {
        float *logits = own.logits + r * vocab;
        int64_t target = head->targets[first + r];
        if (target == head->ignored)
            memset(logits, 0, (size_t)vocab * sizeof(float));
        else
            loss += row_loss(logits, vocab, target, factor);
        store_row(logits, vocab, own.by_logits + r * padded);
        if (padded > vocab) own.by_logits[r * padded + vocab] = 0;
    }
    s->losses[part] = loss;
    for (int64_t r = 0; r < rows; r += TERMS)
        lay_word(own.by_logits + r * padded, padded, first + r, vocab, STRIP, s->by_logits);
    product((const Word *)own.by_logits, padded / TERMS, 1, rows, s->to_x, padded / TERMS, d,
            own.by_in, d, SET);
    float *by_gain = s->gains + part * d;
    memset(by_gain, 0, (size_t)d * sizeof(float));
    memset(back, 0, (size_t)(rows * d) * sizeof(float));
    norm_rows_back(own.by_in, head->x + first * d, own.scales, head->gain, first, rows, d, by_gain,
                   back, s->in);
}

EXPORT size_t NAMED(head_scratch)(const Head *head) {
    size_t used;
    scratch_in(head, (Memory){0, 0}, &used);
    return used;
}

/* Returns how many targets are no token; then nothing that is given back counts. */
EXPORT int64_t NAMED(head_loss)(const Head *head) {
    size_t used;
    int64_t count = 0, wrong = 0, vocab = head->vocab, d = head->d_model;
    for (int64_t r = 0; r < head->rows; r++) {
        int64_t target = head->targets[r];
        count += target != head->ignored;
        wrong += target != head->ignored && (target < 0 || target >= vocab);
    }
    if (wrong) return wrong;
    Scratch s = scratch_in(head, (Memory){head->scratch, 0}, &used);
    int64_t chunks = parts(head->rows, ROWS);
    float factor = 1.0f / (float)count;
    int64_t panels = parts(vocab, PANEL), matrices = panels + parts(d, PANEL);
    int64_t pieces = gradient_parts(vocab, d);
    Meeting meeting = {0};
#pragma omp parallel num_threads(head->threads)
    {
        Thread thread = this_thread(&meeting);
        Own own = own_in(head, (Memory){s.own + (size_t)thread.number * s.own_size, 0},
                         &(size_t){0});
        FOR_ALL(thread, matrices,
                i < panels ? pack_columns(head->weight, vocab, d, i, s.to_logits)
                           : pack_rows(head->weight, vocab, d, i - panels, s.to_x));
        FOR_ALL(thread, chunks, these_rows(head, &s, own, i, factor));
        FOR_ALL(thread, pieces,
                matrix_gradient(s.by_logits, s.in, parts(head->rows, TERMS), vocab, d, i,
                                head->by_weight));
    }
    double loss = 0.0;
    for (int64_t part = 0; part < chunks; part++) loss += s.losses[part];
    *head->loss = (float)(loss / (double)count);
    add_partial(s.gains, chunks, d, head->by_gain);
    return 0;
}
