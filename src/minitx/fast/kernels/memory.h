/* Memory for a call: given out in whole cache lines. */
#pragma once

#include <stddef.h>
#include <stdint.h>

static inline int64_t whole(int64_t n, int64_t part) { return (n + part - 1) / part * part; }

static inline int64_t parts(int64_t n, int64_t part) { return (n + part - 1) / part; }

static inline int64_t most(int64_t a, int64_t b) { return a > b ? a : b; }

/* Without a base it only counts. */
typedef struct {
    char *base;
    size_t used;
} Memory;

static inline void *reserve(Memory *memory, int64_t count, int64_t size) {
    size_t at = memory->used;
    memory->used += (size_t)whole(count * size, 64);
    return memory->base ? memory->base + at : 0;
}
