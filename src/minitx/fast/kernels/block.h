/* A whole block of the qwen3 architecture in training: what it is given, what forward keeps for
   backward, and the memory that a call needs while it runs; see train_block.c. */
#pragma once

#include <time.h>

#include "attention.h"
#include "fused.h"
#include "team.h"

/* As `_Block` in fast/whole_blocks.py. */
typedef struct {
    int64_t batch, seq, heads, kv_heads, head_dim, d_model, d_ff;
    float eps, dropout; /* of the weights of attention, and of what both layers add */
    uint64_t seed;      /* of the dropout */
    int threads;
    const float *x; /* (batch, seq, d_model) */
    const float *attention_gain, *query_gain, *key_gain, *mlp_gain;
    const float *qkv, *output, *gate_up, *down; /* as in nn.Linear: (to, from) */
    const Stored *cosine, *sine;                /* (seq, head_dim) */
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


#ifdef _WIN32
int QueryPerformanceCounter(int64_t *), QueryPerformanceFrequency(int64_t *);
#endif

static inline double now(void) {
#ifdef _WIN32
    int64_t ticks, rate;
    QueryPerformanceCounter(&ticks), QueryPerformanceFrequency(&rate);
    return (double)ticks / (double)rate;
#else
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
#endif
}

typedef struct {
    int64_t rows, chunks, heads, qkv, gate_up; /* of all sequences; numbers in a row */
} Sizes;

static inline Sizes sizes_of(const Block *block) {
    int64_t heads = block->heads * block->head_dim, rows = block->batch * block->seq;
    return (Sizes){rows, parts(rows, CHUNK), heads,
                   heads + 2 * block->kv_heads * block->head_dim, 2 * block->d_ff};
}

static inline int64_t rows_of(const Sizes *n, int64_t chunk) {
    int64_t left = n->rows - chunk * CHUNK;
    return left < CHUNK ? left : CHUNK;
}

/* What forward keeps for backward; what the norms and SwiGLU gave is computed again. */
typedef struct {
    float *middle;                      /* the residual stream between attention and MLP */
    float *attention_scale, *mlp_scale; /* of each row in the norms */
    float *log_sums;                    /* of the attention's weights */
    Stored *qkv, *heads, *gate_up;
} Kept;

static inline Kept kept_in(const Block *block, Memory memory, size_t *used) {
    Sizes n = sizes_of(block);
    Kept kept;
    kept.middle = reserve(&memory, n.rows * block->d_model, sizeof(float));
    kept.attention_scale = reserve(&memory, n.rows, sizeof(float));
    kept.mlp_scale = reserve(&memory, n.rows, sizeof(float));
    kept.log_sums = reserve(&memory, n.rows * block->heads, sizeof(float));
    kept.qkv = reserve(&memory, n.rows * n.qkv, sizeof(Stored));
    kept.heads = reserve(&memory, whole(n.rows, TILE) * n.heads, sizeof(Stored));
    kept.gate_up = reserve(&memory, n.rows * n.gate_up, sizeof(Stored));
    *used = memory.used;
    return kept;
}

/* A thread's own rows, CHUNK of them. */
typedef struct {
    Stored *in, *wide_in; /* that a product reads: as wide as d_model, as gate and up */
    float *out;           /* that it writes */
    float *attention;
    double since, seconds[PARTS];
} Own;

static inline Own own_in(const Block *block, Memory memory, size_t *used) {
    Own own;
    own.in = reserve(&memory, whole(CHUNK, TILE) * block->d_model, sizeof(Stored));
    own.wide_in = reserve(&memory, whole(CHUNK, TILE) * 2 * block->d_ff, sizeof(Stored));
    own.out = reserve(&memory, CHUNK * most(block->d_ff, block->d_model), sizeof(float));
    own.attention =
        reserve(&memory, attention_scratch(block->seq, block->head_dim), sizeof(float));
    *used = memory.used;
    memset(own.seconds, 0, sizeof own.seconds);
    own.since = block->seconds ? now() : 0.0;
    return own;
}

/* What a call needs only while it runs: the matrices in panels; for backward the gradients of what
   attention gave and took, laid out what the matrices' gradients are made of (the gradient of what
   each product gave, and what it read), and parts of the sums over rows; and each thread's own. */
typedef struct {
    Word *qkv, *output, *gate_up, *down;
    Stored *by_heads, *by_qkv;
    Word *laid_by_qkv, *laid_by_output, *laid_by_gate_up, *laid_by_down;
    Word *attention_in, *heads, *mlp_in, *hidden;
    float *attention_gains, *mlp_gains, *head_gains; /* one part for each chunk, or head */
    char *own;
    size_t own_size;
} Scratch;

/* For the panels of a matrix in either direction. */
static inline Word *room_for_panels(Memory *memory, int64_t rows, int64_t columns) {
    int64_t forward = whole(rows, PANEL) * parts(columns, TERMS);
    return reserve(memory, most(forward, whole(columns, PANEL) * parts(rows, TERMS)), sizeof(Word));
}

static inline Scratch scratch_in(const Block *block, int backward, Memory memory, size_t *used) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, ff = block->d_ff;
    Scratch s = {0};
    s.qkv = room_for_panels(&memory, n.qkv, d);
    s.output = room_for_panels(&memory, d, n.heads);
    s.gate_up = room_for_panels(&memory, n.gate_up, d);
    s.down = room_for_panels(&memory, d, ff);
    if (backward) {
#define LAID(width, across) reserve(&memory, laid_size(n.rows, width, across), sizeof(Word))
        s.by_heads = reserve(&memory, n.rows * n.heads, sizeof(Stored));
        s.by_qkv = reserve(&memory, whole(n.rows, TILE) * n.qkv, sizeof(Stored));
        s.laid_by_qkv = LAID(n.qkv, STRIP);
        s.laid_by_output = LAID(d, STRIP);
        s.laid_by_gate_up = LAID(n.gate_up, STRIP);
        s.laid_by_down = LAID(d, STRIP);
        s.attention_in = LAID(d, PANEL);
        s.heads = LAID(n.heads, PANEL);
        s.mlp_in = LAID(d, PANEL);
        s.hidden = LAID(ff, PANEL);
#undef LAID
        s.attention_gains = reserve(&memory, n.chunks * d, sizeof(float));
        s.mlp_gains = reserve(&memory, n.chunks * d, sizeof(float));
        s.head_gains =
            reserve(&memory, block->batch * block->kv_heads * 2 * block->head_dim, sizeof(float));
    }
    size_t own_size;
    own_in(block, (Memory){0, 0}, &own_size);
    s.own_size = own_size;
    s.own = reserve(&memory, block->threads * (int64_t)own_size, 1);
    *used = memory.used;
    return s;
}

/* The time since the last lap was for this part. */
static inline void lap(const Block *block, Own *own, int part) {
    if (!block->seconds) return;
    double time = now();
    own->seconds[part] += time - own->since;
    own->since = time;
}

static inline void add_laps(const Block *block, const Own *own) {
    if (!block->seconds) return;
#pragma omp critical
    for (int part = 0; part < PARTS; part++)
        block->seconds[part] += own->seconds[part] / block->threads;
}
