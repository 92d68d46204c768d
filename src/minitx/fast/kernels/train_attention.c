/* Causal self-attention for training, forward and backward, from the projection of queries, keys
   and values as it is: norm and rotation of each head, scores, softmax, weighted sum. The plain
   formulas are `eager_attention`, `RMSNorm` and `rotate` in model/transformer.py.

   Dao et al. 2022 (FlashAttention, sections 3.1 and B.2): of the weights only the logarithm of each
   row's sum is kept, and the way back computes them again, a block of queries at a time, so that
   they never leave the cache. One task is one head of keys of one sequence with the heads of
   queries that share it; tasks share nothing, so any number of threads gives the same numbers. */
#include "attention.h"
#include "layers.h"
#include "rows.h"
#include "thread.h"
#include "turn.h"

#define PANEL (2 * LANES) /* columns that a tile computes */
#define TILE 4            /* rows that it computes */
#define BLOCK 64          /* queries whose weights are in memory at once */

static inline int64_t padded(int64_t n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* c = a b, or c += a b, for TILE rows and PANEL columns; a's element (r, k) is at
   a[r * by_row + k * by_column], so that it may be read as its transpose. */
static inline void tile(float *c, int64_t c_stride, const float *a, int64_t by_row,
                        int64_t by_column, const float *b, int64_t b_stride, int64_t depth,
                        int add) {
    Vector sum[TILE][2] = {0};
    if (add)
        for (int r = 0; r < TILE; r++)
            for (int v = 0; v < 2; v++) sum[r][v] = *(const Vector *)(c + r * c_stride + v * LANES);
    for (int64_t k = 0; k < depth; k++) {
        Vector left = *(const Vector *)b, right = *(const Vector *)(b + LANES);
        for (int r = 0; r < TILE; r++) {
            float x = a[r * by_row];
            sum[r][0] += x * left;
            sum[r][1] += x * right;
        }
        a += by_column;
        b += b_stride;
    }
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < 2; v++) *(Vector *)(c + r * c_stride + v * LANES) = sum[r][v];
}

/* A strip of TILE rows, `width` columns. */
static inline void strip(float *c, int64_t c_stride, const float *a, int64_t by_row,
                         int64_t by_column, const float *b, int64_t b_stride, int64_t depth,
                         int64_t width, int add) {
    for (int64_t j = 0; j < width; j += PANEL)
        tile(c + j, c_stride, a, by_row, by_column, b + j, b_stride, depth, add);
}

/* Where in qkv the vector of a head begins. */
static inline int64_t place(const Job *job, int64_t sequence, int64_t position, int64_t head) {
    int64_t heads = job->heads + 2 * job->kv_heads;
    return ((sequence * job->seq + position) * heads + head) * job->head_dim;
}

/* Calls `kernel` with the number of `d` written out where it is a usual one: its loops then become
   a few vectors. */
#define FOR_HEAD_DIM(d, kernel, ...)             \
    do {                                         \
        if ((d) == 32) kernel(__VA_ARGS__, 32);  \
        else if ((d) == 64) kernel(__VA_ARGS__, 64);   \
        else if ((d) == 128) kernel(__VA_ARGS__, 128); \
        else kernel(__VA_ARGS__, d);             \
    } while (0)

static inline __attribute__((always_inline)) void load_rows(const Job *job, int64_t sequence,
                                                            int64_t head, int64_t first,
                                                            int64_t rows,
                                                            const float *gain, float *to,
                                                            int64_t d) {
    int64_t middle = d / 2, width = padded(d);
    float room[3 * d], normed[d];
    for (int64_t r = 0; r < rows; r++) {
        float *restrict row = to + r * width;
        if (first + r >= job->seq) {
            for (int64_t i = 0; i < width; i++) row[i] = 0.0f;
            continue;
        }
        for (int64_t i = d; i < width; i++) row[i] = 0.0f;
        int64_t at = place(job, sequence, first + r, head), angles = (first + r) * d;
        if (!gain) {
            read_row(job->qkv, at, job->half, d, row);
            continue;
        }
        const float *x = row_at(job->qkv, at, job->half, d, room);
        const float *cosine = row_at(job->cosine, angles, job->half, d, room + d);
        const float *sine = row_at(job->sine, angles, job->half, d, room + 2 * d);
        float scale = unit_scale(x, d, job->eps);
        for (int64_t i = 0; i < d; i++) normed[i] = x[i] * (scale * gain[i]);
        for (int64_t i = 0; i < middle; i++) {
            row[i] = normed[i] * cosine[i] - normed[i + middle] * sine[i];
            row[i + middle] = normed[i + middle] * cosine[i + middle] + normed[i] * sine[i + middle];
        }
    }
}

/* `rows` vectors of a head from `first` on, normed and turned if gain is not null; rows that there
   are not, and columns up to the padded width, are 0. */
static void load_head(const Job *job, int64_t sequence, int64_t head, int64_t first, int64_t rows,
                      const float *gain, float *to) {
    FOR_HEAD_DIM(job->head_dim, load_rows, job, sequence, head, first, rows, gain, to);
}

static inline __attribute__((always_inline)) void store_rows(const Job *job, int64_t sequence,
                                                             int64_t head, int64_t first,
                                                             int64_t rows,
                                                             const float *gain, const float *from,
                                                             void *back, float *by_gain,
                                                             int64_t d) {
    int64_t middle = d / 2, width = padded(d);
    float room[3 * d], unit[d], rounded[d];
    for (int64_t r = 0; r < rows && first + r < job->seq; r++) {
        const float *row = from + r * width;
        int64_t at = place(job, sequence, first + r, head);
        if (!gain) {
            write_row(back, at, job->half, d, row);
            continue;
        }
        float *restrict turned = job->half ? rounded : (float *)back + at;
        const float *x = row_at(job->qkv, at, job->half, d, room);
        const float *cosine = row_at(job->cosine, (first + r) * d, job->half, d, room + d);
        const float *sine = row_at(job->sine, (first + r) * d, job->half, d, room + 2 * d);
        /* The gradient of a turn is the turn back. */
        for (int64_t i = 0; i < middle; i++) {
            turned[i] = row[i] * cosine[i] + row[i + middle] * sine[i + middle];
            turned[i + middle] = row[i + middle] * cosine[i + middle] - row[i] * sine[i];
        }
        float scale = unit_scale(x, d, job->eps);
        for (int64_t i = 0; i < d; i++) unit[i] = x[i] * scale;
        norm_row_back(turned, unit, gain, scale, d, by_gain);
        if (job->half) write_row(back, at, job->half, d, turned);
    }
}

/* The way back of load_head: the gradient of what it gave, to the gradient of qkv there. */
static void store_head(const Job *job, int64_t sequence, int64_t head, int64_t first, int64_t rows,
                       const float *gain, const float *from, void *back, float *by_gain) {
    FOR_HEAD_DIM(job->head_dim, store_rows, job, sequence, head, first, rows, gain, from, back,
                 by_gain);
}

/* Scores of a block's queries against all keys that one of each TILE may see. */
static void score(const float *queries, const float *keys_across, int64_t first, int64_t rows,
                  int64_t keys, int64_t width, float *scores) {
    for (int64_t r = 0; r < rows; r += TILE)
        strip(scores + r * keys, keys, queries + r * width, width, 1, keys_across, keys, width,
              padded(first + r + TILE), 0);
}

/* exp(scores * temper - shift) up to the own position, and 0 beyond, up to the padded end. Gives
   the sum of the row. The own position is in the last panel. */
static inline float weigh(float *row, int own, int end, float temper, float shift) {
    float sum = 0.0f;
    for (int j = 0; j < end - PANEL; j++) {
        row[j] = fast_exp(row[j] * temper - shift);
        sum += row[j];
    }
    row += end - PANEL, own -= end - PANEL;
    for (int j = 0; j < PANEL; j++) {
        float weight = fast_exp(row[j] * temper - shift);
        row[j] = j <= own ? weight : 0.0f;
        sum += row[j];
    }
    return sum;
}

/* The largest up to the own position, which is in the last panel. */
static inline float largest(const float *row, int own, int end) {
    float best[LANES];
    for (int l = 0; l < LANES; l++) best[l] = -INFINITY;
    for (int j = 0; j < end - PANEL; j += LANES)
        for (int l = 0; l < LANES; l++) best[l] = row[j + l] > best[l] ? row[j + l] : best[l];
    for (int j = end - PANEL; j < end; j += LANES)
        for (int l = 0; l < LANES; l++) {
            float x = j + l <= own ? row[j + l] : -INFINITY;
            best[l] = x > best[l] ? x : best[l];
        }
    for (int half = LANES / 2; half > 0; half /= 2)
        for (int l = 0; l < half; l++) best[l] = best[l + half] > best[l] ? best[l + half] : best[l];
    return best[0];
}

int64_t attention_scratch(int64_t seq, int64_t head_dim) {
    int64_t keys = padded(seq), width = padded(head_dim);
    return 6 * keys * width + 4 * BLOCK * width + 2 * BLOCK * keys;
}

void attend_forward(const Job *job, int64_t task, void *out, float *log_sums, float *scratch) {
    int64_t seq = job->seq, heads = job->heads, head_dim = job->head_dim;
    int64_t keys = padded(seq), width = padded(head_dim), group = heads / job->kv_heads;
    int64_t sequence = task / job->kv_heads, kv = task % job->kv_heads;
    float temper = 1.0f / sqrtf((float)head_dim);
    float *k = scratch, *k_across = k + keys * width, *v = k_across + keys * width;
    float *q = v + keys * width, *o = q + BLOCK * width, *weights = o + BLOCK * width;
    load_head(job, sequence, heads + kv, 0, keys, job->key_gain, k);
    turn(k, width, keys, width, k_across, keys);
    load_head(job, sequence, heads + job->kv_heads + kv, 0, keys, 0, v);
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int64_t first = 0; first < seq; first += BLOCK) {
            int64_t rows = keys - first < BLOCK ? keys - first : BLOCK;
            load_head(job, sequence, head, first, rows, job->query_gain, q);
            score(q, k_across, first, rows, keys, width, weights);
            for (int64_t r = 0; r < rows; r += TILE) {
                float sums[TILE];
                for (int t = 0; t < TILE; t++) {
                    int64_t own = first + r + t;
                    float *row = weights + (r + t) * keys;
                    int end = (int)padded(first + r + TILE);
                    float most = largest(row, (int)own, end) * temper;
                    sums[t] = weigh(row, (int)own, end, temper, most);
                    int64_t number = (sequence * heads + head) * seq + own;
                    if (own < seq) log_sums[number] = most + logf(sums[t]);
                    drop_row(row, end, job->dropout, (uint64_t)number);
                }
                strip(o, width, weights + r * keys, keys, 1, v, width, first + r + TILE, width, 0);
                for (int t = 0; t < TILE && first + r + t < seq; t++) {
                    float *row = o + t * width, share = 1.0f / sums[t];
                    for (int64_t i = 0; i < head_dim; i++) row[i] *= share;
                    int64_t at = ((sequence * seq + first + r + t) * heads + head) * head_dim;
                    write_row(out, at, job->half, head_dim, row);
                }
            }
        }
}

/* Rows `first` to `first + rows` of one head of (batch, seq, heads, head_dim), padded with 0. */
static void load_plain(const Job *job, const void *from, int64_t sequence, int64_t head,
                       int64_t first, int64_t rows, float *to) {
    int64_t d = job->head_dim, width = padded(d);
    for (int64_t r = 0; r < rows; r++) {
        float *row = to + r * width;
        for (int64_t i = 0; i < width; i++) row[i] = 0.0f;
        if (first + r < job->seq)
            read_row(from, ((sequence * job->seq + first + r) * job->heads + head) * d, job->half,
                     d, row);
    }
}

void attend_backward(const Job *job, int64_t task, const void *out, const float *log_sums,
                     const void *grad, void *back, float *by_gains, float *scratch) {
    int64_t seq = job->seq, heads = job->heads, head_dim = job->head_dim;
    int64_t keys = padded(seq), width = padded(head_dim), group = heads / job->kv_heads;
    int64_t sequence = task / job->kv_heads, kv = task % job->kv_heads;
    float temper = 1.0f / sqrtf((float)head_dim);
    float *k = scratch, *k_across = k + keys * width, *v = k_across + keys * width;
    float *v_across = v + keys * width, *by_k = v_across + keys * width;
    float *by_v = by_k + keys * width, *q = by_v + keys * width, *o = q + BLOCK * width;
    float *g = o + BLOCK * width, *by_q = g + BLOCK * width;
    float *weights = by_q + BLOCK * width, *by_weights = weights + BLOCK * keys;
    for (int64_t i = 0; i < 2 * head_dim; i++) by_gains[i] = 0.0f;
    load_head(job, sequence, heads + kv, 0, keys, job->key_gain, k);
    turn(k, width, keys, width, k_across, keys);
    load_head(job, sequence, heads + job->kv_heads + kv, 0, keys, 0, v);
    turn(v, width, keys, width, v_across, keys);
    memset(by_k, 0, (size_t)(2 * keys * width) * sizeof(float));
    for (int64_t head = kv * group; head < (kv + 1) * group; head++)
        for (int64_t first = 0; first < seq; first += BLOCK) {
            int64_t rows = keys - first < BLOCK ? keys - first : BLOCK;
            load_head(job, sequence, head, first, rows, job->query_gain, q);
            load_plain(job, out, sequence, head, first, rows, o);
            load_plain(job, grad, sequence, head, first, rows, g);
            score(q, k_across, first, rows, keys, width, weights);
            score(g, v_across, first, rows, keys, width, by_weights);
            for (int64_t r = 0; r < rows; r++) {
                int64_t own = first + r, end = padded(first + r / TILE * TILE + TILE);
                float *row = weights + r * keys, *by_row = by_weights + r * keys;
                if (own >= seq) { /* no query: nothing of it may count */
                    memset(row, 0, (size_t)end * sizeof(float));
                    memset(by_row, 0, (size_t)end * sizeof(float));
                    continue;
                }
                int64_t number = (sequence * heads + head) * seq + own;
                weigh(row, (int)own, (int)end, temper, log_sums[number]);
                float mean = 0.0f;
                for (int64_t i = 0; i < width; i++) mean += g[r * width + i] * o[r * width + i];
                if (job->dropout.dropped) {
                    uint32_t key = row_key(job->dropout, (uint64_t)number);
                    for (int j = 0; j < end; j++) {
                        float factor = keep_factor(job->dropout, key, (uint32_t)j);
                        by_row[j] = row[j] * (by_row[j] * factor - mean) * temper;
                        row[j] *= factor;
                    }
                } else {
                    for (int64_t j = 0; j < end; j++)
                        by_row[j] = row[j] * (by_row[j] - mean) * temper;
                }
            }
            for (int64_t r = 0; r < rows; r += TILE)
                strip(by_q + r * width, width, by_weights + r * keys, keys, 1, k, width,
                      first + r + TILE, width, 0);
            store_head(job, sequence, head, first, rows, job->query_gain, by_q, back, by_gains);
            /* A key is seen by the queries from its own position on. */
            for (int64_t j = 0; j < first + rows; j += TILE) {
                int64_t from = j > first ? j - first : 0;
                strip(by_k + j * width, width, by_weights + from * keys + j, 1, keys,
                      q + from * width, width, rows - from, width, 1);
                strip(by_v + j * width, width, weights + from * keys + j, 1, keys,
                      g + from * width, width, rows - from, width, 1);
            }
        }
    store_head(job, sequence, heads + kv, 0, seq, job->key_gain, by_k, back, by_gains + head_dim);
    store_head(job, sequence, heads + job->kv_heads + kv, 0, seq, 0, by_v, back, 0);
}

EXPORT int64_t minitx_attention_scratch(int64_t seq, int64_t head_dim) {
    return attention_scratch(seq, head_dim);
}

/* All tasks. `partial` has room for batch * kv_heads times (2, head_dim). */
EXPORT void minitx_attention_forward(const void *qkv, int half, const void *cosine,
                                     const void *sine, const float *query_gain,
                                     const float *key_gain, float eps, int64_t batch, int64_t seq,
                                     int64_t heads, int64_t kv_heads, int64_t head_dim, void *out,
                                     float *log_sums, float *scratch, int threads) {
    Job job = {qkv, cosine, sine, query_gain, key_gain, half, eps,
               batch, seq, heads, kv_heads, head_dim, {0, 1.0f, 0}};
    int64_t own = attention_scratch(seq, head_dim);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < batch * kv_heads; task++)
        attend_forward(&job, task, out, log_sums, scratch + THREAD * own);
}

EXPORT void minitx_attention_backward(const void *qkv, int half, const void *cosine,
                                      const void *sine, const float *query_gain,
                                      const float *key_gain, float eps, int64_t batch, int64_t seq,
                                      int64_t heads, int64_t kv_heads, int64_t head_dim,
                                      const void *out, const float *log_sums, const void *grad,
                                      void *back, float *by_gains, float *partial, float *scratch,
                                      int threads) {
    Job job = {qkv, cosine, sine, query_gain, key_gain, half, eps,
               batch, seq, heads, kv_heads, head_dim, {0, 1.0f, 0}};
    int64_t own = attention_scratch(seq, head_dim);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t task = 0; task < batch * kv_heads; task++)
        attend_backward(&job, task, out, log_sums, grad, back, partial + task * 2 * head_dim,
                        scratch + THREAD * own);
    add_partial(partial, batch * kv_heads, 2 * head_dim, by_gains);
}
