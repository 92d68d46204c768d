/* A step of Muon (training/optimizers/muon.py) for many matrices, each of them by one thread, from
   the gradient to the weights. */
#include <math.h>

#include "products.h"
#include "thread.h"

/* Rows that are multiplied, and whose share of the Gram matrix is formed, while they are in the
   cache. */
#define BAND 96

typedef struct {
    const float *gradient;
    float *momentum, *weights;
    int64_t rows, columns;
} Matrix;

static int is_tall(const Matrix *matrix) { return matrix->rows > matrix->columns; }

/* How many rows, and of which length, x has: the matrix, or if it is not tall, the transposed. An
   odd row is as long as the next even one where TERMS are read together. */
static int64_t length(const Matrix *matrix) { return most(matrix->rows, matrix->columns); }

static int64_t width(const Matrix *matrix) {
    return whole(is_tall(matrix) ? matrix->columns : matrix->rows, TERMS);
}

/* A thread's memory. Each reaches to whole tiles. */
typedef struct {
    Stored *x, *square_stored;
    float *band, *turned; /* rows of x, and the same transposed */
    float *square;        /* the Gram matrix x^T x, then its polynomial */
    Word *words, *panels, *square_panels;
} Own;

static Own own_in(Memory memory, const Matrix *matrix, size_t *used) {
    int64_t n = width(matrix), all = whole(n, PANEL);
    Own own;
    own.x = reserve(&memory, whole(length(matrix), BAND) * n, sizeof(Stored));
    own.square_stored = reserve(&memory, all * n, sizeof(Stored));
    own.band = reserve(&memory, BAND * n, sizeof(float));
    own.turned = reserve(&memory, BAND * n, sizeof(float));
    own.square = reserve(&memory, n * n, sizeof(float));
    own.words = reserve(&memory, BAND / TERMS * all, sizeof(Word));
    own.panels = reserve(&memory, BAND / TERMS * all, sizeof(Word));
    own.square_panels = reserve(&memory, n / TERMS * all, sizeof(Word));
    *used = memory.used;
    return own;
}

/* n momenta from place `at` on, and the look ahead (Nesterov) from them. */
static void look_ahead(const Matrix *matrix, int64_t at, int64_t n, float momentum,
                       float *restrict ahead) {
    const float *restrict g = matrix->gradient + at;
    float *restrict m = matrix->momentum + at;
    for (int64_t i = 0; i < n; i++) {
        m[i] += (1.0f - momentum) * (g[i] - m[i]);
        ahead[i] = g[i] + momentum * (m[i] - g[i]);
    }
}

/* Rows of x. Returns the sum of their squares. */
static double read_band(const Matrix *matrix, const Own *own, int64_t first, int64_t rows,
                        float momentum) {
    int64_t n = width(matrix), columns = matrix->columns;
    double squares = 0.0;
    memset(own->band, 0, (size_t)(BAND * n) * sizeof(float));
    if (is_tall(matrix)) {
        for (int64_t r = 0; r < rows; r++)
            look_ahead(matrix, (first + r) * columns, columns, momentum, own->band + r * n);
    } else {
        for (int64_t i = 0; i < matrix->rows; i++)
            look_ahead(matrix, i * columns + first, rows, momentum, own->turned + i * BAND);
        turn(own->turned, BAND, matrix->rows, rows, own->band, n);
    }
    for (int64_t r = 0; r < whole(rows, TERMS); r++) {
        float *row = own->band + r * n, sum = 0.0f;
        store_row(row, n, own->x + (first + r) * n);
        read_row(own->x, (first + r) * n, TERMS == 2, n, row);
        for (int64_t i = 0; i < n; i++) sum += row[i] * row[i];
        squares += sum;
    }
    return squares;
}

/* weights = weights * keep - rate * update, for n of them from place `at` on. */
static void change(const Matrix *matrix, int64_t at, int64_t n, float rate, float keep,
                   const float *restrict update) {
    float *restrict w = matrix->weights + at;
    for (int64_t i = 0; i < n; i++) w[i] = w[i] * keep - rate * update[i];
}

static void write_band(const Matrix *matrix, const Own *own, int64_t first, int64_t rows,
                       float rate, float keep) {
    int64_t n = width(matrix), columns = matrix->columns;
    if (is_tall(matrix)) {
        for (int64_t r = 0; r < rows; r++)
            change(matrix, (first + r) * columns, columns, rate, keep, own->band + r * n);
    } else {
        turn(own->band, n, rows, matrix->rows, own->turned, BAND);
        for (int64_t i = 0; i < matrix->rows; i++)
            change(matrix, i * columns + first, rows, rate, keep, own->turned + i * BAND);
    }
}

/* The share of some rows in x^T x. */
static void add_gram(const Own *own, const Stored *band, int64_t rows, int64_t n, Into into) {
    int64_t stride;
    const Word *words = words_of_columns(band, rows, n, own->words, &stride);
    pack_stored_rows(band, rows, n, own->panels);
    upper_product(words, 1, stride, own->panels, rows / TERMS, n, own->square, into);
}

/* square = linear * square + cubic * square^2, and `constant` added on the diagonal; as the factor
   of a product. */
static void polynomial(const Own *own, int64_t n, float constant, float linear, float cubic) {
    /* Scaled by their ratio, so that the product can be added to it. */
    float ratio = linear / cubic;
    for (int64_t r = 0; r < n; r++) {
        float *row = own->square + r * n;
        store_row(row, n, own->square_stored + r * n);
        for (int64_t i = 0; i < n; i++) row[i] *= ratio;
    }
    pack_stored_rows(own->square_stored, n, n, own->square_panels);
    upper_product((const Word *)own->square_stored, n / TERMS, 1, own->square_panels, n / TERMS, n,
                  own->square, ADD);
    mirror(own->square, n);
    for (int64_t r = 0; r < n; r++) {
        float *row = own->square + r * n;
        for (int64_t i = 0; i < n; i++) row[i] *= cubic;
        row[r] += constant;
        store_row(row, n, own->square_stored + r * n);
    }
    pack_stored_rows(own->square_stored, n, n, own->square_panels);
}

static float norm_of(const float *x, int64_t rows, int64_t n) {
    double squares = 0.0;
    for (int64_t r = 0; r < rows; r++) {
        float sum = 0.0f;
        for (int64_t i = 0; i < n; i++) sum += x[r * n + i] * x[r * n + i];
        squares += sum;
    }
    return (float)sqrt(squares);
}

/* Coefficients of x, x^3 and x^5. */
typedef struct {
    float a, b, c;
} Polynomial;

static void step(const Matrix *matrix, const Own *own, float momentum, float rate, float keep,
                 const Polynomial *polynomials, int64_t count, float safety) {
    int64_t n = width(matrix), all = length(matrix);
    double squares = 0.0;
    for (int64_t first = 0; first < all; first += BAND)
        squares += read_band(matrix, own, first, all - first < BAND ? all - first : BAND, momentum);
    /* First to a size at which squares neither overflow nor vanish. */
    float size = 1.0f / ((float)sqrt(squares) + 1e-20f);
    for (int64_t i = 0; i <= count; i++) {
        for (int64_t first = 0; first < all; first += BAND) {
            int64_t rows = all - first < BAND ? all - first : BAND, even = whole(rows, TERMS);
            Stored *x = own->x + first * n;
            if (i == 0) {
                for (int64_t r = 0; r < even; r++) {
                    read_row(x, r * n, TERMS == 2, n, own->band + r * n);
                    for (int64_t j = 0; j < n; j++) own->band[r * n + j] *= size;
                }
            } else {
                product((const Word *)x, n / TERMS, 1, even, own->square_panels, n / TERMS, n,
                        own->band, n, SET);
            }
            if (i == count) {
                write_band(matrix, own, first, rows, rate, keep);
                continue;
            }
            for (int64_t r = 0; r < even; r++) store_row(own->band + r * n, n, x + r * n);
            add_gram(own, x, even, n, first ? ADD : SET);
        }
        if (i == count) break;
        mirror(own->square, n);
        float a = polynomials[i].a, b = polynomials[i].b, c = polynomials[i].c;
        if (i == 0) {
            /* To x / sqrt(bound), by the polynomial: x stays as it is. Only that of an x that is
               almost 0 is smaller than this, and would make the coefficients infinite. */
            float bound = safety * norm_of(own->square, n, n);
            bound = bound < 1e-12f ? 1e-12f : bound;
            float root = sqrtf(bound);
            a /= root;
            b /= bound * root;
            c /= bound * bound * root;
        }
        polynomial(own, n, a, b, c);
    }
}

/* Bytes of scratch for one thread. */
EXPORT int64_t NAMED(muon_scratch)(int64_t n, const int64_t *rows, const int64_t *columns) {
    size_t largest = 0;
    for (int64_t i = 0; i < n; i++) {
        size_t used;
        own_in((Memory){0, 0}, &(Matrix){0, 0, 0, rows[i], columns[i]}, &used);
        largest = used > largest ? used : largest;
    }
    return (int64_t)largest;
}

EXPORT void NAMED(muon)(int64_t n, const float *const *gradients, float *const *momenta,
                  float *const *weights, const int64_t *rows, const int64_t *columns,
                  const float *rates, float momentum, float keep, const Polynomial *polynomials,
                  int64_t count, float safety, void *scratch, int threads) {
    int64_t bytes = NAMED(muon_scratch)(n, rows, columns);
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t i = 0; i < n; i++) {
        Matrix matrix = {gradients[i], momenta[i], weights[i], rows[i], columns[i]};
        Own own = own_in((Memory){(char *)scratch + THREAD * bytes, 0}, &matrix, &(size_t){0});
        step(&matrix, &own, momentum, rates[i], keep, polynomials, count, safety);
    }
}
