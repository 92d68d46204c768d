/* train_update.c: norms, scaling, AdamW. */
#include "kernels_test.h"

void minitx_norms(long n, float *const *tensors, const int64_t *sizes, float *norms, int threads);
void minitx_scale(long n, float *const *tensors, const int64_t *sizes, float factor, int threads);
void minitx_adamw(long n, float *const *parameters, float *const *gradients, float *const *firsts,
                  float *const *seconds, float *const *steps, const int64_t *sizes, double rate,
                  double beta1, double beta2, double eps, double decay, int threads);
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
    float counts[MOST], *steps[MOST];
    for (int64_t i = 0; i < p.n; i++) {
        double step = (double)pick(0, 50) + 1;
        counts[i] = (float)step - 1, steps[i] = counts + i;
        for (int64_t j = 0; j < p.sizes[i]; j++) {
            double *x = p.exact[i] + j, *first = m.exact[i] + j, *second = v.exact[i] + j;
            double grad = g.exact[i][j];
            v.made[i][j] = (float)(*second *= *second);
            *second = v.made[i][j];
            *first = 0.9 * *first + 0.1 * grad;
            *second = 0.95 * *second + 0.05 * grad * grad;
            double size = sqrt(*second / (1 - pow(0.95, step))) + 1e-8;
            *x = *x * (1 - 0.02 * 0.1) - 0.02 * *first / (1 - pow(0.9, step)) / size;
        }
    }
    minitx_adamw(p.n, p.made, g.made, m.made, v.made, steps, p.sizes, 0.02, 0.9, 0.95, 1e-8, 0.1,
                 (int)pick(1, 3));
    compare_all("parameters", &p);
    compare_all("first moments", &m);
    compare_all("second moments", &v);
}

const Test OF_UPDATES[] = {{"norms and scale", norms_and_scale}, {"adamw", adamw}, {0, 0}};
