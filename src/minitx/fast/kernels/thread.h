/* The number of the calling thread in a parallel region. */
#pragma once

#ifdef _OPENMP
#include <omp.h>
#define THREAD omp_get_thread_num()
#else
#define THREAD 0
#endif
