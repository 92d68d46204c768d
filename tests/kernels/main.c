/* Every exported kernel on random odd shapes, against plain double loops.

   kernels_test SEED COUNT [NAME]: COUNT shapes for each test, or for those whose name begins so. A
   failure names its seed: the same seed gives the same shapes and numbers again. */
#include "kernels_test.h"

#include <stdarg.h>

static uint64_t state;
static const char *running;
static uint64_t seed_of_shape;
static void *held[2048];
static int n_held, failures;

static uint64_t next(void) {
    uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

static double uniform(void) { return ((double)(next() >> 11) + 0.5) / 9007199254740992.0; }

double normal(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

int64_t pick(int64_t low, int64_t high) {
    double share = uniform();
    return low + (int64_t)((double)(high - low + 1) * share * share);
}

void *room(int64_t bytes) {
    void *made = malloc((size_t)bytes);
    if (!made || n_held == 2048) abort();
    memset(made, 0xff, (size_t)bytes);
    return held[n_held++] = made;
}

float *floats(int64_t n) { return room(n * (int64_t)sizeof(float)); }
double *doubles(int64_t n) { return room(n * (int64_t)sizeof(double)); }

double read_stored(const void *from, int half, int64_t i) {
    float x;
    if (!half) return ((const float *)from)[i];
    uint32_t bits = (uint32_t)((const uint16_t *)from)[i] << 16;
    memcpy(&x, &bits, sizeof x);
    return x;
}

void *rounded(int64_t n, int half, double *exact) {
    void *made = room(n * (half ? 2 : 4));
    for (int64_t i = 0; i < n; i++) {
        float x = (float)exact[i];
        uint32_t bits;
        memcpy(&bits, &x, sizeof bits);
        if (half)
            ((uint16_t *)made)[i] = (uint16_t)(bits >> 16);
        else
            ((float *)made)[i] = x;
        exact[i] = read_stored(made, half, i);
    }
    return made;
}

void *stored(int64_t n, int half, double size, double *exact) {
    double *numbers = exact ? exact : doubles(n);
    for (int64_t i = 0; i < n; i++) numbers[i] = normal() * size;
    return rounded(n, half, numbers);
}

float *drawn(int64_t n, double size, double *exact) { return stored(n, 0, size, exact); }

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    printf("%s, seed %llu: ", running, (unsigned long long)seed_of_shape);
    vprintf(format, arguments);
    printf("\n");
    va_end(arguments);
    if (++failures >= 20) exit(1);
}

void compare(const char *what, const void *found, int half, const double *right, int64_t n,
             double tolerance) {
    double largest = 1e-3;
    for (int64_t i = 0; i < n; i++) largest = fmax(largest, fabs(right[i]));
    for (int64_t i = 0; i < n; i++) {
        double x = read_stored(found, half, i);
        if (fabs(x - right[i]) <= tolerance * largest) continue;
        fail("%s[%lld of %lld] is %g, not %g", what, (long long)i, (long long)n, x, right[i]);
        return;
    }
}

void same_bits(const char *what, const void *one, const void *other, int64_t bytes) {
    if (memcmp(one, other, (size_t)bytes)) fail("%s: not the same bits", what);
}

void expect(const char *what, int holds) {
    if (!holds) fail("%s", what);
}

void compare_gradient(const char *what, double (*value)(const double *inputs, const void *of),
                      const void *of, double *inputs, const double *gradient, int64_t n,
                      double tolerance) {
    double *direction = doubles(n), *beside = doubles(n), size = 1e-5, step = 1e-5;
    for (int64_t i = 0; i < n; i++) size += gradient[i] * gradient[i];
    for (int time = 0; time < 3; time++) {
        double along = 0, rise[2];
        for (int64_t i = 0; i < n; i++) {
            direction[i] = normal();
            along += direction[i] * gradient[i];
        }
        for (int side = 0; side < 2; side++) {
            for (int64_t i = 0; i < n; i++)
                beside[i] = inputs[i] + (side ? step : -step) * direction[i];
            rise[side] = value(beside, of);
        }
        /* An error of the gradient is seen along a direction with its size, times a normal number. */
        double right = (rise[1] - rise[0]) / (2 * step);
        if (fabs(along - right) <= 4 * tolerance * sqrt(size)) continue;
        fail("%s: along a direction %g, not %g; size %g", what, along, right, sqrt(size));
        return;
    }
}

void append(double *all, int64_t *n_all, const void *from, int half, int64_t n) {
    for (int64_t i = 0; i < n; i++) all[(*n_all)++] = read_stored(from, half, i);
}

int main(int count, char **arguments) {
    const Test *const tables[] = {OF_ROWS, OF_UPDATES, OF_ATTENTION, OF_BLOCKS, OF_DECODING};
    uint64_t first = count > 1 ? strtoull(arguments[1], 0, 10) : 0;
    int shapes = count > 2 ? atoi(arguments[2]) : 10, done = 0;
    for (int t = 0; t < 5; t++)
        for (const Test *test = tables[t]; test->name; test++) {
            if (count > 3 && strncmp(test->name, arguments[3], strlen(arguments[3]))) continue;
            running = test->name;
            for (int i = 0; i < shapes; i++, done++) {
                state = seed_of_shape = first + (uint64_t)i;
                for (const char *c = test->name; *c; c++) state = state * 31 + (uint64_t)*c;
                test->run();
                while (n_held) free(held[--n_held]);
            }
        }
    printf("%d shapes, %d failures\n", done, failures);
    return failures || !done;
}
