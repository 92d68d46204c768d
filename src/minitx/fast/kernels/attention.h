/* Attention of one head of keys of one sequence; see train_attention.c. */
#pragma once

#include <stdint.h>

#include "dropout.h"

/* What is the same for all tasks. */
typedef struct {
    const void *qkv; /* (batch, seq, heads + 2 * kv_heads, head_dim) */
    const void *cosine, *sine; /* (seq, head_dim); null: no norm and no rotation */
    const float *query_gain, *key_gain;
    int half; /* all of the above but the gains are bfloat16 */
    float eps;
    int64_t batch, seq, heads, kv_heads, head_dim;
    Dropout dropout; /* of the weights */
} Job;

/* Floats of scratch that one thread needs. */
int64_t attention_scratch(int64_t seq, int64_t head_dim);

/* Task `sequence * kv_heads + head of keys`: with the heads of queries that share it. out: (batch,
   seq, heads * head_dim), as half says; log_sums: (batch, heads, seq). */
void attend_forward(const Job *job, int64_t task, void *out, float *log_sums, float *scratch);

/* back: the gradient of qkv; by_gains: (2, head_dim), this task's part of the gradients of the
   queries' and the keys' gain. */
void attend_backward(const Job *job, int64_t task, const void *out, const float *log_sums,
                     const void *grad, void *back, float *by_gains, float *scratch);
