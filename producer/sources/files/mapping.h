/* SPDX-License-Identifier: BSD-2-Clause
 *
 * A file mapped into memory, which somebody may cut short meanwhile.
 *
 * Whoever touches a page of a mapping that its file has no more gets a SIGBUS.  Here such a page becomes one of zeros, and
 * mapping_left() tells the reader whether what it has read was in the file.  Any other SIGBUS is passed on to the handler
 * that was there before.
 */
#ifndef ZBUF_MAPPING_H
#define ZBUF_MAPPING_H

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define MAPPING_PAGE_BYTES UINT64_C(4096)

/* A member of a list that only grows, since the handler of a signal may be walking it; members are used again. */
struct mapping {
    struct mapping *next;
    uint8_t *at; /* NULL: not in use */
    size_t bytes;
};

static struct mapping *mappings;
static struct sigaction mapping_previous;

static inline bool mapping_mend(struct mapping *one, uintptr_t address)
{
    uintptr_t start = (uintptr_t)__atomic_load_n(&one->at, __ATOMIC_ACQUIRE),
              page = address & ~(MAPPING_PAGE_BYTES - 1);

    if (start == 0 || address < start || address - start >= one->bytes)
        return false;
    return mmap((void *)page, MAPPING_PAGE_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) !=
           MAP_FAILED;
}

static inline void mapping_on_sigbus(int number, siginfo_t *info, void *context)
{
    for (struct mapping *one = __atomic_load_n(&mappings, __ATOMIC_ACQUIRE); one != NULL; one = one->next)
        if (mapping_mend(one, (uintptr_t)info->si_addr))
            return;
    if (mapping_previous.sa_flags & SA_SIGINFO)
        mapping_previous.sa_sigaction(number, info, context);
    else if (mapping_previous.sa_handler != SIG_DFL && mapping_previous.sa_handler != SIG_IGN)
        mapping_previous.sa_handler(number);
    else
        sigaction(SIGBUS, &mapping_previous, NULL); /* the instruction is run again, and so is the signal */
}

static inline void mapping_watch(void)
{
    struct sigaction action = {.sa_sigaction = mapping_on_sigbus, .sa_flags = SA_SIGINFO | SA_NODEFER}, current;

    sigaction(SIGBUS, NULL, &current);
    if ((current.sa_flags & SA_SIGINFO) && current.sa_sigaction == mapping_on_sigbus)
        return;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &mapping_previous);
}

/* Map the first `bytes` of a file for reading; NULL if that fails.  Only one thread at a time may map and unmap. */
static inline struct mapping *mapping_make(int fd, size_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
    struct mapping *one = mappings;

    if (at == MAP_FAILED)
        return NULL;
    mapping_watch();
    madvise(at, bytes, MADV_SEQUENTIAL);
    while (one != NULL && one->at != NULL)
        one = one->next;
    if (one == NULL) {
        if ((one = calloc(1, sizeof *one)) == NULL) {
            munmap(at, bytes);
            return NULL;
        }
        one->next = mappings;
        __atomic_store_n(&mappings, one, __ATOMIC_RELEASE);
    }
    one->bytes = bytes;
    __atomic_store_n(&one->at, (uint8_t *)at, __ATOMIC_RELEASE);
    return one;
}

static inline void mapping_end(struct mapping *one)
{
    uint8_t *at = one->at;
    __atomic_store_n(&one->at, NULL, __ATOMIC_RELEASE);
    munmap(at, one->bytes);
}

/* How many of its first `bytes` the file still has. */
static inline size_t mapping_left(int fd, size_t bytes)
{
    struct stat now;
    return fstat(fd, &now) == 0 && (uint64_t)now.st_size < bytes ? (size_t)now.st_size : bytes;
}

/* Have the kernel read a range into memory now, except for the page that it begins in. */
static inline void mapping_touch(const uint8_t *at, size_t bytes)
{
    for (size_t done = MAPPING_PAGE_BYTES; done < bytes; done += MAPPING_PAGE_BYTES)
        (void)*(const volatile uint8_t *)(at + done);
}

#endif /* ZBUF_MAPPING_H */
