/* What a library was compiled for, and what the processor is. */
#ifdef __x86_64__
#include <cpuid.h>
#endif

#include "vector.h"

EXPORT int minitx_abi(void) { return MINITX_ABI; }

/* The family of this processor, as `FAMILIES` in library.py counts them. Asked of the library that
   every processor can run. By cpuid, whose numbers are in Intel's manual, volume 2A: what compilers
   have for it is in a library of theirs, which Clang does not link on Windows. */
EXPORT int minitx_processor(void) {
#ifdef __x86_64__
    const uint32_t fma = 1u << 12, saves = 1u << 27;
    const uint32_t avx2 = 1u << 3 | 1u << 5 | 1u << 8; /* with BMI1 and BMI2 */
    const uint32_t avx512 = 1u << 16 | 1u << 17 | 1u << 28 | 1u << 30 | 1u << 31; /* F DQ CD BW VL */
    uint32_t a, b, c, d, kept, more;
    if (!__get_cpuid(1, &a, &b, &c, &d) || ~c & (fma | saves)) return 0;
    /* Whether the system keeps vectors: 256 bits of them, 512. */
    __asm__("xgetbv" : "=a"(kept), "=d"(more) : "c"(0));
    if (!__get_cpuid_count(7, 0, &a, &b, &c, &d) || ~b & avx2 || ~kept & 0x6) return 0;
    if (~b & avx512 || ~kept & 0xe6) return 1;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1u << 5 ? 3 : 2;
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
