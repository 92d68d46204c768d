/* A whole block of the qwen3 architecture in training, forward and backward, in one call each: norm,
   queries, keys and values, attention, projection, norm, SwiGLU MLP, both added to the residual
   stream (model/transformer.py). The residual stream and all sums are in float32; products read
   what `Stored` says, float32 or, as under autocast, bfloat16 (train_block_bfloat16.c).

   A thread takes a few rows through all that lies between two attentions, so that what one layer
   writes is still in the cache when the next reads it. Attention comes between, a head of a sequence
   at a time. The gradients of the matrices are sums over all rows: they come last, a piece of a
   matrix at a time. Nothing depends on who computes it. */
#include "block.h"

/* The attention of one sequence, from its first row on. */
static Job job_of(const Block *block, const Stored *qkv, int64_t sequence) {
    Dropout dropout = dropout_of(block->dropout, mix(block->seed + (uint64_t)sequence) + WEIGHTS);
    return (Job){qkv, block->cosine, block->sine, block->query_gain, block->key_gain, TERMS == 2,
                 block->eps, 1, block->seq, block->heads, block->kv_heads, block->head_dim,
                 dropout};
}

/* c += dropout(a b), as `product`. `out` has room for the rows. */
static void add_product(const Block *block, int site, int64_t first, const Word *a, int64_t words,
                        int64_t rows, const Word *b, float *out, float *c) {
    int64_t d = block->d_model;
    if (block->dropout == 0.0f) {
        product(a, words, 1, rows, b, words, d, c, d, ADD);
        return;
    }
    Dropout dropout = dropout_of(block->dropout, block->seed + (uint64_t)site);
    product(a, words, 1, rows, b, words, d, out, d, SET);
    for (int64_t r = 0; r < rows; r++) {
        drop_row(out + r * d, d, dropout, (uint64_t)(first + r));
        for (int64_t i = 0; i < d; i++) c[r * d + i] += out[r * d + i];
    }
}

/* The way back: the gradient of a b as a product reads it. */
static void narrow_dropped(const Block *block, int site, int64_t first, const float *grad,
                           int64_t rows, Stored *in) {
    int64_t d = block->d_model;
    Dropout dropout = dropout_of(block->dropout, block->seed + (uint64_t)site);
    for (int64_t r = 0; r < rows; r++) {
        float room[d], *row = place_for(in + r * d, room);
        memcpy(row, grad + r * d, (size_t)d * sizeof(float));
        drop_row(row, d, dropout, (uint64_t)(first + r));
        store_placed(row, d, in + r * d);
    }
}

static void before_attention(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                             int64_t chunk) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, first = chunk * CHUNK, rows = rows_of(&n, chunk);
    norm_rows(block->x + first * d, block->attention_gain, block->eps, rows, d,
              kept->attention_scale + first, own->in);
    lap(block, own, NORM);
    product((const Word *)own->in, d / TERMS, 1, rows, s->qkv, d / TERMS, n.qkv,
            kept->qkv + first * n.qkv, n.qkv, SET_STORED);
    lap(block, own, ATTENTION);
}

/* Task `sequence * kv_heads + head of keys`. */
static void attend(const Block *block, const Kept *kept, Own *own, int64_t task) {
    Sizes n = sizes_of(block);
    int64_t sequence = task / block->kv_heads, begin = sequence * block->seq;
    Job job = job_of(block, kept->qkv + begin * n.qkv, sequence);
    attend_forward(&job, task % block->kv_heads, kept->heads + begin * n.heads,
                   kept->log_sums + begin * block->heads, own->attention);
    lap(block, own, ATTENTION);
}

static void after_attention(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                            int64_t chunk) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, ff = block->d_ff, first = chunk * CHUNK, rows = rows_of(&n, chunk);
    float *middle = kept->middle + first * d, *out = block->out + first * d;
    memcpy(middle, block->x + first * d, (size_t)(rows * d) * sizeof(float));
    add_product(block, AFTER_ATTENTION, first, (const Word *)(kept->heads + first * n.heads),
                n.heads / TERMS, rows, s->output, own->out, middle);
    lap(block, own, ATTENTION);
    norm_rows(middle, block->mlp_gain, block->eps, rows, d, kept->mlp_scale + first, own->in);
    lap(block, own, NORM);
    Stored *gate_up = kept->gate_up + first * n.gate_up;
    product((const Word *)own->in, d / TERMS, 1, rows, s->gate_up, d / TERMS, n.gate_up, gate_up,
            n.gate_up, SET_STORED);
    for (int64_t r = 0; r < rows; r++) {
        float gate[ff], up[ff], room[ff], *given = place_for(own->wide_in + r * ff, room);
        swiglu_row(widened(gate_up + r * n.gate_up, ff, gate),
                   widened(gate_up + r * n.gate_up + ff, ff, up), ff, given);
        store_placed(given, ff, own->wide_in + r * ff);
    }
    memcpy(out, middle, (size_t)(rows * d) * sizeof(float));
    add_product(block, AFTER_MLP, first, (const Word *)own->wide_in, ff / TERMS, rows, s->down,
                own->out, out);
    lap(block, own, MLP);
}

/* The way back through SwiGLU: gradients of gate and up in `in`, and what SwiGLU gave, laid out.
   The first row is number `first`. */
static void swiglu_back(const float *grad, const Stored *gate_up, int64_t first, int64_t rows,
                        int64_t ff, Stored *in, Word *hidden) {
    Stored given[TERMS * ff];
    for (int64_t r = 0; r < rows; r++) {
        Stored *to = in + 2 * r * ff, *laid = given + r % TERMS * ff;
        float gate[ff], up[ff], gate_room[ff], up_room[ff], room[ff];
        float *by_gate = place_for(to, gate_room), *by_up = place_for(to + ff, up_room);
        float *given_row = place_for(laid, room);
        swiglu_row_back(grad + r * ff, widened(gate_up + 2 * r * ff, ff, gate),
                        widened(gate_up + (2 * r + 1) * ff, ff, up), ff, by_gate, by_up, given_row);
        store_placed(by_gate, ff, to);
        store_placed(by_up, ff, to + ff);
        store_placed(given_row, ff, laid);
        if (r % TERMS == TERMS - 1) lay_word(given, ff, first + r, ff, PANEL, hidden);
    }
}

/* Back to what attention gave. */
static void back_to_attention(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                              int64_t chunk) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, ff = block->d_ff, first = chunk * CHUNK, rows = rows_of(&n, chunk);
    float *back = block->back + first * d, *mlp_gain = s->mlp_gains + chunk * d;
    memset(mlp_gain, 0, (size_t)d * sizeof(float));
    if (block->back != block->grad)
        memcpy(back, block->grad + first * d, (size_t)(rows * d) * sizeof(float));
    narrow_dropped(block, AFTER_MLP, first, back, rows, own->in);
    lay_rows(own->in, first, rows, d, STRIP, s->laid_by_down);
    product((const Word *)own->in, d / TERMS, 1, rows, s->down, d / TERMS, ff, own->out, ff, SET);
    swiglu_back(own->out, kept->gate_up + first * n.gate_up, first, rows, ff, own->wide_in,
                s->hidden);
    lay_rows(own->wide_in, first, rows, n.gate_up, STRIP, s->laid_by_gate_up);
    product((const Word *)own->wide_in, n.gate_up / TERMS, 1, rows, s->gate_up, n.gate_up / TERMS,
            d, own->out, d, SET);
    lap(block, own, MLP);
    norm_rows_back(own->out, kept->middle + first * d, kept->mlp_scale + first, block->mlp_gain,
                   first, rows, d, mlp_gain, back, s->mlp_in);
    lap(block, own, NORM);
    narrow_dropped(block, AFTER_ATTENTION, first, back, rows, own->in);
    lay_rows(own->in, first, rows, d, STRIP, s->laid_by_output);
    product((const Word *)own->in, d / TERMS, 1, rows, s->output, d / TERMS, n.heads,
            s->by_heads + first * n.heads, n.heads, SET_STORED);
    lay_rows(kept->heads + first * n.heads, first, rows, n.heads, PANEL, s->heads);
    lap(block, own, ATTENTION);
}

static void attend_back(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                        int64_t task) {
    Sizes n = sizes_of(block);
    int64_t sequence = task / block->kv_heads, begin = sequence * block->seq;
    Job job = job_of(block, kept->qkv + begin * n.qkv, sequence);
    attend_backward(&job, task % block->kv_heads, kept->heads + begin * n.heads,
                    kept->log_sums + begin * block->heads, s->by_heads + begin * n.heads,
                    s->by_qkv + begin * n.qkv, s->head_gains + task * 2 * block->head_dim,
                    own->attention);
    lap(block, own, ATTENTION);
}

static void back_from_attention(const Block *block, const Kept *kept, const Scratch *s, Own *own,
                                int64_t chunk) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, first = chunk * CHUNK, rows = rows_of(&n, chunk);
    const Stored *by_qkv = s->by_qkv + first * n.qkv;
    float *attention_gain = s->attention_gains + chunk * d;
    memset(attention_gain, 0, (size_t)d * sizeof(float));
    lay_rows(by_qkv, first, rows, n.qkv, STRIP, s->laid_by_qkv);
    product((const Word *)by_qkv, n.qkv / TERMS, 1, rows, s->qkv, n.qkv / TERMS, d, own->out, d,
            SET);
    lap(block, own, ATTENTION);
    norm_rows_back(own->out, block->x + first * d, kept->attention_scale + first,
                   block->attention_gain, first, rows, d, attention_gain, block->back + first * d,
                   s->attention_in);
    lap(block, own, NORM);
}

/* Panel number i of the matrices one after the other. */
static void pack(const Block *block, const Scratch *s, Own *own, int backward, int64_t i) {
    Sizes n = sizes_of(block);
    struct { const float *from; int64_t rows, columns; Word *to; int part; } matrices[] = {
        {block->qkv, n.qkv, block->d_model, s->qkv, ATTENTION},
        {block->output, block->d_model, n.heads, s->output, ATTENTION},
        {block->gate_up, n.gate_up, block->d_model, s->gate_up, MLP},
        {block->down, block->d_model, block->d_ff, s->down, MLP}};
    for (int m = 0; m < 4; m++) {
        int64_t panels = parts(backward ? matrices[m].columns : matrices[m].rows, PANEL);
        if (i < panels) {
            if (backward)
                pack_rows(matrices[m].from, matrices[m].rows, matrices[m].columns, i,
                          matrices[m].to);
            else
                pack_columns(matrices[m].from, matrices[m].rows, matrices[m].columns, i,
                             matrices[m].to);
            lap(block, own, matrices[m].part);
            return;
        }
        i -= panels;
    }
}

static int64_t panels_of(const Block *block, int backward) {
    Sizes n = sizes_of(block);
    int64_t d = parts(block->d_model, PANEL);
    return backward ? 2 * d + parts(n.heads, PANEL) + parts(block->d_ff, PANEL)
                    : 2 * d + parts(n.qkv, PANEL) + parts(n.gate_up, PANEL);
}

/* Pieces that the gradients fall into; the last is all that are no matrices. */
static int64_t pieces_of(const Block *block) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model;
    return gradient_parts(n.gate_up, d) + gradient_parts(n.qkv, d) +
           gradient_parts(d, block->d_ff) + gradient_parts(d, n.heads) + 1;
}

static void gradient(const Block *block, const Scratch *s, Own *own, int64_t i) {
    Sizes n = sizes_of(block);
    int64_t d = block->d_model, words = parts(n.rows, TERMS);
    struct { const Word *grad, *in; int64_t rows, columns; float *to; int part; } matrices[] = {
        {s->laid_by_gate_up, s->mlp_in, n.gate_up, d, block->by_gate_up, MLP},
        {s->laid_by_qkv, s->attention_in, n.qkv, d, block->by_qkv, ATTENTION},
        {s->laid_by_down, s->hidden, d, block->d_ff, block->by_down, MLP},
        {s->laid_by_output, s->heads, d, n.heads, block->by_output, ATTENTION}};
    for (int m = 0; m < 4; m++) {
        int64_t pieces = gradient_parts(matrices[m].rows, matrices[m].columns);
        if (i < pieces) {
            matrix_gradient(matrices[m].grad, matrices[m].in, words, matrices[m].rows,
                            matrices[m].columns, i, matrices[m].to);
            lap(block, own, matrices[m].part);
            return;
        }
        i -= pieces;
    }
    add_partial(s->attention_gains, n.chunks, d, block->by_attention_gain);
    add_partial(s->mlp_gains, n.chunks, d, block->by_mlp_gain);
    add_partial(s->head_gains, block->batch * block->kv_heads, 2 * block->head_dim,
                block->by_head_gains);
    lap(block, own, NORM);
}

/* Bytes that forward keeps, and that a call needs while it runs. */
EXPORT size_t NAMED(block_kept)(const Block *block) {
    size_t used;
    kept_in(block, (Memory){0, 0}, &used);
    return used;
}

EXPORT size_t NAMED(block_scratch)(const Block *block, int backward) {
    size_t used;
    scratch_in(block, backward, (Memory){0, 0}, &used);
    return used;
}

/* Blocks of the same sizes, one after the other. */
EXPORT void NAMED(blocks_forward)(const Block *blocks, int64_t count) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(blocks->threads)
    for (const Block *block = blocks; block < blocks + count; block++) {
        size_t used;
        Kept kept = kept_in(block, (Memory){block->kept, 0}, &used);
        Scratch s = scratch_in(block, 0, (Memory){block->scratch, 0}, &used);
        Thread thread = this_thread(&meeting);
        Own own = own_in(block, (Memory){s.own + (size_t)thread.number * s.own_size, 0}, &used);
        int64_t chunks = sizes_of(block).chunks, heads = block->batch * block->kv_heads;
        FOR_ALL(thread, panels_of(block, 0), pack(block, &s, &own, 0, i));
        FOR_ALL(thread, chunks, before_attention(block, &kept, &s, &own, i));
        FOR_ALL(thread, heads, attend(block, &kept, &own, i));
        FOR_ALL(thread, chunks, after_attention(block, &kept, &s, &own, i));
        add_laps(block, &own);
    }
}

/* The last of them first. `back` of a block may be its `grad`. */
EXPORT void NAMED(blocks_backward)(const Block *blocks, int64_t count) {
    Meeting meeting = {0};
#pragma omp parallel num_threads(blocks->threads)
    for (const Block *block = blocks + count - 1; block >= blocks; block--) {
        size_t used;
        Sizes n = sizes_of(block);
        Kept kept = kept_in(block, (Memory){block->kept, 0}, &used);
        Scratch s = scratch_in(block, 1, (Memory){block->scratch, 0}, &used);
        Thread thread = this_thread(&meeting);
        Own own = own_in(block, (Memory){s.own + (size_t)thread.number * s.own_size, 0}, &used);
        int64_t heads = block->batch * block->kv_heads;
        FOR_ALL(thread, panels_of(block, 1), pack(block, &s, &own, 1, i));
        FOR_ALL(thread, n.chunks, back_to_attention(block, &kept, &s, &own, i));
        FOR_ALL(thread, heads, attend_back(block, &kept, &s, &own, i));
        FOR_ALL(thread, n.chunks, back_from_attention(block, &kept, &s, &own, i));
        FOR_ALL(thread, pieces_of(block), gradient(block, &s, &own, i));
        add_laps(block, &own);
    }
}
