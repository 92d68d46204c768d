/* The number of the calling thread in a parallel region, and how many there are. */
#pragma once

#ifdef _OPENMP
/* Of omp.h, which not every compiler that knows OpenMP has. */
extern int omp_get_thread_num(void), omp_get_num_threads(void);
#define THREAD omp_get_thread_num()
#define THREADS omp_get_num_threads()
#else
#define THREAD 0
#define THREADS 1
#endif
