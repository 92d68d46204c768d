/* Muon's orthogonalization (training/optimizers/muon.py, `orthogonalize`), a matrix in each thread: all that
   the products of one matrix read and write stays in that core's cache.

   For this processors need AVX512-BF16. */
#include <stddef.h>

#include "vector.h"

#ifdef BFLOAT16_PRODUCTS
#pragma GCC target("avx512bf16")
#define BFLOAT16
#include "fused.h"

/* Rows of pairs for the factor b, from bfloat16: as pack_columns and pack_rows. */
static void pack_columns_of(const uint16_t *matrix, long rows, long columns, Pair *b) {
    for (long r = 0; r < whole(rows, PANEL); r++) {
        Pair *to = b + r / PANEL * PANEL * (columns / 2) + r % PANEL;
        const Pair *row = (const Pair *)(matrix + r * columns);
        for (long k = 0; k < columns / 2; k++) to[k * PANEL] = r < rows ? row[k] : 0;
    }
}

static void pack_rows_of(const uint16_t *matrix, long rows, long columns, Pair *b) {
    for (long k = 0; k < rows / 2; k++) {
        const uint16_t *first = matrix + 2 * k * columns, *second = first + columns;
        for (long from = 0; from < columns; from += PANEL) {
            Pair *to = b + from * (rows / 2) + k * PANEL;
            pair_rows(first + from, second + from, columns - from < PANEL ? columns - from : PANEL,
                      to);
        }
    }
}

/* A thread's memory: x in bfloat16, in pairs for both factors, a square matrix in float32, and in
   bfloat16 for both factors. Each reaches to whole tiles. */
typedef struct {
    uint16_t *x, *square_half;
    Pair *x_pairs, *x_panels, *square_panels;
    float *square;
} Own;

static Own own_in(Memory memory, long rows, long columns, size_t *used) {
    long n = rows < columns ? rows : columns, all = whole(rows, PANEL) * whole(columns, PANEL);
    long square = whole(n, PANEL) * whole(n, PANEL);
    Own own;
    own.x = take(&memory, all, sizeof(uint16_t));
    own.x_pairs = take(&memory, all, sizeof(Pair));
    own.x_panels = take(&memory, all, sizeof(Pair));
    own.square = take(&memory, square, sizeof(float));
    own.square_half = take(&memory, square, sizeof(uint16_t));
    own.square_panels = take(&memory, square, sizeof(Pair));
    *used = memory.used;
    return own;
}

/* The smaller of x x^T and x^T x. */
static void gram(const Own *own, long rows, long columns) {
    if (rows <= columns) {
        pack_columns_of(own->x, rows, columns, own->x_panels);
        symmetric_product((const Pair *)own->x, columns / 2, 1, own->x_panels, columns / 2, rows,
                          own->square, SET);
    } else {
        long stride = whole(columns, PANEL);
        for (long r = 0; r < rows; r += 2)
            pair_rows(own->x + r * columns, own->x + (r + 1) * columns, columns,
                      own->x_pairs + r / 2 * stride);
        pack_rows_of(own->x, rows, columns, own->x_panels);
        symmetric_product(own->x_pairs, 1, stride, own->x_panels, rows / 2, columns, own->square,
                          SET);
    }
}

/* square = linear * square + cubic * square^2, and `constant` added on the diagonal; then in
   bfloat16. */
static void polynomial(const Own *own, long n, float constant, float linear, float cubic) {
    for (long r = 0; r < n; r++)
        store_row(own->square + r * n, n, own->square_half + r * n);
    pack_rows_of(own->square_half, n, n, own->square_panels);
    /* Scaled by their ratio, so that the product can be added to it. */
    float ratio = linear / cubic;
    for (long i = 0; i < n * n; i++) own->square[i] *= ratio;
    symmetric_product((const Pair *)own->square_half, n / 2, 1, own->square_panels, n / 2, n,
                      own->square, ADD);
    for (long i = 0; i < n * n; i++) own->square[i] *= cubic;
    for (long i = 0; i < n; i++) own->square[i * n + i] += constant;
    for (long r = 0; r < n; r++)
        store_row(own->square + r * n, n, own->square_half + r * n);
}

/* x becomes the square matrix times x, or x times it. */
static void apply(const Own *own, long rows, long columns, uint16_t *out) {
    if (rows <= columns) {
        pack_rows_of(own->x, rows, columns, own->x_panels);
        product((const Pair *)own->square_half, rows / 2, 1, rows, own->x_panels, rows / 2,
                columns, out, columns, SET_STORED);
    } else {
        pack_rows_of(own->square_half, columns, columns, own->square_panels);
        product((const Pair *)own->x, columns / 2, 1, rows, own->square_panels, columns / 2,
                columns, out, columns, SET_STORED);
    }
}

static float norm_of(const float *x, long n) {
    double sum = 0.0;
    for (long from = 0; from < n; from += 4096) {
        float part = 0.0f;
        for (long i = from; i < n && i < from + 4096; i++) part += x[i] * x[i];
        sum += part;
    }
    return (float)sqrt(sum);
}

static void orthogonalize(uint16_t *matrix, long rows, long columns, const float *polynomials,
                          long count, float safety, char *memory) {
    size_t used;
    Own own = own_in((Memory){memory, 0}, rows, columns, &used);
    long n = rows < columns ? rows : columns;
    double squares = 0.0;
    for (long r = 0; r < rows; r++) {
        float row[columns], sum = 0.0f;
        read_row(matrix, r * columns, 1, columns, row);
        for (long i = 0; i < columns; i++) sum += row[i] * row[i];
        squares += sum;
    }
    /* First to a size at which squares neither overflow nor vanish. */
    float size = 1.0f / ((float)sqrt(squares) + 1e-20f);
    for (long r = 0; r < rows; r++) {
        float row[columns];
        read_row(matrix, r * columns, 1, columns, row);
        for (long i = 0; i < columns; i++) row[i] *= size;
        store_row(row, columns, own.x + r * columns);
    }
    for (long i = 0; i < count; i++) {
        float a = polynomials[3 * i], b = polynomials[3 * i + 1], c = polynomials[3 * i + 2];
        gram(&own, rows, columns);
        if (i == 0) {
            /* To x / sqrt(bound), by the polynomial: x stays as it is. Zeros stay zeros: queries
             * have such gradients where the context is one token. */
            float bound = safety * norm_of(own.square, n * n);
            if (bound < 1e-10f) bound = 1e-10f;
            float root = sqrtf(bound);
            a /= root;
            b /= bound * root;
            c /= bound * bound * root;
        }
        polynomial(&own, n, a, b, c);
        /* The product reads x as it is, where the matrix is tall. */
        uint16_t *out = i + 1 == count ? matrix : rows <= columns ? own.x : (uint16_t *)own.x_pairs;
        apply(&own, rows, columns, out);
        if (out == (uint16_t *)own.x_pairs)
            memcpy(own.x, out, (size_t)(rows * columns) * sizeof(uint16_t));
    }
}

/* Bytes of scratch for one thread. */
EXPORT long minitx_orthogonalize_scratch(long n, const int64_t *rows, const int64_t *columns) {
    long largest = 0;
    for (long i = 0; i < n; i++) {
        size_t used;
        own_in((Memory){0, 0}, rows[i], columns[i], &used);
        largest = most(largest, (long)used);
    }
    return largest;
}

/* Matrices of bfloat16, in place. */
EXPORT void minitx_orthogonalize(long n, void *const *matrices, const int64_t *rows,
                                 const int64_t *columns, const float *polynomials, long count,
                                 float safety, void *scratch, int threads) {
    long own = minitx_orthogonalize_scratch(n, rows, columns);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (long i = 0; i < n; i++)
        orthogonalize(matrices[i], rows[i], columns[i], polynomials, count, safety,
                      (char *)scratch + THREAD * own);
}

#else

EXPORT long minitx_orthogonalize_scratch(long n, const int64_t *rows, const int64_t *columns) {
    return 0 * (n + rows[0] + columns[0]);
}
EXPORT void minitx_orthogonalize(long n, void *const *matrices, const int64_t *rows,
                                 const int64_t *columns, const float *polynomials, long count,
                                 float safety, void *scratch, int threads) {
    (void)n, (void)matrices, (void)rows, (void)columns, (void)polynomials, (void)count;
    (void)safety, (void)scratch, (void)threads;
}

#endif
