/* Memory for a call: given out in whole cache lines. */
#pragma once

#include <stddef.h>

static inline long whole(long n, long part) { return (n + part - 1) / part * part; }

static inline long parts(long n, long part) { return (n + part - 1) / part; }

static inline long most(long a, long b) { return a > b ? a : b; }

/* Without a base it only counts. */
typedef struct {
    char *base;
    size_t used;
} Memory;

static inline void *reserve(Memory *memory, long count, long size) {
    size_t at = memory->used;
    memory->used += (size_t)whole(count * size, 64);
    return memory->base ? memory->base + at : 0;
}
