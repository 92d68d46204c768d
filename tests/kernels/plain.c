/* The plain formulas, in double. */
#include "kernels_test.h"

void plain_norm(const double *x, const double *gain, const double *bias, double eps, int64_t rows,
                int64_t width, double *out) {
    for (int64_t r = 0; r < rows; r++) {
        double mean = 0, square = 0;
        const double *row = x + r * width;
        if (bias)
            for (int64_t i = 0; i < width; i++) mean += row[i] / (double)width;
        for (int64_t i = 0; i < width; i++)
            square += (row[i] - mean) * (row[i] - mean) / (double)width;
        for (int64_t i = 0; i < width; i++)
            out[r * width + i] =
                (row[i] - mean) / sqrt(square + eps) * gain[i] + (bias ? bias[i] : 0);
    }
}

void plain_product(const double *x, const double *matrix, const double *bias, int64_t rows,
                   int64_t width, int64_t columns, double *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t c = 0; c < columns; c++) {
            double sum = bias ? bias[c] : 0;
            for (int64_t i = 0; i < width; i++) sum += x[r * width + i] * matrix[c * width + i];
            out[r * columns + c] = sum;
        }
}

static void normed_and_turned(const double *x, const double *gain, const double *cosine,
                              const double *sine, double eps, int64_t width, double *out) {
    double unit[width];
    memcpy(unit, x, (size_t)width * sizeof(double));
    if (gain) plain_norm(x, gain, 0, eps, 1, width, unit);
    memcpy(out, unit, (size_t)width * sizeof(double));
    for (int64_t i = 0; cosine && i < width / 2; i++) {
        int64_t j = i + width / 2;
        out[i] = unit[i] * cosine[i] - unit[j] * sine[i];
        out[j] = unit[j] * cosine[j] + unit[i] * sine[j];
    }
}

void plain_attention(AttentionShape s, const double *qkv, const double *query_gain,
                     const double *key_gain, const double *cosine, const double *sine, double *out,
                     double *log_sums) {
    int64_t W = s.head_dim, all = s.heads + 2 * s.kv_heads;
    double query[W], keys[s.seq * W], scores[s.seq];
    for (int64_t b = 0; b < s.batch; b++)
        for (int64_t h = 0; h < s.heads; h++) {
            int64_t kv = h / (s.heads / s.kv_heads);
            const double *from = qkv + b * s.seq * all * W, *value;
            for (int64_t t = 0; t < s.seq; t++)
                normed_and_turned(from + (t * all + s.heads + kv) * W, key_gain,
                                  cosine ? cosine + t * W : 0, sine ? sine + t * W : 0, s.eps, W,
                                  keys + t * W);
            for (int64_t t = 0; t < s.seq; t++) {
                double sum = 0, *to = out + ((b * s.seq + t) * s.heads + h) * W, largest = -1e300;
                normed_and_turned(from + (t * all + h) * W, query_gain, cosine ? cosine + t * W : 0,
                                  sine ? sine + t * W : 0, s.eps, W, query);
                for (int64_t k = 0; k <= t; k++) {
                    scores[k] = weighed(query, keys + k * W, W) / sqrt((double)W);
                    largest = fmax(largest, scores[k]);
                }
                for (int64_t k = 0; k <= t; k++) sum += exp(scores[k] - largest);
                for (int64_t i = 0; i < W; i++) to[i] = 0;
                for (int64_t k = 0; k <= t; k++) {
                    value = from + (k * all + s.heads + s.kv_heads + kv) * W;
                    for (int64_t i = 0; i < W; i++)
                        to[i] += exp(scores[k] - largest) / sum * value[i];
                }
                if (log_sums) log_sums[(b * s.heads + h) * s.seq + t] = largest + log(sum);
            }
        }
}

void plain_swiglu(const double *gate_up, int64_t rows, int64_t width, double *out) {
    for (int64_t r = 0; r < rows; r++)
        for (int64_t i = 0; i < width; i++) {
            double gate = gate_up[2 * r * width + i], up = gate_up[(2 * r + 1) * width + i];
            out[r * width + i] = gate / (1 + exp(-gate)) * up;
        }
}

double plain_loss(const double *logits, const int64_t *targets, int64_t ignored, int64_t rows,
                  int64_t vocab) {
    double loss = 0, count = 0;
    for (int64_t r = 0; r < rows; r++) {
        double largest = -1e300, sum = 0;
        if (targets[r] == ignored) continue;
        for (int64_t i = 0; i < vocab; i++) largest = fmax(largest, logits[r * vocab + i]);
        for (int64_t i = 0; i < vocab; i++) sum += exp(logits[r * vocab + i] - largest);
        loss += largest + log(sum) - logits[r * vocab + targets[r]];
        count++;
    }
    return loss / count;
}

double weighed(const double *x, const double *weights, int64_t n) {
    double sum = 0;
    for (int64_t i = 0; i < n; i++) sum += x[i] * weights[i];
    return sum;
}

void angles(int64_t seq, int64_t head_dim, double *cosine, double *sine) {
    for (int64_t t = 0; t < seq; t++)
        for (int64_t i = 0; i < head_dim / 2; i++) {
            double angle = (double)t / pow(1e4, 2 * (double)i / (double)head_dim);
            int64_t at = t * head_dim + i;
            cosine[at] = cosine[at + head_dim / 2] = cos(angle);
            sine[at] = sine[at + head_dim / 2] = sin(angle);
        }
}
