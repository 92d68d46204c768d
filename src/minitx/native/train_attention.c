/* Causal self-attention for training, forward and backward, from the projection of queries, keys
   and values as it is: norm and rotation of each head, scores, softmax, weighted sum. The plain
   formulas are `explicit_attention` and `_norm_and_rotate` in model/attention.py.

   Dao et al. 2022 (FlashAttention, sections 3.1 and B.2): of the weights only the logarithm of each
   row's sum is kept, and the way back computes them again, a block of queries at a time, so that
   they never leave the cache. One task is one head of keys of one sequence with the heads of
   queries that share it; tasks share nothing, so any number of threads gives the same numbers. */
#include <math.h>

#include "rows.h"

#ifdef __AVX512F__
#define LANES 16
#else
#define LANES 8
#endif
#define PANEL (2 * LANES) /* columns that a tile computes */
#define TILE 4            /* rows that it computes */
#define BLOCK 64          /* queries whose weights are in memory at once */

typedef float lanes __attribute__((vector_size(LANES * 4), aligned(4), may_alias));

static inline long padded(long n) { return (n + PANEL - 1) / PANEL * PANEL; }

/* c = a b, or c += a b, for TILE rows and PANEL columns; a's element (r, k) is at
   a[r * by_row + k * by_column], so that it may be read as its transpose. */
static inline void tile(float *c, long c_stride, const float *a, long by_row, long by_column,
                        const float *b, long b_stride, long depth, int add) {
    lanes sum[TILE][2] = {0};
    if (add)
        for (int r = 0; r < TILE; r++)
            for (int v = 0; v < 2; v++) sum[r][v] = *(const lanes *)(c + r * c_stride + v * LANES);
    for (long k = 0; k < depth; k++) {
        lanes left = *(const lanes *)b, right = *(const lanes *)(b + LANES);
        for (int r = 0; r < TILE; r++) {
            float x = a[r * by_row];
            sum[r][0] += x * left;
            sum[r][1] += x * right;
        }
        a += by_column;
        b += b_stride;
    }
    for (int r = 0; r < TILE; r++)
        for (int v = 0; v < 2; v++) *(lanes *)(c + r * c_stride + v * LANES) = sum[r][v];
}

/* A strip of TILE rows, `width` columns. */
static inline void strip(float *c, long c_stride, const float *a, long by_row, long by_column,
                         const float *b, long b_stride, long depth, long width, int add) {
    for (long j = 0; j < width; j += PANEL)
        tile(c + j, c_stride, a, by_row, by_column, b + j, b_stride, depth, add);
}

/* Everything that stays the same in one call. */
typedef struct {
    const void *qkv; /* (batch, seq, heads + 2 * kv_heads, head_dim) */
    const void *cosine, *sine; /* (seq, head_dim); null: no norm and no rotation */
    const float *query_gain, *key_gain;
    int half; /* all of the above but the gains are bfloat16 */
    float eps;
    long batch, seq, heads, kv_heads, head_dim;
} Job;

/* Where in qkv the vector of a head begins. */
static inline long place(const Job *job, long sequence, long position, long head) {
    long heads = job->heads + 2 * job->kv_heads;
    return ((sequence * job->seq + position) * heads + head) * job->head_dim;
}

static inline float unit_scale(const float *x, long n, float eps) {
    float square = 0.0f;
    for (long i = 0; i < n; i++) square += x[i] * x[i];
    return 1.0f / sqrtf(square / (float)n + eps);
}

/* `count` vectors of a head from `first` on, normed and turned if gain is not null; then rows and
   columns of 0 up to `rows` and the padded width. */
static void load_head(const Job *job, long sequence, long head, long first, long rows,
                      const float *gain, float *to) {
    long d = job->head_dim, middle = d / 2, width = padded(d);
    float x[d], cosine[d], sine[d];
    for (long r = 0; r < rows; r++) {
        float *row = to + r * width;
        for (long i = 0; i < width; i++) row[i] = 0.0f;
        if (first + r >= job->seq) continue;
        read_row(job->qkv, place(job, sequence, first + r, head), job->half, d, x);
        if (!gain) {
            for (long i = 0; i < d; i++) row[i] = x[i];
            continue;
        }
        read_row(job->cosine, (first + r) * d, job->half, d, cosine);
        read_row(job->sine, (first + r) * d, job->half, d, sine);
        float scale = unit_scale(x, d, job->eps);
        for (long i = 0; i < d; i++) x[i] *= scale * gain[i];
        for (long i = 0; i < middle; i++) {
            row[i] = x[i] * cosine[i] - x[i + middle] * sine[i];
            row[i + middle] = x[i + middle] * cosine[i + middle] + x[i] * sine[i + middle];
        }
    }
}

/* The way back of load_head: the gradient of what it gave, to the gradient of qkv there. */
static void store_head(const Job *job, long sequence, long head, long first, long rows,
                       const float *gain, const float *from, void *back, float *by_gain) {
    long d = job->head_dim, middle = d / 2, width = padded(d);
    float x[d], cosine[d], sine[d], turned[d];
    for (long r = 0; r < rows && first + r < job->seq; r++) {
        const float *row = from + r * width;
        long at = place(job, sequence, first + r, head);
        if (!gain) {
            write_row(back, at, job->half, d, row);
            continue;
        }
        read_row(job->qkv, at, job->half, d, x);
        read_row(job->cosine, (first + r) * d, job->half, d, cosine);
        read_row(job->sine, (first + r) * d, job->half, d, sine);
        /* The gradient of a turn is the turn back. */
        for (long i = 0; i < middle; i++) {
            turned[i] = row[i] * cosine[i] + row[i + middle] * sine[i + middle];
            turned[i + middle] = row[i + middle] * cosine[i + middle] - row[i] * sine[i];
        }
        float scale = unit_scale(x, d, job->eps), along = 0.0f;
        for (long i = 0; i < d; i++) {
            x[i] *= scale;
            by_gain[i] += turned[i] * x[i];
            turned[i] *= gain[i];
            along += turned[i] * x[i];
        }
        along /= (float)d;
        for (long i = 0; i < d; i++) turned[i] = (turned[i] - x[i] * along) * scale;
        write_row(back, at, job->half, d, turned);
    }
}

static void transpose(const float *from, long rows, long columns, float *to) {
    for (long r = 0; r < rows; r++)
        for (long c = 0; c < columns; c++) to[c * rows + r] = from[r * columns + c];
}

/* Scores of a block's queries against all keys that one of each TILE may see. */
static void score(const float *queries, const float *keys_across, long first, long rows, long keys,
                  long width, float *scores) {
    for (long r = 0; r < rows; r += TILE)
        strip(scores + r * keys, keys, queries + r * width, width, 1, keys_across, keys, width,
              padded(first + r + TILE), 0);
}

/* exp(scores * temper - shift) up to the own position, and 0 beyond, up to the padded end. Gives
   the sum of the row. */
static inline float weigh(float *row, int own, int end, float temper, float shift) {
    float sum = 0.0f;
    for (int j = 0; j < end; j++) row[j] = fast_exp(row[j] * temper - shift);
    for (int j = own + 1; j < end; j++) row[j] = 0.0f;
    for (int j = 0; j < end; j++) sum += row[j];
    return sum;
}

static inline float largest(const float *row, long n) {
    float best[LANES];
    for (int l = 0; l < LANES; l++) best[l] = -INFINITY;
    long whole = n / LANES * LANES;
    for (long j = 0; j < whole; j += LANES)
        for (int l = 0; l < LANES; l++) best[l] = row[j + l] > best[l] ? row[j + l] : best[l];
    for (long j = whole; j < n; j++) best[0] = row[j] > best[0] ? row[j] : best[0];
    for (int l = 1; l < LANES; l++) best[0] = best[l] > best[0] ? best[l] : best[0];
    return best[0];
}

/* Floats of scratch that one thread needs. */
EXPORT long minitx_attention_scratch(long seq, long head_dim) {
    long keys = padded(seq), width = padded(head_dim);
    return 6 * keys * width + 4 * BLOCK * width + 2 * BLOCK * keys;
}

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif

/* out: (batch, seq, heads * head_dim); log_sums: (batch, heads, seq). */
EXPORT void minitx_attention_forward(const void *qkv, int half, const void *cosine,
                                     const void *sine, const float *query_gain,
                                     const float *key_gain, float eps, long batch, long seq,
                                     long heads, long kv_heads, long head_dim, void *out,
                                     float *log_sums, float *scratch, int threads) {
    Job job = {qkv, cosine, sine, query_gain, key_gain, half, eps,
               batch, seq, heads, kv_heads, head_dim};
    long keys = padded(seq), width = padded(head_dim), group = heads / kv_heads;
    float temper = 1.0f / sqrtf((float)head_dim);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < batch * kv_heads; task++) {
        long sequence = task / kv_heads, kv = task % kv_heads;
        float *k = scratch + THREAD * minitx_attention_scratch(seq, head_dim);
        float *k_across = k + keys * width, *v = k_across + keys * width;
        float *q = v + keys * width, *o = q + BLOCK * width, *weights = o + BLOCK * width;
        load_head(&job, sequence, heads + kv, 0, keys, key_gain, k);
        transpose(k, keys, width, k_across);
        load_head(&job, sequence, heads + kv_heads + kv, 0, keys, 0, v);
        for (long head = kv * group; head < (kv + 1) * group; head++)
            for (long first = 0; first < seq; first += BLOCK) {
                long rows = keys - first < BLOCK ? keys - first : BLOCK;
                load_head(&job, sequence, head, first, rows, query_gain, q);
                score(q, k_across, first, rows, keys, width, weights);
                for (long r = 0; r < rows; r += TILE) {
                    float sums[TILE];
                    for (int t = 0; t < TILE; t++) {
                        long own = first + r + t;
                        float *row = weights + (r + t) * keys;
                        float most = largest(row, own + 1) * temper;
                        sums[t] = weigh(row, (int)own, (int)padded(first + r + TILE), temper, most);
                        if (own < seq)
                            log_sums[(sequence * heads + head) * seq + own] = most + logf(sums[t]);
                    }
                    strip(o, width, weights + r * keys, keys, 1, v, width, first + r + TILE, width,
                          0);
                    for (int t = 0; t < TILE && first + r + t < seq; t++) {
                        float *row = o + t * width, share = 1.0f / sums[t];
                        for (long i = 0; i < head_dim; i++) row[i] *= share;
                        long at = ((sequence * seq + first + r + t) * heads + head) * head_dim;
                        write_row(out, at, half, head_dim, row);
                    }
                }
            }
    }
}

/* Rows `first` to `first + rows` of one head of (batch, seq, heads, head_dim), padded with 0. */
static void load_plain(const Job *job, const void *from, long sequence, long head, long first,
                       long rows, float *to) {
    long d = job->head_dim, width = padded(d);
    for (long r = 0; r < rows; r++) {
        float *row = to + r * width;
        for (long i = 0; i < width; i++) row[i] = 0.0f;
        if (first + r < job->seq)
            read_row(from, ((sequence * job->seq + first + r) * job->heads + head) * d, job->half,
                     d, row);
    }
}

/* back: the gradient of qkv; by_gains: (2, head_dim), of the queries' and the keys' gain; partial
   has room for batch * kv_heads times that. */
EXPORT void minitx_attention_backward(const void *qkv, int half, const void *cosine,
                                      const void *sine, const float *query_gain,
                                      const float *key_gain, float eps, long batch, long seq,
                                      long heads, long kv_heads, long head_dim, const void *out,
                                      const float *log_sums, const void *grad, void *back,
                                      float *by_gains, float *partial, float *scratch,
                                      int threads) {
    Job job = {qkv, cosine, sine, query_gain, key_gain, half, eps,
               batch, seq, heads, kv_heads, head_dim};
    long keys = padded(seq), width = padded(head_dim), group = heads / kv_heads;
    float temper = 1.0f / sqrtf((float)head_dim);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (long task = 0; task < batch * kv_heads; task++) {
        long sequence = task / kv_heads, kv = task % kv_heads;
        float *k = scratch + THREAD * minitx_attention_scratch(seq, head_dim);
        float *k_across = k + keys * width, *v = k_across + keys * width;
        float *v_across = v + keys * width, *by_k = v_across + keys * width;
        float *by_v = by_k + keys * width, *q = by_v + keys * width, *o = q + BLOCK * width;
        float *g = o + BLOCK * width, *by_q = g + BLOCK * width;
        float *weights = by_q + BLOCK * width, *by_weights = weights + BLOCK * keys;
        float *sums = partial + task * 2 * head_dim;
        for (long i = 0; i < 2 * head_dim; i++) sums[i] = 0.0f;
        load_head(&job, sequence, heads + kv, 0, keys, key_gain, k);
        transpose(k, keys, width, k_across);
        load_head(&job, sequence, heads + kv_heads + kv, 0, keys, 0, v);
        transpose(v, keys, width, v_across);
        memset(by_k, 0, (size_t)(2 * keys * width) * sizeof(float));
        for (long head = kv * group; head < (kv + 1) * group; head++)
            for (long first = 0; first < seq; first += BLOCK) {
                long rows = keys - first < BLOCK ? keys - first : BLOCK;
                load_head(&job, sequence, head, first, rows, query_gain, q);
                load_plain(&job, out, sequence, head, first, rows, o);
                load_plain(&job, grad, sequence, head, first, rows, g);
                score(q, k_across, first, rows, keys, width, weights);
                score(g, v_across, first, rows, keys, width, by_weights);
                for (long r = 0; r < rows; r++) {
                    long own = first + r, end = padded(first + r / TILE * TILE + TILE);
                    float *row = weights + r * keys, *by_row = by_weights + r * keys;
                    if (own >= seq) { /* no query: nothing of it may count */
                        memset(row, 0, (size_t)end * sizeof(float));
                        memset(by_row, 0, (size_t)end * sizeof(float));
                        continue;
                    }
                    weigh(row, (int)own, (int)end, temper, log_sums[(sequence * heads + head) * seq + own]);
                    float mean = 0.0f;
                    for (long i = 0; i < width; i++) mean += g[r * width + i] * o[r * width + i];
                    for (long j = 0; j < end; j++) by_row[j] = row[j] * (by_row[j] - mean) * temper;
                }
                for (long r = 0; r < rows; r += TILE)
                    strip(by_q + r * width, width, by_weights + r * keys, keys, 1, k, width,
                          first + r + TILE, width, 0);
                store_head(&job, sequence, head, first, rows, query_gain, by_q, back, sums);
                /* A key is seen by the queries from its own position on. */
                for (long j = 0; j < first + rows; j += TILE) {
                    long from = j > first ? j - first : 0;
                    strip(by_k + j * width, width, by_weights + from * keys + j, 1, keys,
                          q + from * width, width, rows - from, width, 1);
                    strip(by_v + j * width, width, weights + from * keys + j, 1, keys,
                          g + from * width, width, rows - from, width, 1);
                }
            }
        store_head(&job, sequence, heads + kv, 0, seq, key_gain, by_k, back, sums + head_dim);
        store_head(&job, sequence, heads + kv_heads + kv, 0, seq, 0, by_v, back, 0);
    }
    add_partial(partial, batch * kv_heads, 2 * head_dim, by_gains);
}
