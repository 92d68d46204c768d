/* What the optimizers do to each number of many tensors, in one pass over all of them. The formulas
   are in training/optimizers/. */
#include <math.h>

#include "rows.h"

/* The part of tensor `which` that belongs to a thread: all numbers, one tensor after the other,
   are cut into equal stretches. Sets *from and *to; what is done to each number alone does not
   depend on the cut. */
static inline void stretch(const int64_t *sizes, int64_t n, int64_t which, int thread, int threads,
                           int64_t *from, int64_t *to) {
    int64_t total = 0, before = 0;
    for (int64_t i = 0; i < n; i++) total += sizes[i];
    for (int64_t i = 0; i < which; i++) before += sizes[i];
    *from = total * thread / threads - before;
    *to = total * (thread + 1) / threads - before;
    *from = *from < 0 ? 0 : *from;
    *to = *to > sizes[which] ? sizes[which] : *to;
}

#define PIECE 4096 /* numbers whose squares are added in float32 */

/* The norm of each tensor. */
EXPORT void minitx_norms(int64_t n, float *const *tensors, const int64_t *sizes, float *norms,
                         int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t i = 0; i < n; i++) {
        double sum = 0.0;
        for (int64_t from = 0; from < sizes[i]; from += PIECE) {
            const float *x = tensors[i] + from;
            int64_t many = sizes[i] - from < PIECE ? sizes[i] - from : PIECE;
            float part = 0.0f;
            for (int64_t j = 0; j < many; j++) part += x[j] * x[j];
            sum += part;
        }
        norms[i] = (float)sqrt(sum);
    }
}

/* All tensors times a factor. */
EXPORT void minitx_scale(int64_t n, float *const *tensors, const int64_t *sizes, float factor,
                         int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = 0; i < n; i++) {
            int64_t from, to;
            stretch(sizes, n, i, thread, threads, &from, &to);
            for (int64_t j = from; j < to; j++) tensors[i][j] *= factor;
        }
}

/* base^n for a whole n >= 0. `pow` of newer C libraries is another than that of older ones, and
   kernels compiled with it would not load there. */
static double whole_power(double base, int64_t n) {
    double power = 1.0;
    for (; n; n /= 2, base *= base)
        if (n % 2) power *= base;
    return power;
}

/* AdamW (Loshchilov and Hutter 2019, algorithm 2); counts up steps[i] as well. */
EXPORT void minitx_adamw(int64_t n, float *const *parameters, float *const *gradients,
                         float *const *firsts, float *const *seconds, float *const *steps,
                         const int64_t *sizes, double rate, double beta1, double beta2, double eps,
                         const float *decays, int threads) {
    float new1 = (float)(1.0 - beta1);
    float old2 = (float)beta2, new2 = (float)(1.0 - beta2), small = (float)eps;
    for (int64_t i = 0; i < n; i++) *steps[i] += 1.0f;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int thread = 0; thread < threads; thread++)
        for (int64_t i = 0; i < n; i++) {
            int64_t from, to;
            stretch(sizes, n, i, thread, threads, &from, &to);
            float keep = (float)(1.0 - rate * decays[i]);
            float stride = (float)(rate / (1.0 - whole_power(beta1, (int64_t)*steps[i])));
            float grow = (float)(1.0 / sqrt(1.0 - whole_power(beta2, (int64_t)*steps[i])));
            float *restrict p = parameters[i], *restrict first = firsts[i];
            float *restrict second = seconds[i];
            const float *restrict g = gradients[i];
            for (int64_t j = from; j < to; j++) {
                first[j] += new1 * (g[j] - first[j]);
                second[j] = old2 * second[j] + new2 * g[j] * g[j];
                float size = sqrtf(second[j]) * grow + small;
                p[j] = p[j] * keep - stride * first[j] / size;
            }
        }
}
