"""Threads for the scenarios: started by C, so that they never had the GIL."""

cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    int pthread_create(pthread_t *thread, const void *attributes, void *(*start)(void *) noexcept nogil,
                       void *arg)
    int pthread_join(pthread_t thread, void **result)

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef extern from "<stdlib.h>" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef enum:
    MAX_THREADS = 8


ctypedef void *(*part_t)(void *arg) noexcept nogil


cdef inline void run_threads(const part_t *parts, int count, void *arg, size_t stride) noexcept nogil:
    """Thread i runs parts[i] with what stands `stride` bytes further than that of thread i - 1."""
    cdef pthread_t[MAX_THREADS] threads
    cdef int i
    for i in range(count):
        pthread_create(&threads[i], NULL, parts[i], <char *>arg + i * stride)
    for i in range(count):
        pthread_join(threads[i], NULL)
