/* train_attention.c, forward and backward. */
#include "kernels_test.h"

int64_t minitx_attention_scratch(int64_t seq, int64_t head_dim);
void minitx_attention_forward(const void *qkv, int half, const void *cosine, const void *sine,
                              const float *query_gain, const float *key_gain, float eps,
                              int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads,
                              int64_t head_dim, void *out, float *log_sums, float *scratch,
                              int threads);
void minitx_attention_backward(const void *qkv, int half, const void *cosine, const void *sine,
                               const float *query_gain, const float *key_gain, float eps,
                               int64_t batch, int64_t seq, int64_t heads, int64_t kv_heads,
                               int64_t head_dim, const void *out, const float *log_sums,
                               const void *grad, void *back, float *by_gains, float *partial,
                               float *scratch, int threads);

typedef struct {
    AttentionShape shape;
    int64_t n, n_out;
    const double *cosine, *sine, *grad; /* tables may be null: neither norm nor rotation */
} Of;

static double value(const double *inputs, const void *pointer) {
    const Of *of = pointer;
    double *out = malloc((size_t)of->n_out * sizeof *out);
    const double *gains = of->cosine ? inputs + of->n : 0;
    plain_attention(of->shape, inputs, gains, gains ? gains + of->shape.head_dim : 0, of->cosine,
                    of->sine, out, 0);
    double sum = weighed(out, of->grad, of->n_out);
    free(out);
    return sum;
}

static void attention(void) {
    int64_t kv_heads = pick(1, 3), heads = kv_heads * pick(1, 3), batch = pick(1, 3), held = 0;
    int64_t seq = pick(1, 150), d = 2 * pick(1, 36), turned = pick(0, 1);
    if (!turned) d -= pick(0, 1);
    int64_t n = batch * seq * (heads + 2 * kv_heads) * d, n_out = batch * seq * heads * d;
    int half = (int)pick(0, 1), threads = (int)pick(1, 3), size = half ? 2 : 4;
    double close = half ? 4e-2 : 1e-4;
    double *all = doubles(n + 2 * d), *right = doubles(n_out), *grad = doubles(n_out);
    double *tables = doubles(2 * seq * d), *found = doubles(n + 2 * d);
    double *right_sums = doubles(batch * heads * seq);
    void *qkv = stored(n, half, 1, all), *given = stored(n_out, half, 1, grad);
    void *out = room(n_out * size), *back = room(n * size);
    float *gains = drawn(2 * d, 1, all + n), *log_sums = floats(batch * heads * seq);
    float *scratch = floats(threads * minitx_attention_scratch(seq, d));
    float *by_gains = floats(2 * d), *partial = floats(batch * kv_heads * 2 * d);
    angles(seq, d - d % 2, tables, tables + seq * d);
    void *narrow = turned ? rounded(2 * seq * d, half, tables) : 0;
    const void *cosine = turned ? narrow : 0, *sine = turned ? (char *)narrow + seq * d * size : 0;
    const float *query_gain = turned ? gains : 0, *key_gain = turned ? gains + d : 0;
    Of of = {{batch, seq, heads, kv_heads, d, 1e-5}, n, n_out, turned ? tables : 0,
             turned ? tables + seq * d : 0, grad};
    minitx_attention_forward(qkv, half, cosine, sine, query_gain, key_gain, 1e-5f, batch, seq,
                             heads, kv_heads, d, out, log_sums, scratch, threads);
    plain_attention(of.shape, all, turned ? all + n : 0, turned ? all + n + d : 0, of.cosine,
                    of.sine, right, right_sums);
    compare("attention", out, half, right, n_out, close);
    compare("its sums", log_sums, 0, right_sums, batch * heads * seq, close);
    minitx_attention_backward(qkv, half, cosine, sine, query_gain, key_gain, 1e-5f, batch, seq,
                              heads, kv_heads, d, out, log_sums, given, back, by_gains, partial,
                              scratch, threads);
    append(found, &held, back, half, n);
    if (turned) append(found, &held, by_gains, 0, 2 * d);
    compare_gradient("attention", value, &of, all, found, held, close);
}

const Test OF_ATTENTION[] = {{"attention", attention}, {0, 0}};
