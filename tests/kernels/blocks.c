/* train_block.c and train_head.c, in each format that there are products for. */
#include "kernels_test.h"

#include "block.h"

#define EPS 1e-5f

/* As in train_head.c. */
typedef struct {
    int64_t rows, d_model, vocab;
    float eps;
    int threads;
    int64_t ignored;
    const float *x, *gain, *weight;
    const int64_t *targets;
    void *scratch;
    float *loss, *back, *by_gain, *by_weight;
} Head;

#define DECLARE(format)                                                     \
    size_t minitx_block_kept_##format(const Block *block);                  \
    size_t minitx_block_scratch_##format(const Block *block, int backward); \
    void minitx_blocks_forward_##format(const Block *blocks, int64_t count);    \
    void minitx_blocks_backward_##format(const Block *blocks, int64_t count);   \
    size_t minitx_head_scratch_##format(const Head *head);                  \
    int64_t minitx_head_loss_##format(const Head *head);
#define KERNELS(format)                                                                          \
    {                                                                                            \
        minitx_block_kept_##format, minitx_block_scratch_##format, minitx_blocks_forward_##format, \
            minitx_blocks_backward_##format, minitx_head_scratch_##format, minitx_head_loss_##format \
    }

DECLARE(float32)
#ifdef BFLOAT16_PRODUCTS
DECLARE(bfloat16)
#endif

static const struct {
    size_t (*block_kept)(const Block *block);
    size_t (*block_scratch)(const Block *block, int backward);
    void (*blocks_forward)(const Block *blocks, int64_t count);
    void (*blocks_backward)(const Block *blocks, int64_t count);
    size_t (*head_scratch)(const Head *head);
    int64_t (*head_loss)(const Head *head);
} KINDS[] = {
    KERNELS(float32),
#ifdef BFLOAT16_PRODUCTS
    KERNELS(bfloat16),
#endif
};

enum { N_KINDS = sizeof KINDS / sizeof *KINDS };

/* Products of bfloat16 take even sizes. */
static int64_t size(int half, int64_t low, int64_t high) {
    int64_t picked = pick(low, high);
    return half ? picked + picked % 2 : picked;
}

typedef struct {
    AttentionShape shape;
    int64_t d, ff;
    const double *cosine, *sine, *grad;
} OfBlock;

/* inputs: x, gains of attention, queries, keys and MLP, then qkv, output, gate_up, down. */
static void plain_block(const OfBlock *of, const double *inputs, double *out) {
    const AttentionShape *s = &of->shape;
    int64_t d = of->d, ff = of->ff, rows = s->batch * s->seq, W = s->head_dim;
    int64_t heads = s->heads * W, all = heads + 2 * s->kv_heads * W;
    const double *x = inputs, *attention_gain = x + rows * d, *query_gain = attention_gain + d;
    const double *key_gain = query_gain + W, *mlp_gain = key_gain + W, *qkv_matrix = mlp_gain + d;
    const double *output = qkv_matrix + all * d, *gate_up_matrix = output + d * heads;
    const double *down = gate_up_matrix + 2 * ff * d;
    double *work = malloc((size_t)(rows * (d + all + heads + 3 * ff)) * sizeof *work);
    double *normed = work, *qkv = normed + rows * d, *gathered = qkv + rows * all;
    double *gate_up = gathered + rows * heads, *hidden = gate_up + 2 * rows * ff;
    plain_norm(x, attention_gain, 0, EPS, rows, d, normed);
    plain_product(normed, qkv_matrix, 0, rows, d, all, qkv);
    plain_attention(*s, qkv, query_gain, key_gain, of->cosine, of->sine, gathered, 0);
    plain_product(gathered, output, 0, rows, heads, d, out);
    for (int64_t i = 0; i < rows * d; i++) out[i] += x[i];
    plain_norm(out, mlp_gain, 0, EPS, rows, d, normed);
    plain_product(normed, gate_up_matrix, 0, rows, d, 2 * ff, gate_up);
    plain_swiglu(gate_up, rows, ff, hidden);
    plain_product(hidden, down, 0, rows, ff, d, normed);
    for (int64_t i = 0; i < rows * d; i++) out[i] += normed[i];
    free(work);
}

static double block_value(const double *inputs, const void *pointer) {
    const OfBlock *of = pointer;
    int64_t n = of->shape.batch * of->shape.seq * of->d;
    double *out = malloc((size_t)n * sizeof *out);
    plain_block(of, inputs, out);
    double value = weighed(out, of->grad, n);
    free(out);
    return value;
}

static void block(void) {
    int half = (int)pick(0, N_KINDS - 1);
    int64_t kv_heads = pick(1, 3), heads = kv_heads * pick(1, 3), batch = pick(1, 4);
    int64_t seq = size(half, 1, 70), W = 2 * pick(1, 20), d = size(half, 1, 70);
    int64_t ff = size(half, 1, 90), rows = batch * seq, n = rows * d;
    int64_t all = (heads + 2 * kv_heads) * W, sizes[] = {n, d, W, W, d, all * d, d * heads * W,
                                                         2 * ff * d, d * ff};
    double scales[] = {1, 1, 1, 1, 1, 1 / sqrt((double)d), 1 / sqrt((double)(heads * W)),
                       1 / sqrt((double)d), 1 / sqrt((double)ff)};
    int64_t total = 0, at = 0;
    for (int i = 0; i < 9; i++) total += sizes[i];
    double *inputs = doubles(total), *found = doubles(total), *right = doubles(n);
    double *grad = doubles(n), *tables = doubles(2 * seq * W);
    float *given[9], *back[9];
    for (int i = 0; i < 9; i++) {
        given[i] = drawn(sizes[i], scales[i], inputs + at);
        /* Both heads' gains in one. */
        back[i] = i == 3 ? back[2] + W : floats(i == 2 ? 2 * W : sizes[i]);
        at += sizes[i];
    }
    angles(seq, W, tables, tables + seq * W);
    void *narrow = rounded(2 * seq * W, half, tables);
    Block b = {
        .batch = batch, .seq = seq, .heads = heads, .kv_heads = kv_heads, .head_dim = W,
        .d_model = d, .d_ff = ff, .eps = EPS, .seed = 7, .threads = (int)pick(1, 3),
        .x = given[0], .attention_gain = given[1], .query_gain = given[2], .key_gain = given[3],
        .mlp_gain = given[4], .qkv = given[5], .output = given[6], .gate_up = given[7],
        .down = given[8], .cosine = narrow,
        .sine = (const void *)((char *)narrow + seq * W * (half ? 2 : 4)), .out = floats(n),
        .grad = drawn(n, 1, grad), .back = back[0], .by_attention_gain = back[1],
        .by_head_gains = back[2], .by_mlp_gain = back[4], .by_qkv = back[5], .by_output = back[6],
        .by_gate_up = back[7], .by_down = back[8],
    };
    b.kept = room((int64_t)KINDS[half].block_kept(&b));
    OfBlock of = {{batch, seq, heads, kv_heads, W, EPS}, d, ff, tables, tables + seq * W, grad};
    for (int with_dropout = 1; with_dropout >= 0; with_dropout--) {
        b.dropout = with_dropout ? 0.2f : 0.0f;
        b.scratch = room((int64_t)KINDS[half].block_scratch(&b, 0));
        KINDS[half].blocks_forward(&b, 1);
        b.scratch = room((int64_t)KINDS[half].block_scratch(&b, 1));
        KINDS[half].blocks_backward(&b, 1);
    }
    plain_block(&of, inputs, right);
    compare("block", b.out, 0, right, n, half ? 5e-2 : 1e-4);
    at = 0;
    for (int i = 0; i < 9; i++) append(found, &at, back[i], 0, sizes[i]);
    compare_gradient("block", block_value, &of, inputs, found, total, half ? 1e-1 : 2e-4);
    /* Others who share the work change nothing. */
    float *before = b.out;
    b.out = floats(n), b.threads = b.threads % 3 + 1;
    b.scratch = room((int64_t)KINDS[half].block_scratch(&b, 0));
    KINDS[half].blocks_forward(&b, 1);
    same_bits("block", before, b.out, n * (int64_t)sizeof(float));
}

typedef struct {
    int64_t rows, d, vocab;
    const int64_t *targets;
} OfHead;

/* inputs: x, gain, weight. */
static double head_value(const double *inputs, const void *pointer) {
    const OfHead *of = pointer;
    int64_t n = of->rows * of->d;
    double *normed = malloc((size_t)(n + of->rows * of->vocab) * sizeof *normed);
    plain_norm(inputs, inputs + n, 0, EPS, of->rows, of->d, normed);
    plain_product(normed, inputs + n + of->d, 0, of->rows, of->d, of->vocab, normed + n);
    double value = plain_loss(normed + n, of->targets, -100, of->rows, of->vocab);
    free(normed);
    return value;
}

static void head(void) {
    int half = (int)pick(0, N_KINDS - 1);
    int64_t rows = size(half, 1, 150), d = size(half, 1, 70), vocab = pick(1, 300);
    int64_t total = rows * d + d + vocab * d, at = 0, *targets = room(rows * 8);
    double *inputs = doubles(total), *found = doubles(total);
    for (int64_t r = 0; r < rows; r++) targets[r] = r && !pick(0, 2) ? -100 : pick(0, vocab - 1);
    Head h = {
        .rows = rows, .d_model = d, .vocab = vocab, .eps = EPS, .threads = (int)pick(1, 3),
        .ignored = -100, .x = drawn(rows * d, 1, inputs), .gain = drawn(d, 1, inputs + rows * d),
        .weight = drawn(vocab * d, 2 / sqrt((double)d), inputs + rows * d + d), .targets = targets,
        .loss = floats(1), .back = floats(rows * d), .by_gain = floats(d),
        .by_weight = floats(vocab * d),
    };
    h.scratch = room((int64_t)KINDS[half].head_scratch(&h));
    OfHead of = {rows, d, vocab, targets};
    expect("all targets are tokens", KINDS[half].head_loss(&h) == 0);
    double right = head_value(inputs, &of);
    compare("loss", h.loss, 0, &right, 1, half ? 3e-2 : 1e-4);
    append(found, &at, h.back, 0, rows * d);
    append(found, &at, h.by_gain, 0, d);
    append(found, &at, h.by_weight, 0, vocab * d);
    compare_gradient("head", head_value, &of, inputs, found, total, half ? 6e-2 : 1e-4);
    targets[0] = vocab;
    expect("a target that is no token is counted", KINDS[half].head_loss(&h) == 1);
}

const Test OF_BLOCKS[] = {{"block", block}, {"head", head}, {0, 0}};
