/* train_rows.c: norm, SwiGLU, cross-entropy, each forward and backward. */
#include "kernels_test.h"

void minitx_norm_forward(const void *x, int x_half, const float *gain, float eps, int64_t rows,
                         int64_t width, void *out, void *unit, int out_half, float *scales,
                         int threads);
void minitx_norm_backward(const void *grad, const void *unit, int half, const float *scales,
                          const float *gain, int64_t rows, int64_t width, void *back, int back_half,
                          float *by_gain, float *partial, int threads);
void minitx_swiglu_forward(const void *gate_up, int half, int64_t rows, int64_t width, void *out,
                           int threads);
void minitx_swiglu_backward(const void *grad, const void *gate_up, int half, int64_t rows,
                            int64_t width, void *back, int threads);
int64_t minitx_loss_forward(const void *logits, int half, const int64_t *targets, int64_t ignored,
                            int64_t rows, int64_t vocab, float *log_sums, float *losses,
                            float *mean_and_count, int threads);
void minitx_loss_backward(const void *logits, int half, const int64_t *targets, int64_t ignored,
                          int64_t rows, int64_t vocab, const float *log_sums,
                          const float *mean_and_count, const float *grad, void *back, int threads);

#define EPS 1e-5f

/* float32 keeps 5 digits of a sum; bfloat16 has 8 bits. */
static double close_to(int half) { return half ? 2e-2 : 2e-5; }

typedef struct {
    int64_t rows, width, ignored;
    const int64_t *targets;
    const double *grad;
} Shape;

static double norm_value(const double *inputs, const void *of) {
    const Shape *s = of;
    double *out = malloc((size_t)(s->rows * s->width) * sizeof *out);
    plain_norm(inputs, inputs + s->rows * s->width, 0, EPS, s->rows, s->width, out);
    double value = weighed(out, s->grad, s->rows * s->width);
    free(out);
    return value;
}

static void norm(void) {
    int64_t rows = pick(1, 200), width = pick(1, 100), n = rows * width, held = 0;
    int x_half = (int)pick(0, 1), half = (int)pick(0, 1), threads = (int)pick(1, 3);
    double *all = doubles(n + width), *right = doubles(n), *grad = doubles(n);
    double *found = doubles(n + width);
    void *x = stored(n, x_half, 1, all), *out = room(n * (half ? 2 : 4));
    void *unit = room(n * (half ? 2 : 4)), *back = room(n * (x_half ? 2 : 4));
    float *gain = drawn(width, 1, all + n), *scales = floats(rows), *by_gain = floats(width);
    void *given = stored(n, half, 1, grad);
    float *partial = floats((rows + 63) / 64 * width);
    minitx_norm_forward(x, x_half, gain, EPS, rows, width, out, unit, half, scales, threads);
    plain_norm(all, all + n, 0, EPS, rows, width, right);
    compare("norm", out, half, right, n, close_to(half));
    minitx_norm_backward(given, unit, half, scales, gain, rows, width, back, x_half, by_gain,
                         partial, threads);
    append(found, &held, back, x_half, n);
    append(found, &held, by_gain, 0, width);
    Shape shape = {rows, width, 0, 0, grad};
    compare_gradient("norm", norm_value, &shape, all, found, n + width,
                     close_to(half || x_half));
}

static double swiglu_value(const double *inputs, const void *of) {
    const Shape *s = of;
    double *out = malloc((size_t)(s->rows * s->width) * sizeof *out);
    plain_swiglu(inputs, s->rows, s->width, out);
    double value = weighed(out, s->grad, s->rows * s->width);
    free(out);
    return value;
}

static void swiglu(void) {
    int64_t rows = pick(1, 100), width = pick(1, 100), n = rows * width, held = 0;
    int half = (int)pick(0, 1), threads = (int)pick(1, 3), size = half ? 2 : 4;
    double *all = doubles(2 * n), *right = doubles(n), *grad = doubles(n), *found = doubles(2 * n);
    void *gate_up = stored(2 * n, half, 2, all), *out = room(n * size), *back = room(2 * n * size);
    void *given = stored(n, half, 1, grad);
    minitx_swiglu_forward(gate_up, half, rows, width, out, threads);
    plain_swiglu(all, rows, width, right);
    compare("swiglu", out, half, right, n, close_to(half));
    minitx_swiglu_backward(given, gate_up, half, rows, width, back, threads);
    append(found, &held, back, half, 2 * n);
    Shape shape = {rows, width, 0, 0, grad};
    compare_gradient("swiglu", swiglu_value, &shape, all, found, 2 * n, close_to(half));
}

static double loss_value(const double *inputs, const void *of) {
    const Shape *s = of;
    return *s->grad * plain_loss(inputs, s->targets, s->ignored, s->rows, s->width);
}

static void loss(void) {
    int64_t rows = pick(1, 60), vocab = pick(1, 3000), n = rows * vocab, held = 0;
    int half = (int)pick(0, 1), threads = (int)pick(1, 3);
    double *all = doubles(n), *found = doubles(n);
    void *logits = stored(n, half, 3, all), *back = room(n * (half ? 2 : 4));
    float *log_sums = floats(rows), *losses = floats(rows), *mean_and_count = floats(2);
    int64_t *targets = room(rows * 8);
    for (int64_t r = 0; r < rows; r++) targets[r] = r && !pick(0, 2) ? -100 : pick(0, vocab - 1);
    double factor = 1.5, mean = plain_loss(all, targets, -100, rows, vocab);
    int64_t wrong = minitx_loss_forward(logits, half, targets, -100, rows, vocab, log_sums, losses,
                                     mean_and_count, threads);
    expect("all targets are tokens", wrong == 0);
    compare("loss", mean_and_count, 0, &mean, 1, close_to(0));
    minitx_loss_backward(logits, half, targets, -100, rows, vocab, log_sums, mean_and_count,
                         &(float){1.5f}, back, threads);
    append(found, &held, back, half, n);
    Shape shape = {rows, vocab, -100, targets, &factor};
    compare_gradient("loss", loss_value, &shape, all, found, n, close_to(half));
    targets[rows - 1] = vocab;
    wrong = minitx_loss_forward(logits, half, targets, -100, rows, vocab, log_sums, losses,
                                mean_and_count, threads);
    expect("a target that is no token is counted", wrong == 1);
}

const Test OF_ROWS[] = {{"norm", norm}, {"swiglu", swiglu}, {"loss", loss}, {0, 0}};
