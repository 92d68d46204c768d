/* One token for each row of logits: temperature, top-k, and a draw (generation/filters.py). */

#include <math.h>

#include "vector.h"

/* exp(x) for x <= 0, to 1 unit in the last place or so: see `fast_exp`. 0 below -708. */
static inline double exp_below_0(double x) {
    double inside = x < -708.0 ? -708.0 : x;
    double n = __builtin_rint(inside * 1.4426950408889634);
    double r = inside - n * 6.93147180369123816490e-01;
    r -= n * 1.90821492927058770002e-10;
    /* The series of e^r: |r| <= ln 2 / 2, so what follows r^13 / 13! is below 2^-57. */
    double p = 1.6059043836821613e-10;
    p = p * r + 2.08767569878681e-09;
    p = p * r + 2.505210838544172e-08;
    p = p * r + 2.755731922398589e-07;
    p = p * r + 2.7557319223985893e-06;
    p = p * r + 2.48015873015873e-05;
    p = p * r + 1.984126984126984e-04;
    p = p * r + 1.388888888888889e-03;
    p = p * r + 8.333333333333333e-03;
    p = p * r + 4.1666666666666664e-02;
    p = p * r + 1.6666666666666666e-01;
    p = p * r + 0.5;
    p = p * r * r + r + 1.0;
    int64_t bits = ((int64_t)n + 1023) << 52;
    double scale;
    memcpy(&scale, &bits, sizeof scale);
    /* Not a number stays one: neither comparison holds. */
    return x < -708.0 ? 0.0 : p * scale;
}

/* The k-th largest of x: the root of a heap of the k largest so far. */
static float kth_largest(const float *x, int64_t size, int64_t k, float *heap) {
    int64_t held = 0;
    for (int64_t i = 0; i < size; i++) {
        int64_t at;
        if (held < k) {
            /* Up from the end. */
            for (at = held++; at && heap[(at - 1) / 2] > x[i]; at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
            heap[at] = x[i];
        } else if (x[i] > heap[0]) {
            /* Down from the root, which leaves. */
            for (at = 0;;) {
                int64_t child = 2 * at + 1;
                if (child >= k) break;
                if (child + 1 < k && heap[child + 1] < heap[child]) child++;
                if (heap[child] >= x[i]) break;
                heap[at] = heap[child];
                at = child;
            }
            heap[at] = x[i];
        }
    }
    return heap[0];
}

static int64_t likeliest(const float *x, int64_t size) {
    int64_t best = 0;
    for (int64_t i = 0; i < size; i++) {
        if (x[i] != x[i]) return i;
        if (x[i] > x[best]) best = i;
    }
    return best;
}

/* logits: (rows, stride), of which the first `size` count. Changed.
   silent: `n_silent` ids that are ruled out.
   temperature: 0 takes the likeliest, and the first of several.
   top_k: 0 for no such cut; ties with the last one stay.
   numbers: (rows) from [0, 1).
   room: 2 * size elements.
   chosen: (rows); `size` if a row has no distribution, because something is not a number. */
EXPORT void minitx_draw(
    const float *logits, int64_t rows, int64_t stride, int64_t size, const int64_t *silent,
    int64_t n_silent, float temperature, int64_t top_k, const double *numbers, double *room,
    int64_t *chosen
) {
    float *own = (float *)room, *heap = own + size;
    double *line = room + size;
    for (int64_t r = 0; r < rows; r++) {
        memcpy(own, logits + r * stride, (size_t)size * sizeof(float));
        for (int64_t i = 0; i < n_silent; i++) own[silent[i]] = -INFINITY;
        if (temperature == 0.0f) {
            chosen[r] = likeliest(own, size);
            continue;
        }
        for (int64_t i = 0; i < size; i++) own[i] /= temperature;
        float lowest = top_k && top_k < size ? kth_largest(own, size, top_k, heap) : -INFINITY;
        float largest = own[likeliest(own, size)];
        for (int64_t i = 0; i < size; i++)
            line[i] = own[i] < lowest ? 0.0 : exp_below_0((double)own[i] - (double)largest);
        for (int64_t i = 1; i < size; i++) line[i] += line[i - 1];
        /* The first whose end lies beyond the number. */
        double point = numbers[r] * line[size - 1];
        int64_t from = 0, to = size;
        while (from < to) {
            int64_t middle = (from + to) / 2;
            if (line[middle] > point)
                to = middle;
            else
                from = middle + 1;
        }
        chosen[r] = from;
    }
}
