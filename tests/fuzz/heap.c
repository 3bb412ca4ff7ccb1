/* Linked to libFuzzer: how much memory was held at most since heap_watch(), whoever allocated it.

   AddressSanitizer calls the two hooks for each malloc and free of the process. One thread alone may be watched.
 */
#include <stddef.h>

int __sanitizer_install_malloc_and_free_hooks(void (*)(const volatile void *, size_t), void (*)(const volatile void *));
size_t __sanitizer_get_allocated_size(const volatile void *);

static long held, peak;

static void allocated(const volatile void *block, size_t size)
{
    (void)block;
    held += (long)size;
    if (held > peak) {
        peak = held;
    }
}

static void freed(const volatile void *block)
{
    if (block) {
        held -= (long)__sanitizer_get_allocated_size(block);
    }
}

int heap_install(void)
{
    return __sanitizer_install_malloc_and_free_hooks(allocated, freed);
}

void heap_watch(void)
{
    held = peak = 0;
}

long heap_peak(void)
{
    return peak;
}
