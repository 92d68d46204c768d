/* What a library was compiled for, and what the processor is. */
#include "vector.h"

EXPORT int minitx_abi(void) { return MINITX_ABI; }

/* The family of this processor, as `FAMILIES` in library.py counts them. Asked of the library that
   every processor can run. */
EXPORT int minitx_processor(void) {
#ifdef __x86_64__
    int has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                   __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2");
    int has_avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                     __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                     __builtin_cpu_supports("avx512vl");
    if (!has_avx2 || !has_avx512) return has_avx2;
    return __builtin_cpu_supports("avx512bf16") ? 3 : 2;
#else
    return 0;
#endif
}

/* Whether this is the library with the processor's own products of bfloat16. */
EXPORT int minitx_bfloat16_products(void) {
#ifdef BFLOAT16_PRODUCTS
    return 1;
#else
    return 0;
#endif
}
