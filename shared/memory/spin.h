/* For loops that wait for another process's store: a pause between looks, and a flag of the own process that ends them. */
#ifndef ZBUF_SPIN_H
#define ZBUF_SPIN_H

#if defined(__x86_64__) || defined(__i386__)
#define spin_pause() __builtin_ia32_pause()
#else
#define spin_pause() __asm__ volatile("yield" ::: "memory")
#endif
#define raise_flag(flag) __atomic_store_n(flag, 1, __ATOMIC_SEQ_CST)
#define lower_flag(flag) __atomic_store_n(flag, 0, __ATOMIC_SEQ_CST)
#define is_raised(flag) __atomic_load_n(flag, __ATOMIC_ACQUIRE)

#endif
