/* How far apart two processors are: the nanoseconds that a cache line takes from one to the other and back.  The two are the
 * first and the last processor that this process may use; if the scheduler chose, two threads could share one. */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { MOST_TRIPS = 100000, LONGEST_NS = 50000000, STOP = -1 };

static _Alignas(128) int line;
static double taken_ns[MOST_TRIPS];

static double now_ns(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec * 1e9 + (double)at.tv_nsec;
}

/* Wait for the other thread's next move; returns it. */
static int next(int last)
{
    int seen;
    while ((seen = __atomic_load_n(&line, __ATOMIC_ACQUIRE)) == last)
        ;
    return seen;
}

static void move_to(int processor)
{
    cpu_set_t only;
    CPU_ZERO(&only);
    CPU_SET(processor, &only);
    sched_setaffinity(0, sizeof only, &only); /* of the calling thread */
}

static void *answer(void *processor)
{
    move_to(*(int *)processor);
    for (int last = 0, seen; (seen = next(last)) != STOP; last = seen + 1)
        __atomic_store_n(&line, seen + 1, __ATOMIC_RELEASE);
    return NULL;
}

/* Returns the number of round trips, each of which takes the line from an even number to the next. */
static int ask(void)
{
    double began = now_ns(), at = began;
    int trips = 0;
    while (trips < MOST_TRIPS && at - began < LONGEST_NS) {
        double before = at;
        __atomic_store_n(&line, 2 * trips + 1, __ATOMIC_RELEASE);
        next(2 * trips + 1);
        at = now_ns();
        taken_ns[trips++] = at - before;
    }
    __atomic_store_n(&line, STOP, __ATOMIC_RELEASE);
    return trips;
}

static int compare(const void *one, const void *other)
{
    double a = *(const double *)one, b = *(const double *)other;
    return (a > b) - (a < b);
}

int main(void)
{
    cpu_set_t allowed;
    pthread_t other;
    int first = 0, last = CPU_SETSIZE - 1, trips;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < 2)
        return 1;
    while (!CPU_ISSET(first, &allowed))
        first++;
    while (!CPU_ISSET(last, &allowed))
        last--;
    if (pthread_create(&other, NULL, answer, &last) != 0)
        return 1;
    move_to(first);
    trips = ask();
    pthread_join(other, NULL);
    qsort(taken_ns, (size_t)trips, sizeof taken_ns[0], compare);
    printf("%.0f\n", taken_ns[trips / 2]); /* the median: now and then something else had a processor */
    return 0;
}
