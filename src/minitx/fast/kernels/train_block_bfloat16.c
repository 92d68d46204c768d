/* train_block.c for products that take bfloat16 (AVX512-BF16). */
#include "vector.h"

#ifdef BFLOAT16_PRODUCTS
#define BFLOAT16
#include "train_block.c"
#endif
