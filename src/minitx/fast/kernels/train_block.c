/* A whole block of the qwen3 architecture in training, forward and backward, in one call each: norm,
   queries, keys and values, attention, projection, norm, SwiGLU MLP, both added to the residual
   stream (model/transformer.py). Products take bfloat16 and sum in float32, as under autocast; the
   residual stream and all between a product and the next rounding are in float32.

   A thread takes a sequence through the whole block, a few rows at a time, so that what one layer
   writes is still in the cache when the next reads it, and threads wait for each other once. Only
   the gradients of the matrices are sums over all rows: they come last, a strip of rows of a matrix
   at a time, in an order that does not depend on who computes it.

   For this processors need AVX512-BF16. */
#include <stddef.h>

#include "vector.h"

#ifdef BFLOAT16_PRODUCTS
#pragma GCC target("avx512bf16")
#define BFLOAT16
#include <time.h>

#include "attention.h"
#include "fused.h"
#endif

/* As `_Block` in fast/whole_blocks.py. */
typedef struct {
    long batch, seq, heads, kv_heads, head_dim, d_model, d_ff;
    float eps, dropout; /* of the weights of attention, and of what both layers add */
    uint64_t seed;      /* of the dropout */
    int threads;
    const float *x; /* (batch, seq, d_model) */
    const float *attention_gain, *query_gain, *key_gain, *mlp_gain;
    const float *qkv, *output, *gate_up, *down; /* as in nn.Linear: (to, from) */
    const uint16_t *cosine, *sine;              /* (seq, head_dim) */
    void *kept, *scratch;                       /* as many bytes as the functions below say */
    /* Forward gives the first; backward takes the second and gives the rest. */
    float *out;
    const float *grad;
    float *back, *by_attention_gain, *by_head_gains, *by_mlp_gain; /* head gains: (2, head_dim) */
    float *by_qkv, *by_output, *by_gate_up, *by_down;
    double *seconds; /* if not null: what each of PARTS took is added, the mean of the threads */
} Block;

enum { NORM, ATTENTION, MLP, PARTS };
enum { WEIGHTS, AFTER_ATTENTION, AFTER_MLP }; /* where numbers are dropped */

#ifdef BFLOAT16_PRODUCTS

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

typedef struct {
    long rows, heads, qkv, gate_up; /* of all sequences; numbers in a row */
} Sizes;

static Sizes sizes_of(const Block *block) {
    long heads = block->heads * block->head_dim;
    return (Sizes){block->batch * block->seq, heads,
                   heads + 2 * block->kv_heads * block->head_dim, 2 * block->d_ff};
}

/* What forward keeps for backward; what the norms and SwiGLU gave is computed again. */
typedef struct {
    float *middle;                      /* the residual stream between attention and MLP */
    float *attention_scale, *mlp_scale; /* of each row in the norms */
    float *log_sums;                    /* of the attention's weights */
    uint16_t *qkv, *heads, *gate_up;
} Kept;

static Kept kept_in(const Block *block, Memory memory, size_t *used) {
    Sizes n = sizes_of(block);
    Kept kept;
    kept.middle = take(&memory, n.rows * block->d_model, sizeof(float));
    kept.attention_scale = take(&memory, n.rows, sizeof(float));
    kept.mlp_scale = take(&memory, n.rows, sizeof(float));
    kept.log_sums = take(&memory, n.rows * block->heads, sizeof(float));
    kept.qkv = take(&memory, n.rows * n.qkv, sizeof(uint16_t));
    kept.heads = take(&memory, n.rows * n.heads, sizeof(uint16_t));
    kept.gate_up = take(&memory, n.rows * n.gate_up, sizeof(uint16_t));
    *used = memory.used;
    return kept;
}

/* What a call needs only while it runs: the matrices in panels for all threads; for backward what
   the matrices' gradients are made of, as pairs of neighbouring rows: the gradient of what each
   product gave, and what it read; and rows for each thread. */
typedef struct {
    Pair *qkv, *output, *gate_up, *down;
    Pair *by_qkv, *by_output, *by_gate_up, *by_down;
    Pair *attention_in, *heads, *mlp_in, *hidden;
    float *attention_gains, *mlp_gains, *head_gains; /* one part for each sequence, or head */
    char *own;
    size_t own_size;
} Scratch;

/* A thread's own. */
typedef struct {
    uint16_t *in, *wide_in; /* CHUNK rows that a product reads, at most d_model or heads, or more */
    float *out;             /* and such as it writes */
    uint16_t *by_heads, *by_qkv; /* gradients of a sequence */
    float *attention;
    double since, seconds[PARTS];
} Own;

static Own own_in(const Block *block, Memory memory, size_t *used) {
    Sizes n = sizes_of(block);
    Own own;
    own.in = take(&memory, CHUNK * most(block->d_model, n.heads), sizeof(uint16_t));
    own.wide_in = take(&memory, CHUNK * n.gate_up, sizeof(uint16_t));
    own.out = take(&memory, CHUNK * most(block->d_ff, block->d_model), sizeof(float));
    own.by_heads = take(&memory, block->seq * n.heads, sizeof(uint16_t));
    own.by_qkv = take(&memory, whole(block->seq, TILE) * n.qkv, sizeof(uint16_t));
    own.attention = take(&memory, attention_scratch(block->seq, block->head_dim), sizeof(float));
    *used = memory.used;
    memset(own.seconds, 0, sizeof own.seconds);
    own.since = block->seconds ? now() : 0.0;
    return own;
}

/* The time since the last lap was for this part. */
static void lap(const Block *block, Own *own, int part) {
    if (!block->seconds) return;
    double time = now();
    own->seconds[part] += time - own->since;
    own->since = time;
}

static void add_laps(const Block *block, const Own *own) {
    if (!block->seconds) return;
#pragma omp critical
    for (int part = 0; part < PARTS; part++)
        block->seconds[part] += own->seconds[part] / block->threads;
}

static Scratch scratch_in(const Block *block, int backward, Memory memory, size_t *used) {
    Sizes n = sizes_of(block);
    long d = whole(block->d_model, PANEL), heads = whole(n.heads, PANEL);
    long qkv = whole(n.qkv, PANEL), ff = whole(block->d_ff, PANEL);
    long gate_up = whole(n.gate_up, PANEL), pairs = n.rows / 2;
    Scratch s = {0};
    /* The larger of both directions' panels. */
    s.qkv = take(&memory, most(qkv * block->d_model, d * n.qkv) / 2, sizeof(Pair));
    s.output = take(&memory, most(d * n.heads, heads * block->d_model) / 2, sizeof(Pair));
    s.gate_up = take(&memory, most(gate_up * block->d_model, d * n.gate_up) / 2, sizeof(Pair));
    s.down = take(&memory, most(d * block->d_ff, ff * block->d_model) / 2, sizeof(Pair));
    if (backward) {
        s.by_qkv = take(&memory, pairs * qkv, sizeof(Pair));
        s.by_output = take(&memory, pairs * d, sizeof(Pair));
        s.by_gate_up = take(&memory, pairs * gate_up, sizeof(Pair));
        s.by_down = take(&memory, pairs * d, sizeof(Pair));
        s.attention_in = take(&memory, pairs * d, sizeof(Pair));
        s.heads = take(&memory, pairs * heads, sizeof(Pair));
        s.mlp_in = take(&memory, pairs * d, sizeof(Pair));
        s.hidden = take(&memory, pairs * ff, sizeof(Pair));
        s.attention_gains = take(&memory, block->batch * block->d_model, sizeof(float));
        s.mlp_gains = take(&memory, block->batch * block->d_model, sizeof(float));
        s.head_gains =
            take(&memory, block->batch * block->kv_heads * 2 * block->head_dim, sizeof(float));
    }
    size_t own_size;
    own_in(block, (Memory){0, 0}, &own_size);
    s.own_size = own_size;
    s.own = take(&memory, block->threads * (long)own_size, 1);
    *used = memory.used;
    return s;
}

/* The attention of one sequence, from its first row on. */
static Job job_of(const Block *block, const uint16_t *qkv, long sequence) {
    Dropout dropout = dropout_of(block->dropout, mix(block->seed + (uint64_t)sequence) + WEIGHTS);
    return (Job){qkv, block->cosine, block->sine, block->query_gain, block->key_gain, 1,
                 block->eps, 1, block->seq, block->heads, block->kv_heads, block->head_dim,
                 dropout};
}

/* c += dropout(a b), as `product`. `out` has room for the rows. */
static void add_product(const Block *block, int site, long first, const Pair *a, long pairs,
                        long rows, const Pair *b, float *out, float *c) {
    long d = block->d_model;
    if (block->dropout == 0.0f) {
        product(a, pairs, 1, rows, b, pairs, d, c, d, ADD);
        return;
    }
    Dropout dropout = dropout_of(block->dropout, block->seed + (uint64_t)site);
    product(a, pairs, 1, rows, b, pairs, d, out, d, SET);
    for (long r = 0; r < rows; r++) {
        drop_row(out + r * d, d, dropout, (uint64_t)(first + r));
        for (long i = 0; i < d; i++) c[r * d + i] += out[r * d + i];
    }
}

/* The way back: the gradient of a b as a product reads it. */
static void narrow_dropped(const Block *block, int site, long first, const float *grad, long rows,
                           uint16_t *in) {
    long d = block->d_model;
    Dropout dropout = dropout_of(block->dropout, block->seed + (uint64_t)site);
    for (long r = 0; r < rows; r++) {
        float row[d];
        memcpy(row, grad + r * d, (size_t)d * sizeof(float));
        drop_row(row, d, dropout, (uint64_t)(first + r));
        store_row(row, d, in + r * d);
    }
}

static void forward_sequence(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                             long sequence) {
    Sizes n = sizes_of(block);
    long d = block->d_model, ff = block->d_ff, begin = sequence * block->seq;
    long end = begin + block->seq;
    for (long first = begin; first < end; first += CHUNK) {
        long rows = end - first < CHUNK ? end - first : CHUNK;
        norm_rows(block->x + first * d, block->attention_gain, block->eps, rows, d,
                  kept->attention_scale + first, own->in);
        lap(block, own, NORM);
        product((const Pair *)own->in, d / 2, 1, rows, s->qkv, d / 2, n.qkv,
                kept->qkv + first * n.qkv, n.qkv, SET_STORED);
        lap(block, own, ATTENTION);
    }
    Job job = job_of(block, kept->qkv + begin * n.qkv, sequence);
    for (long kv = 0; kv < block->kv_heads; kv++)
        attend_forward(&job, kv, kept->heads + begin * n.heads,
                       kept->log_sums + begin * block->heads, own->attention);
    for (long first = begin; first < end; first += CHUNK) {
        long rows = end - first < CHUNK ? end - first : CHUNK;
        float *middle = kept->middle + first * d, *out = block->out + first * d;
        memcpy(own->in, kept->heads + first * n.heads, (size_t)(rows * n.heads) * sizeof(uint16_t));
        memcpy(middle, block->x + first * d, (size_t)(rows * d) * sizeof(float));
        add_product(block, AFTER_ATTENTION, first, (const Pair *)own->in, n.heads / 2, rows,
                    s->output, own->out, middle);
        lap(block, own, ATTENTION);
        norm_rows(middle, block->mlp_gain, block->eps, rows, d, kept->mlp_scale + first, own->in);
        lap(block, own, NORM);
        uint16_t *gate_up = kept->gate_up + first * n.gate_up;
        product((const Pair *)own->in, d / 2, 1, rows, s->gate_up, d / 2, n.gate_up, gate_up,
                n.gate_up, SET_STORED);
        for (long r = 0; r < rows; r++) {
            float gate[ff], up[ff];
            read_row(gate_up, r * n.gate_up, 1, ff, gate);
            read_row(gate_up, r * n.gate_up + ff, 1, ff, up);
            swiglu_row(gate, up, ff);
            store_row(gate, ff, own->wide_in + r * ff);
        }
        memcpy(out, middle, (size_t)(rows * d) * sizeof(float));
        add_product(block, AFTER_MLP, first, (const Pair *)own->wide_in, ff / 2, rows, s->down,
                    own->out, out);
        lap(block, own, MLP);
    }
}

/* The way back through SwiGLU for two rows: gradients of gate and up in `in`, and what SwiGLU gave,
   in pairs. */
static void swiglu_back(const float *grad, const uint16_t *gate_up, long ff, uint16_t *in,
                        Pair *hidden) {
    uint16_t given[2 * ff];
    for (long r = 0; r < 2; r++) {
        float gate[ff], up[ff], given_row[ff];
        read_row(gate_up, 2 * r * ff, 1, ff, gate);
        read_row(gate_up, (2 * r + 1) * ff, 1, ff, up);
        swiglu_row_back(grad + r * ff, gate, up, ff, given_row);
        store_row(gate, ff, in + 2 * r * ff);
        store_row(up, ff, in + (2 * r + 1) * ff);
        store_row(given_row, ff, given + r * ff);
    }
    pair_rows(given, given + ff, ff, hidden);
}

static void backward_sequence(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                              long sequence) {
    Sizes n = sizes_of(block);
    long d = block->d_model, ff = block->d_ff, begin = sequence * block->seq;
    long end = begin + block->seq, d_panels = whole(d, PANEL), heads = whole(n.heads, PANEL);
    float *mlp_gain = s->mlp_gains + sequence * d;
    float *attention_gain = s->attention_gains + sequence * d;
    for (long i = 0; i < d; i++) mlp_gain[i] = attention_gain[i] = 0.0f;
    for (long first = begin; first < end; first += CHUNK) {
        long rows = end - first < CHUNK ? end - first : CHUNK, pairs = first / 2;
        float *back = block->back + first * d;
        memcpy(back, block->grad + first * d, (size_t)(rows * d) * sizeof(float));
        narrow_dropped(block, AFTER_MLP, first, back, rows, own->in);
        pair_all(own->in, rows, d, s->by_down + pairs * d_panels);
        product((const Pair *)own->in, d / 2, 1, rows, s->down, d / 2, ff, own->out, ff, SET);
        for (long r = 0; r < rows; r += 2)
            swiglu_back(own->out + r * ff, kept->gate_up + (first + r) * n.gate_up, ff,
                        own->wide_in + r * n.gate_up,
                        s->hidden + (pairs + r / 2) * whole(ff, PANEL));
        pair_all(own->wide_in, rows, n.gate_up, s->by_gate_up + pairs * whole(n.gate_up, PANEL));
        product((const Pair *)own->wide_in, ff, 1, rows, s->gate_up, ff, d, own->out, d, SET);
        lap(block, own, MLP);
        norm_rows_back(own->out, kept->middle + first * d, kept->mlp_scale + first, block->mlp_gain,
                       rows, d, mlp_gain, back, s->mlp_in + pairs * d_panels);
        lap(block, own, NORM);
        narrow_dropped(block, AFTER_ATTENTION, first, back, rows, own->in);
        pair_all(own->in, rows, d, s->by_output + pairs * d_panels);
        product((const Pair *)own->in, d / 2, 1, rows, s->output, d / 2, n.heads,
                own->by_heads + (first - begin) * n.heads, n.heads, SET_STORED);
        pair_all(kept->heads + first * n.heads, rows, n.heads, s->heads + pairs * heads);
        lap(block, own, ATTENTION);
    }
    Job job = job_of(block, kept->qkv + begin * n.qkv, sequence);
    for (long kv = 0; kv < block->kv_heads; kv++) {
        long task = sequence * block->kv_heads + kv;
        attend_backward(&job, kv, kept->heads + begin * n.heads,
                        kept->log_sums + begin * block->heads, own->by_heads, own->by_qkv,
                        s->head_gains + task * 2 * block->head_dim, own->attention);
    }
    for (long first = begin; first < end; first += CHUNK) {
        long rows = end - first < CHUNK ? end - first : CHUNK, pairs = first / 2;
        const uint16_t *by_qkv = own->by_qkv + (first - begin) * n.qkv;
        pair_all(by_qkv, rows, n.qkv, s->by_qkv + pairs * whole(n.qkv, PANEL));
        product((const Pair *)by_qkv, n.qkv / 2, 1, rows, s->qkv, n.qkv / 2, d, own->out, d, SET);
        lap(block, own, ATTENTION);
        norm_rows_back(own->out, block->x + first * d, kept->attention_scale + first,
                       block->attention_gain, rows, d, attention_gain, block->back + first * d,
                       s->attention_in + pairs * d_panels);
        lap(block, own, NORM);
    }
}

/* Bytes that forward keeps, and that a call needs while it runs. */
EXPORT size_t minitx_block_kept(const Block *block) {
    size_t used;
    kept_in(block, (Memory){0, 0}, &used);
    return used;
}

EXPORT size_t minitx_block_scratch(const Block *block, int backward) {
    size_t used;
    scratch_in(block, backward, (Memory){0, 0}, &used);
    return used;
}

EXPORT void minitx_block_forward(const Block *block) {
    size_t used;
    Sizes n = sizes_of(block);
    Kept kept = kept_in(block, (Memory){block->kept, 0}, &used);
    Scratch s = scratch_in(block, 0, (Memory){block->scratch, 0}, &used);
    long d = block->d_model, ff = block->d_ff;
#pragma omp parallel num_threads(block->threads)
    {
        Own own = own_in(block, (Memory){s.own + (size_t)THREAD * s.own_size, 0}, &(size_t){0});
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(n.qkv, PANEL); p++) pack_columns(block->qkv, n.qkv, d, p, s.qkv);
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(d, PANEL); p++)
            pack_columns(block->output, d, n.heads, p, s.output);
        lap(block, &own, ATTENTION);
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(d, PANEL); p++) pack_columns(block->down, d, ff, p, s.down);
#pragma omp for schedule(static)
        for (long p = 0; p < parts(n.gate_up, PANEL); p++)
            pack_columns(block->gate_up, n.gate_up, d, p, s.gate_up);
        lap(block, &own, MLP);
#pragma omp for schedule(static)
        for (long sequence = 0; sequence < block->batch; sequence++)
            forward_sequence(block, &kept, &s, &own, sequence);
        add_laps(block, &own);
    }
}

EXPORT void minitx_block_backward(const Block *block) {
    size_t used;
    Sizes n = sizes_of(block);
    Kept kept = kept_in(block, (Memory){block->kept, 0}, &used);
    Scratch s = scratch_in(block, 1, (Memory){block->scratch, 0}, &used);
    long d = block->d_model, ff = block->d_ff, pairs = n.rows / 2;
    long gate_up = parts(n.gate_up, STRIP), qkv = gate_up + parts(n.qkv, STRIP);
    long down = qkv + parts(d, STRIP), output = down + parts(d, STRIP);
#pragma omp parallel num_threads(block->threads)
    {
        Own own = own_in(block, (Memory){s.own + (size_t)THREAD * s.own_size, 0}, &(size_t){0});
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(ff, PANEL); p++) pack_rows(block->down, d, ff, p, s.down);
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(d, PANEL); p++)
            pack_rows(block->gate_up, n.gate_up, d, p, s.gate_up);
        lap(block, &own, MLP);
#pragma omp for schedule(static) nowait
        for (long p = 0; p < parts(d, PANEL); p++) pack_rows(block->qkv, n.qkv, d, p, s.qkv);
#pragma omp for schedule(static)
        for (long p = 0; p < parts(n.heads, PANEL); p++)
            pack_rows(block->output, d, n.heads, p, s.output);
        lap(block, &own, ATTENTION);
#pragma omp for schedule(static)
        for (long sequence = 0; sequence < block->batch; sequence++)
            backward_sequence(block, &kept, &s, &own, sequence);
#pragma omp for schedule(dynamic) nowait
        for (long i = 0; i < output; i++) {
            if (i < gate_up)
                matrix_gradient(s.by_gate_up, s.mlp_in, pairs, n.gate_up, d, i,
                                block->by_gate_up);
            else if (i < qkv)
                matrix_gradient(s.by_qkv, s.attention_in, pairs, n.qkv, d, i - gate_up,
                                block->by_qkv);
            else if (i < down)
                matrix_gradient(s.by_down, s.hidden, pairs, d, ff, i - qkv, block->by_down);
            else
                matrix_gradient(s.by_output, s.heads, pairs, d, n.heads, i - down,
                                block->by_output);
            lap(block, &own, i < gate_up || (qkv <= i && i < down) ? MLP : ATTENTION);
        }
        add_laps(block, &own);
#pragma omp single nowait
        {
            add_partial(s.attention_gains, block->batch, d, block->by_attention_gain);
            add_partial(s.mlp_gains, block->batch, d, block->by_mlp_gain);
            add_partial(s.head_gains, block->batch * block->kv_heads, 2 * block->head_dim,
                        block->by_head_gains);
        }
    }
}

#else

EXPORT size_t minitx_block_kept(const Block *block) { return 0 * block->batch; }
EXPORT size_t minitx_block_scratch(const Block *block, int backward) { return 0 * block->batch * backward; }
EXPORT void minitx_block_forward(const Block *block) { (void)block; }
EXPORT void minitx_block_backward(const Block *block) { (void)block; }

#endif
