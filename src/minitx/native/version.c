#include "vector.h"

EXPORT int minitx_abi(void) { return MINITX_ABI; }
