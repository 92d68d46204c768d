/* Threads that go through one computation together. */
#pragma once

#include <stdatomic.h>
#include <stdint.h>

#include "thread.h"

#ifdef _WIN32
int SwitchToThread(void);
#define give_way() SwitchToThread()
#else
#include <sched.h>
#define give_way() sched_yield()
#endif

/* Looks at whether all have come before a thread gives way: some 20 microseconds. */
enum { SPINS = 1000 };

/* Between two looks: leaves the core to the thread that may share it. */
static inline void pause_briefly(void) {
#if defined __x86_64__
    __builtin_ia32_pause();
#endif
}

/* Threads that may share work by `take`. */
enum { MOST_THREADS = 64 };

/* How much of a thread's own work between two meetings is taken. */
typedef struct {
    _Alignas(64) _Atomic int64_t taken;
} Share;

/* Where threads wait for each other: how many are there, and how often all were. */
typedef struct {
    _Alignas(64) _Atomic int64_t arrived, rounds;
    Share shares[MOST_THREADS];
} Meeting;

typedef struct {
    int64_t number, of;
    Meeting *meeting;
} Thread;

/* Who is here, inside a parallel region. */
static inline Thread this_thread(Meeting *meeting) {
    return (Thread){THREAD, THREADS, meeting};
}

/* OpenMP's barrier, but for a busy machine: whoever waits for long gives its core away, since the
   other may be waiting for that core. */
static inline void wait_for_all(Thread thread) {
    Meeting *meeting = thread.meeting;
    int64_t round = atomic_load(&meeting->rounds);
    if (atomic_fetch_add(&meeting->arrived, 1) + 1 == thread.of) {
        atomic_store(&meeting->arrived, 0);
        /* All see it before the new round. */
        for (int64_t i = 0; i < thread.of && i < MOST_THREADS; i++)
            atomic_store_explicit(&meeting->shares[i].taken, 0, memory_order_relaxed);
        atomic_store(&meeting->rounds, round + 1);
        return;
    }
    for (int turn = 0; atomic_load(&meeting->rounds) == round; turn++)
        if (turn < SPINS)
            pause_briefly();
        else
            turn = SPINS, give_way();
}

/* As `take` below, but what a thread takes first lies side by side. */
static inline int64_t take_near(Thread thread, int64_t count) {
    for (int64_t i = 0; i < thread.of; i++) {
        int64_t whose = (thread.number + i) % thread.of;
        int64_t at = count * whose / thread.of, end = count * (whose + 1) / thread.of;
        at += atomic_fetch_add(&thread.meeting->shares[whose].taken, 1);
        if (at < end) return at;
    }
    return count;
}

/* Does `work` for each i below `count`, by all threads together; all of it is done before any goes
   on. */
#define FOR_ALL(thread, count, work)                                                               \
    do {                                                                                           \
        for (int64_t i; (i = take_near(thread, count)) < (count);) work;                           \
        wait_for_all(thread);                                                                      \
    } while (0)

/* One of `count` pieces of work that nobody has, or `count`. Each time a thread has the same share
   of them, which it then finds in its own caches; and when it has done these, what the others have
   not yet begun, so that a busy core doesn't hold up the rest. */
static inline int64_t take(Thread thread, int64_t count) {
    for (int64_t i = 0; i < thread.of; i++) {
        int64_t whose = (thread.number + i) % thread.of;
        int64_t taken = atomic_fetch_add(&thread.meeting->shares[whose].taken, 1);
        if (taken * thread.of + whose < count) return taken * thread.of + whose;
    }
    return count;
}
