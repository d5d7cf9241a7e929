# What a loop needs that looks for somebody else's store: a pause between looks, a clock, and a flag to stop it by.

from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

cdef extern from *:
    """
    #if defined(__x86_64__) || defined(__i386__)
    #define spin_pause() __builtin_ia32_pause()
    #else
    #define spin_pause() __asm__ volatile("yield" ::: "memory")
    #endif
    #define raise_flag(flag) __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST)
    #define lower_flag(flag) __atomic_store_n(flag, 0, __ATOMIC_SEQ_CST)
    #define is_raised(flag) __atomic_load_n(flag, __ATOMIC_ACQUIRE)
    """
    void spin_pause() nogil
    void raise_flag(int *flag) nogil
    void lower_flag(int *flag) nogil
    bint is_raised(const int *flag) nogil

cdef enum:
    LOOKS_PER_CLOCK = 64


cdef inline int64_t now_ns() noexcept nogil:
    """CLOCK_MONOTONIC in nanoseconds; read without a system call (vdso(7))."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return <int64_t>now.tv_sec * 1_000_000_000 + now.tv_nsec
