/* train_update.c and train_muon.c: norms, scaling, AdamW, Muon's momentum, update and products. */
#include "kernels_test.h"

#include "vector.h"

void minitx_norms(int64_t n, float *const *tensors, const int64_t *sizes, float *norms,
                  int threads);
void minitx_scale(int64_t n, float *const *tensors, const int64_t *sizes, float factor,
                  int threads);
void minitx_adamw(int64_t n, float *const *parameters, float *const *gradients,
                  float *const *firsts, float *const *seconds, float *const *steps,
                  const int64_t *sizes, double rate, double beta1, double beta2, double eps,
                  const float *decays, int threads);
typedef struct {
    float a, b, c;
} Polynomial; /* as in train_muon.c */

#define DECLARE(format)                                                                            \
    int64_t minitx_muon_scratch_##format(int64_t n, const int64_t *rows, const int64_t *columns);  \
    void minitx_muon_##format(int64_t n, const float *const *gradients, float *const *momenta,     \
                              float *const *weights, const int64_t *rows, const int64_t *columns,  \
                              const float *rates, float momentum, float keep,                      \
                              const Polynomial *polynomials, int64_t count, float safety,          \
                              void *scratch, int threads);
DECLARE(float32)
#ifdef BFLOAT16_PRODUCTS
DECLARE(bfloat16)
enum { N_KINDS = 2 };
#else
#define minitx_muon_scratch_bfloat16 minitx_muon_scratch_float32
#define minitx_muon_bfloat16 minitx_muon_float32
enum { N_KINDS = 1 };
#endif

#define MOST 4

/* Some tensors of random sizes. */
typedef struct {
    int64_t n, sizes[MOST];
    float *made[MOST];
    double *exact[MOST];
} Tensors;

static Tensors tensors_like(const Tensors *like, double size) {
    Tensors t = {like ? like->n : pick(1, MOST), {0}, {0}, {0}};
    for (int64_t i = 0; i < t.n; i++) {
        t.sizes[i] = like ? like->sizes[i] : pick(1, 6000);
        t.exact[i] = doubles(t.sizes[i]);
        t.made[i] = drawn(t.sizes[i], size, t.exact[i]);
    }
    return t;
}

static void compare_all(const char *what, const Tensors *t) {
    for (int64_t i = 0; i < t->n; i++)
        compare(what, t->made[i], 0, t->exact[i], t->sizes[i], 1e-5);
}

static void norms_and_scale(void) {
    Tensors t = tensors_like(0, 1);
    double right[MOST];
    float norms[MOST];
    int threads = (int)pick(1, 3);
    for (int64_t i = 0; i < t.n; i++)
        right[i] = sqrt(weighed(t.exact[i], t.exact[i], t.sizes[i]));
    minitx_norms(t.n, t.made, t.sizes, norms, threads);
    compare("norms", norms, 0, right, t.n, 1e-5);
    minitx_scale(t.n, t.made, t.sizes, 0.3f, threads);
    for (int64_t i = 0; i < t.n; i++)
        for (int64_t j = 0; j < t.sizes[i]; j++) t.exact[i][j] *= (double)0.3f;
    compare_all("scaled", &t);
}

static void adamw(void) {
    Tensors p = tensors_like(0, 1), g = tensors_like(&p, 1), m = tensors_like(&p, 0.1);
    Tensors v = tensors_like(&p, 0.1);
    float counts[MOST], *steps[MOST], decays[MOST];
    for (int64_t i = 0; i < p.n; i++) {
        double step = (double)pick(0, 50) + 1;
        counts[i] = (float)step - 1, steps[i] = counts + i, decays[i] = 0.1f * (float)pick(0, 2);
        for (int64_t j = 0; j < p.sizes[i]; j++) {
            double *x = p.exact[i] + j, *first = m.exact[i] + j, *second = v.exact[i] + j;
            double grad = g.exact[i][j];
            v.made[i][j] = (float)(*second *= *second);
            *second = v.made[i][j];
            *first = 0.9 * *first + 0.1 * grad;
            *second = 0.95 * *second + 0.05 * grad * grad;
            double size = sqrt(*second / (1 - pow(0.95, step))) + 1e-8;
            *x = *x * (1 - 0.02 * decays[i]) - 0.02 * *first / (1 - pow(0.9, step)) / size;
        }
    }
    minitx_adamw(p.n, p.made, g.made, m.made, v.made, steps, p.sizes, 0.02, 0.9, 0.95, 1e-8, decays,
                 (int)pick(1, 3));
    compare_all("parameters", &p);
    compare_all("first moments", &m);
    compare_all("second moments", &v);
}

/* x becomes p(x x^T) x, for p of its coefficients, each time. */
static void orthogonalized(double *x, int64_t rows, int64_t columns, const Polynomial *polynomials,
                           int64_t count, double safety) {
    double *gram = doubles(rows * rows), *once = doubles(rows * columns), norm = 0;
    double *twice = doubles(rows * columns);
    norm = sqrt(weighed(x, x, rows * columns)) + 1e-20;
    for (int64_t i = 0; i < rows * columns; i++) x[i] /= norm;
    for (int64_t time = 0; time < count; time++) {
        double a = polynomials[time].a, b = polynomials[time].b, c = polynomials[time].c;
        plain_product(x, x, 0, rows, columns, rows, gram);
        if (!time) {
            double bound = safety * sqrt(weighed(gram, gram, rows * rows)), root = sqrt(bound);
            a /= root, b /= bound * root, c /= bound * bound * root;
        }
        for (int turn = 0; turn < 2; turn++) {
            const double *from = turn ? once : x;
            double *to = turn ? twice : once;
            memset(to, 0, (size_t)(rows * columns) * sizeof(double));
            for (int64_t r = 0; r < rows; r++)
                for (int64_t k = 0; k < rows; k++)
                    for (int64_t i = 0; i < columns; i++)
                        to[r * columns + i] += gram[r * rows + k] * from[k * columns + i];
        }
        for (int64_t i = 0; i < rows * columns; i++)
            x[i] = a * x[i] + b * once[i] + c * twice[i];
    }
}

static void muon(void) {
    int half = (int)pick(0, N_KINDS - 1), threads = (int)pick(1, 3);
    int64_t n = pick(1, 3), rows[3], columns[3], count = pick(1, 3);
    const Polynomial polynomials[] = {{3.4f, -4.7f, 2.0f}, {2.8f, -3.0f, 1.2f}, {2.0f, -1.5f, 0.5f}};
    float *gradients[3], *momenta[3], *weights[3], rates[3];
    double *exact[3], *right[3];
    for (int64_t i = 0; i < n; i++) {
        rows[i] = pick(1, 130), columns[i] = pick(1, 130);
        int64_t size = rows[i] * columns[i];
        double *g = doubles(size), *w = right[i] = doubles(size), *x = doubles(size);
        exact[i] = doubles(size);
        gradients[i] = drawn(size, 1, g), momenta[i] = drawn(size, 1, exact[i]);
        weights[i] = drawn(size, 1, w), rates[i] = 0.3f * (float)(i + 1);
        int wide = rows[i] <= columns[i];
        for (int64_t r = 0; r < rows[i]; r++)
            for (int64_t c = 0; c < columns[i]; c++) {
                double *momentum = exact[i] + r * columns[i] + c, grad = g[r * columns[i] + c];
                *momentum = 0.9 * *momentum + 0.1 * grad;
                x[wide ? r * columns[i] + c : c * rows[i] + r] = 0.1 * grad + 0.9 * *momentum;
            }
        orthogonalized(x, wide ? rows[i] : columns[i], wide ? columns[i] : rows[i], polynomials,
                       count, 1.05f);
        for (int64_t r = 0; r < rows[i]; r++)
            for (int64_t c = 0; c < columns[i]; c++)
                w[r * columns[i] + c] = 0.99f * w[r * columns[i] + c] -
                                        rates[i] * x[wide ? r * columns[i] + c : c * rows[i] + r];
    }
    int64_t bytes = (half ? minitx_muon_scratch_bfloat16 : minitx_muon_scratch_float32)(n, rows,
                                                                                        columns);
    (half ? minitx_muon_bfloat16 : minitx_muon_float32)(
        n, (const float *const *)gradients, momenta, weights, rows, columns, rates, 0.9f, 0.99f,
        polynomials, count, 1.05f, room(bytes * threads), threads);
    for (int64_t i = 0; i < n; i++) {
        compare("momenta", momenta[i], 0, exact[i], rows[i] * columns[i], 1e-5);
        compare("weights", weights[i], 0, right[i], rows[i] * columns[i], half ? 3e-2 : 1e-4);
    }
}

const Test OF_UPDATES[] = {{"norms and scale", norms_and_scale}, {"adamw", adamw}, {"muon", muon}, {0, 0}};
