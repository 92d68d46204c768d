/* What a training step does row by row: norm, SwiGLU, cross-entropy, each forward and backward.
   The formulas are in model/transformer.py; float32
   inside, whatever the rows are stored in. A NaN or an infinity in a row stays in its results. */
#include "layers.h"
#include "rows.h"

/* RMSNorm: x / sqrt(mean(x^2) + eps) * gain. `unit` is x times `scales`, kept for the way back. */
EXPORT void minitx_norm_forward(const void *x, int x_half, const float *gain, float eps,
                                int64_t rows, int64_t width, void *out, void *unit, int out_half,
                                float *scales, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float row[width], scaled[width];
        read_row(x, r * width, x_half, width, row);
        float scale = scales[r] = unit_scale(row, width, eps);
        for (int64_t i = 0; i < width; i++) row[i] *= scale;
        write_row(unit, r * width, out_half, width, row);
        for (int64_t i = 0; i < width; i++) scaled[i] = row[i] * gain[i];
        write_row(out, r * width, out_half, width, scaled);
    }
}

/* `partial` has room for slices(rows) rows. */
EXPORT void minitx_norm_backward(const void *grad, const void *unit, int half, const float *scales,
                                 const float *gain, int64_t rows, int64_t width, void *back,
                                 int back_half, float *by_gain, float *partial, int threads) {
    int64_t n = slices(rows);
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t s = 0; s < n; s++) {
        float *sums = partial + s * width;
        float g[width], u[width];
        for (int64_t i = 0; i < width; i++) sums[i] = 0.0f;
        for (int64_t r = s * SLICE; r < rows && r < (s + 1) * SLICE; r++) {
            read_row(grad, r * width, half, width, g);
            read_row(unit, r * width, half, width, u);
            norm_row_back(g, u, gain, scales[r], width, sums);
            write_row(back, r * width, back_half, width, g);
        }
    }
    add_partial(partial, n, width, by_gain);
}

/* silu(gate) * up; a row holds gate and up, each `width` wide. */
EXPORT void minitx_swiglu_forward(const void *gate_up, int half, int64_t rows, int64_t width,
                                  void *out, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float gate[width], up[width], given[width];
        read_row(gate_up, 2 * r * width, half, width, gate);
        read_row(gate_up, (2 * r + 1) * width, half, width, up);
        swiglu_row(gate, up, width, given);
        write_row(out, r * width, half, width, given);
    }
}

EXPORT void minitx_swiglu_backward(const void *grad, const void *gate_up, int half, int64_t rows,
                                   int64_t width, void *back, int threads) {
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float g[width], gate[width], up[width], by_gate[width], by_up[width], given[width];
        read_row(grad, r * width, half, width, g);
        read_row(gate_up, 2 * r * width, half, width, gate);
        read_row(gate_up, (2 * r + 1) * width, half, width, up);
        swiglu_row_back(g, gate, up, width, by_gate, by_up, given);
        write_row(back, 2 * r * width, half, width, by_gate);
        write_row(back, (2 * r + 1) * width, half, width, by_up);
    }
}

#define PIECE 1024 /* logits of a row that are in float32 at once */

static float largest(const void *logits, int64_t at, int half, int64_t vocab) {
    float piece[PIECE], best[LANES];
    for (int l = 0; l < LANES; l++) best[l] = -INFINITY;
    for (int64_t from = 0; from < vocab; from += PIECE) {
        int64_t n = vocab - from < PIECE ? vocab - from : PIECE;
        read_row(logits, at + from, half, n, piece);
        int64_t padded = (n + LANES - 1) / LANES * LANES;
        for (int64_t i = n; i < padded; i++) piece[i] = -INFINITY;
        for (int64_t i = 0; i < padded; i += LANES)
            for (int l = 0; l < LANES; l++)
                best[l] = piece[i + l] > best[l] ? piece[i + l] : best[l];
    }
    float most = best[0];
    for (int l = 1; l < LANES; l++) most = best[l] > most ? best[l] : most;
    return most;
}

/* log(sum(exp(logits))) of one row. */
static float log_of_sum(const void *logits, int64_t at, int half, int64_t vocab) {
    float piece[PIECE], most = largest(logits, at, half, vocab);
    float sum = 0.0f;
    for (int64_t from = 0; from < vocab; from += PIECE) {
        int64_t n = vocab - from < PIECE ? vocab - from : PIECE;
        read_row(logits, at + from, half, n, piece);
        float part = 0.0f;
        for (int64_t i = 0; i < n; i++) part += fast_exp(piece[i] - most);
        sum += part;
    }
    return most + logf(sum);
}

/* Mean over the targets that are not `ignored` of log(sum(exp(logits))) - logits[target].
   `mean_and_count` gets the mean and how many there were. Returns how many targets are no token;
   then nothing else that is given back counts. */
EXPORT int64_t minitx_loss_forward(const void *logits, int half, const int64_t *targets,
                                   int64_t ignored, int64_t rows, int64_t vocab, float *log_sums,
                                   float *losses, float *mean_and_count, int threads) {
    int64_t count = 0, wrong = 0;
    for (int64_t r = 0; r < rows; r++) {
        count += targets[r] != ignored;
        wrong += targets[r] != ignored && (targets[r] < 0 || targets[r] >= vocab);
    }
    if (wrong) return wrong;
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        if (targets[r] == ignored) continue;
        float chosen;
        log_sums[r] = log_of_sum(logits, r * vocab, half, vocab);
        read_row(logits, r * vocab + targets[r], half, 1, &chosen);
        losses[r] = log_sums[r] - chosen;
    }
    double sum = 0.0;
    for (int64_t r = 0; r < rows; r++)
        if (targets[r] != ignored) sum += losses[r];
    mean_and_count[0] = (float)(sum / (double)count);
    mean_and_count[1] = (float)count;
    return 0;
}

/* The gradient of one row: the softmax, less 1 at the target, divided by the count. */
EXPORT void minitx_loss_backward(const void *logits, int half, const int64_t *targets,
                                 int64_t ignored, int64_t rows, int64_t vocab,
                                 const float *log_sums, const float *mean_and_count,
                                 const float *grad, void *back, int threads) {
    float factor = *grad / mean_and_count[1];
#pragma omp parallel for num_threads(threads) schedule(static)
    for (int64_t r = 0; r < rows; r++) {
        float piece[PIECE];
        for (int64_t from = 0; from < vocab; from += PIECE) {
            int64_t n = vocab - from < PIECE ? vocab - from : PIECE;
            if (targets[r] == ignored) {
                for (int64_t i = 0; i < n; i++) piece[i] = 0.0f;
            } else {
                read_row(logits, r * vocab + from, half, n, piece);
                for (int64_t i = 0; i < n; i++) piece[i] = fast_exp(piece[i] - log_sums[r]);
                if (targets[r] >= from && targets[r] < from + n) piece[targets[r] - from] -= 1.0f;
                for (int64_t i = 0; i < n; i++) piece[i] *= factor;
            }
            write_row(back, r * vocab + from, half, n, piece);
        }
    }
}
