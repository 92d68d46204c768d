/* decode.c and draw.c: a small model of either architecture reads prompts of texts, then a token of
   each. */
#include "kernels_test.h"

#include "decode_model.h"

int64_t minitx_decode_stride(int64_t columns);
int64_t minitx_decode_packed_size(int64_t rows, int64_t columns, int64_t format, int64_t gated);
void minitx_decode_pack(const char *weights, const float *scale, const float *bias, int64_t rows,
                        int64_t columns, int64_t format, int64_t gated, char *out, int threads);
int64_t minitx_decode_room(const Model *model, int64_t rows, int threads);
void minitx_decode_step(const Model *model, const Cache *cache, const int64_t *tokens,
                        const int64_t *positions, const int64_t *texts, int64_t count,
                        const int64_t *asked, int64_t n_asked, char *buffer, float *logits,
                        int threads);
void minitx_draw(const float *logits, int64_t rows, int64_t stride, int64_t size,
                 const int64_t *silent, int64_t n_silent, float temperature, int64_t top_k,
                 const double *numbers, double *room, int64_t *chosen);

#define LAYERS 2

/* How far logits may be off, as a part of the largest one: CLOSE, and as many times as far as they
   move where each number on the way is off by one rounding of float32. That is little but where a
   token's residual stream nearly cancels, and the norm after it magnifies what is left. */
#define CLOSE 1e-5
#define ROUNDING 5.9604645e-8 /* 2^-24 */
#define TIMES 8
#define DRAWS 4

typedef struct {
    double *gain, *bias;
} ExactNorm;

typedef struct {
    double *weights, *bias;
} ExactMatrix;

typedef struct {
    ExactNorm attention_norm, mlp_norm;
    double *query_gain, *key_gain;
    ExactMatrix qkv, output, gate_up, down;
} ExactLayer;

/* A model as kernels read it, and in double. */
typedef struct {
    Model model;
    Layer layers[LAYERS];
    ExactLayer exact[LAYERS];
    ExactNorm norm;
    ExactMatrix head;
    double *embedding, *positions, *cosine, *sine;
    int64_t vocab;
    int is_gpt2;
} Made;

static Norm made_norm(int64_t width, int has_bias, ExactNorm *exact) {
    Norm norm = {0, 0};
    exact->gain = doubles(width), exact->bias = has_bias ? doubles(width) : 0;
    norm.gain = drawn(width, 1, exact->gain);
    if (has_bias) norm.bias = drawn(width, 1, exact->bias);
    return norm;
}

static Matrix made_matrix(int64_t rows, int64_t columns, int64_t format, int has_bias, int gated,
                          ExactMatrix *exact) {
    int64_t n = rows * columns, bytes = minitx_decode_packed_size(rows, columns, format, gated);
    double size = 1 / sqrt((double)columns);
    float *bias = 0, *scale = 0;
    void *weights;
    char *packed = memset(room(bytes), 0, (size_t)bytes);
    exact->weights = doubles(n), exact->bias = has_bias ? doubles(rows) : 0;
    if (has_bias) bias = drawn(rows, 1, exact->bias);
    if (format == INT8) {
        double *factors = doubles(rows);
        int8_t *integers = weights = room(n);
        scale = drawn(rows, size / 64, factors);
        for (int64_t i = 0; i < n; i++) {
            integers[i] = (int8_t)(pick(0, 254) - 127);
            exact->weights[i] = integers[i] * factors[i / columns];
        }
    } else {
        weights = stored(n, format == BFLOAT16, size, exact->weights);
    }
    minitx_decode_pack(weights, scale, bias, rows, columns, format, gated, packed, (int)pick(1, 3));
    return (Matrix){packed, rows, columns, format};
}

static void make(Made *m, int64_t format) {
    int64_t kv_heads = pick(1, 3), heads, width = 2 * pick(1, 40), d = pick(2, 90), ff = pick(1, 150);
    int is_gpt2 = m->is_gpt2 = (int)pick(0, 1);
    heads = is_gpt2 ? kv_heads : kv_heads * pick(1, 3);
    int64_t context = pick(2, 40), all = (heads + 2 * kv_heads) * width;
    m->vocab = pick(2, 200);
    m->embedding = doubles(m->vocab * d);
    m->model = (Model){LAYERS, heads, kv_heads, width, d, ff, context, 1e-5,
                       drawn(m->vocab * d, 1, m->embedding), 0, 0, 0, m->layers, {0, 0}, {0}};
    m->positions = m->cosine = m->sine = 0;
    if (is_gpt2) {
        m->positions = doubles(context * d);
        m->model.positions = drawn(context * d, 1, m->positions);
    } else {
        m->cosine = doubles(2 * context * width), m->sine = m->cosine + context * width;
        angles(context, width, m->cosine, m->sine);
        float *tables = rounded(2 * context * width, 0, m->cosine);
        m->model.cosine = tables, m->model.sine = tables + context * width;
    }
    for (int i = 0; i < LAYERS; i++) {
        Layer *layer = m->layers + i;
        ExactLayer *exact = m->exact + i;
        layer->attention_norm = made_norm(d, is_gpt2, &exact->attention_norm);
        layer->mlp_norm = made_norm(d, is_gpt2, &exact->mlp_norm);
        layer->query_gain = layer->key_gain = 0, exact->query_gain = exact->key_gain = 0;
        if (!is_gpt2) {
            exact->query_gain = doubles(width), exact->key_gain = doubles(width);
            layer->query_gain = drawn(width, 1, exact->query_gain);
            layer->key_gain = drawn(width, 1, exact->key_gain);
        }
        layer->qkv = made_matrix(all, d, format, is_gpt2, 0, &exact->qkv);
        layer->output = made_matrix(d, heads * width, format, is_gpt2, 0, &exact->output);
        layer->gate_up = made_matrix(is_gpt2 ? ff : 2 * ff, d, format, is_gpt2, !is_gpt2,
                                     &exact->gate_up);
        layer->down = made_matrix(d, ff, format, is_gpt2, 0, &exact->down);
    }
    m->model.norm = made_norm(d, is_gpt2, &m->norm);
    m->model.head = made_matrix(m->vocab, d, format, 0, 0, &m->head);
}

static double gelu(double x) {
    return x / 2 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}

static void put_off(double *x, int64_t n, double size) {
    for (int64_t i = 0; size > 0 && i < n; i++) x[i] *= 1 + size * normal();
}

/* Logits after each token of a text, (seq, vocab). off: so far each number on the way is put off, at
   random, as a part of it. */
static double *logits_of(const Made *m, const int64_t *tokens, int64_t seq, double off) {
    const Model *model = &m->model;
    int64_t d = model->d_model, ff = model->d_ff, width = model->n_heads * model->head_dim;
    int64_t all = width + 2 * model->n_kv_heads * model->head_dim, up = m->is_gpt2 ? ff : 2 * ff;
    double *x = doubles(seq * d), *normed = doubles(seq * d), *qkv = doubles(seq * all);
    double *heads = doubles(seq * width), *gate_up = doubles(seq * up), *hidden = doubles(seq * ff);
    double *logits = doubles(seq * m->vocab);
    AttentionShape shape = {1, seq, model->n_heads, model->n_kv_heads, model->head_dim, model->eps};
    for (int64_t t = 0; t < seq; t++)
        for (int64_t i = 0; i < d; i++)
            x[t * d + i] = m->embedding[tokens[t] * d + i] + (m->positions ? m->positions[t * d + i] : 0);
    put_off(x, seq * d, off);
    for (const ExactLayer *l = m->exact; l < m->exact + LAYERS; l++) {
        plain_norm(x, l->attention_norm.gain, l->attention_norm.bias, model->eps, seq, d, normed);
        put_off(normed, seq * d, off);
        plain_product(normed, l->qkv.weights, l->qkv.bias, seq, d, all, qkv);
        put_off(qkv, seq * all, off);
        plain_attention(shape, qkv, l->query_gain, l->key_gain, m->cosine, m->sine, heads, 0);
        put_off(heads, seq * width, off);
        plain_product(heads, l->output.weights, l->output.bias, seq, width, d, normed);
        for (int64_t i = 0; i < seq * d; i++) x[i] += normed[i];
        put_off(x, seq * d, off);
        plain_norm(x, l->mlp_norm.gain, l->mlp_norm.bias, model->eps, seq, d, normed);
        put_off(normed, seq * d, off);
        plain_product(normed, l->gate_up.weights, l->gate_up.bias, seq, d, up, gate_up);
        put_off(gate_up, seq * up, off);
        if (m->is_gpt2)
            for (int64_t i = 0; i < seq * ff; i++) hidden[i] = gelu(gate_up[i]);
        else
            plain_swiglu(gate_up, seq, ff, hidden);
        put_off(hidden, seq * ff, off);
        plain_product(hidden, l->down.weights, l->down.bias, seq, ff, d, normed);
        for (int64_t i = 0; i < seq * d; i++) x[i] += normed[i];
        put_off(x, seq * d, off);
    }
    plain_norm(x, m->norm.gain, m->norm.bias, model->eps, seq, d, normed);
    put_off(normed, seq * d, off);
    plain_product(normed, m->head.weights, 0, seq, d, m->vocab, logits);
    return logits;
}

static Cache cache_of(const Model *model, int64_t rows) {
    int64_t head = model->context * model->head_dim, row = head * model->n_kv_heads;
    Cache cache = {floats(model->n_layers * 2 * rows * row), 2 * rows * row, rows * row, row, head};
    return cache;
}

/* How far the last two lines of a text's logits move by rounding, as a part of the largest. */
static void move_by_rounding(const Made *m, const int64_t *text, int64_t seq, const double *right,
                             double moved[2]) {
    double largest[2] = {1e-3, 1e-3};
    int64_t last = (seq - 2) * m->vocab;
    moved[0] = moved[1] = 0;
    for (int draw = 0; draw < DRAWS; draw++) {
        double *beside = logits_of(m, text, seq, ROUNDING);
        for (int64_t i = 0; i < 2 * m->vocab; i++) {
            int line = i >= m->vocab;
            moved[line] = fmax(moved[line], fabs(beside[last + i] - right[last + i]));
            largest[line] = fmax(largest[line], fabs(right[last + i]));
        }
    }
    for (int line = 0; line < 2; line++) moved[line] /= largest[line];
}

/* Texts whose tokens come in turn: some of each as a prompt, then one of each. */
static void texts(void) {
    Made made;
    make(&made, pick(FLOAT32, INT8));
    const Model *model = &made.model;
    int64_t rows = pick(1, 20), most = rows * model->context, stride = minitx_decode_stride(made.vocab);
    int64_t *tokens = room(most * 8), *positions = room(most * 8), *of = room(most * 8);
    int64_t *asked = room(rows * 8), count = 0, read[20], *text[20];
    double *right[20], moved[20][2];
    int threads = (int)pick(1, 3);
    Cache cache = cache_of(model, rows);
    for (int64_t r = 0; r < rows; r++) {
        read[r] = model->context > 2 ? pick(1, model->context - 1) : 1;
        text[r] = room(model->context * 8);
        for (int64_t t = 0; t < model->context; t++) text[r][t] = pick(0, made.vocab - 1);
        right[r] = logits_of(&made, text[r], read[r] + 1, 0);
        for (int64_t t = 0; t < read[r]; t++, count++)
            tokens[count] = text[r][t], positions[count] = t, of[count] = r;
        asked[r] = count - 1;
    }
    for (int64_t r = 0; r < rows; r++)
        move_by_rounding(&made, text[r], read[r] + 1, right[r], moved[r]);
    for (int round = 0; round < 2; round++) {
        float *logits = floats(rows * stride);
        minitx_decode_step(model, &cache, tokens, positions, of, count, asked, rows,
                          room(minitx_decode_room(model, count, threads)), logits, threads);
        for (int64_t r = 0; r < rows; r++)
            compare(round ? "one more" : "prompts", logits + r * stride, 0,
                    right[r] + (read[r] - 1 + round) * made.vocab, made.vocab,
                    CLOSE + TIMES * moved[r][round]);
        count = rows;
        for (int64_t r = 0; r < rows; r++)
            tokens[r] = text[r][read[r]], positions[r] = read[r], of[r] = r, asked[r] = r;
    }
}

static void draw(void) {
    int64_t rows = pick(1, 5), size = pick(2, 300), stride = size + pick(0, 20), chosen[5];
    int64_t silent = pick(0, size - 1), top_k = pick(0, size), n_silent = pick(0, 1);
    float *logits = drawn(rows * stride, 3, 0), temperature = pick(0, 2) ? 0.7f : 0.0f;
    double numbers[5], *line = doubles(size);
    for (int64_t r = 0; r < rows; r++) numbers[r] = fmod(fabs(normal()) * 7, 1);
    minitx_draw(logits, rows, stride, size, &silent, n_silent, temperature, top_k, numbers,
                doubles(2 * size), chosen);
    for (int64_t r = 0; r < rows; r++) {
        float *row = logits + r * stride;
        double total = 0, below = 0;
        if (n_silent) row[silent] = -INFINITY;
        for (int64_t i = 0; i < size; i++) {
            int64_t higher = 0, before = 0;
            for (int64_t j = 0; j < size; j++) {
                higher += row[j] > row[i];
                before += row[j] == row[i] && j < i;
            }
            line[i] = top_k && higher >= top_k ? 0 : exp(row[i] / 0.7);
            if (temperature == 0.0f) line[i] = higher + before == 0;
            total += line[i];
        }
        expect("a token is drawn", chosen[r] >= 0 && chosen[r] < size && line[chosen[r]] > 0);
        for (int64_t i = 0; i < chosen[r]; i++) below += line[i] / total;
        double end = below + line[chosen[r]] / total;
        if (temperature != 0.0f)
            expect("the one at the number", below < numbers[r] + 1e-5 && end > numbers[r] - 1e-5);
    }
}

const Test OF_DECODING[] = {{"texts", texts}, {"draw", draw}, {0, 0}};
