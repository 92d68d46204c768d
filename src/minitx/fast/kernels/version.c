#include "vector.h"

EXPORT int minitx_abi(void) { return MINITX_ABI; }

/* Whether the kernels that need the processor's own products of bfloat16 are there, and it is. */
EXPORT int minitx_bfloat16_products(void) {
#ifdef BFLOAT16_PRODUCTS
    return __builtin_cpu_supports("avx512bf16") != 0;
#else
    return 0;
#endif
}
