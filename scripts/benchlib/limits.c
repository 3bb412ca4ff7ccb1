/* What the machine allows without Python: the limits that benchmarks compare with. Prints one JSON object.
 *
 *     limits spin    ROUNDS CPU CPU          hands a 64-byte cell to and fro, both sides spin; one way, ns
 *     limits futex   MESSAGES GAP_US CPU CPU stores a stamp and wakes a sleeper after each gap; ns to its clock read
 *     limits ring    RECORDS BYTES CPU CPU   copies records through a plain ring, both sides spin; records a second
 *     limits copy    RECORDS BYTES           the same ring, put and get in one thread; ns for both
 *
 * CPU -1: not pinned. The other process is a fork, ended by the kernel if this one dies first.
 */
#define _GNU_SOURCE
#include <linux/futex.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { CELL = 64, SLOTS = 2048, MAX_BYTES = 1016, MAX_SAMPLES = 1 << 20 };

typedef struct {
    _Alignas(CELL) _Atomic uint64_t turn;
    uint8_t payload[CELL - sizeof(uint64_t)];
} cell_t;

typedef struct {
    cell_t there, back;
    _Alignas(CELL) _Atomic uint32_t bell;
    _Atomic int64_t sent_at;
    _Alignas(2 * CELL) _Atomic uint64_t tail;
    _Alignas(2 * CELL) _Atomic uint64_t head;
    _Alignas(CELL) uint8_t slots[SLOTS][MAX_BYTES + 8];
    int64_t samples[MAX_SAMPLES];
} shared_t;

static shared_t *shared;

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static int64_t now_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void pin(int cpu)
{
    cpu_set_t set;
    if (cpu < 0)
        return;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

static inline void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static pid_t fork_onto(int cpu)
{
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        pin(cpu);
    }
    return child;
}

static void join(pid_t child)
{
    int status;
    if (waitpid(child, &status, 0) < 0 || status)
        fail("the other process");
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x > y) - (x < y);
}

/* Nearest rank, as the Python side has it. */
static long long percentile(int64_t n, int64_t percent)
{
    return shared->samples[(percent * n + 99) / 100 - 1];
}

static void print_percentiles(int64_t n)
{
    qsort(shared->samples, n, sizeof(int64_t), by_size);
    printf("{\"p50\": %lld, \"p95\": %lld, \"p99\": %lld}\n", percentile(n, 50), percentile(n, 95), percentile(n, 99));
}

/* Copies the 56 bytes in and out as a message would be; the turn is the last word of the cell to be written. */
static void hand_over(cell_t *cell, uint64_t turn, const uint8_t *payload)
{
    memcpy(cell->payload, payload, sizeof cell->payload);
    atomic_store_explicit(&cell->turn, turn, memory_order_release);
}

static void take_over(cell_t *cell, uint64_t turn, uint8_t *payload)
{
    while (atomic_load_explicit(&cell->turn, memory_order_acquire) != turn)
        relax();
    memcpy(payload, cell->payload, sizeof cell->payload);
}

static void spin(int64_t rounds, int here, int there)
{
    uint8_t payload[CELL] = {1};
    int64_t started, now;
    pid_t child = fork_onto(there);
    if (child == 0) {
        for (int64_t i = 1; i <= rounds; i++) {
            take_over(&shared->there, i, payload);
            hand_over(&shared->back, i, payload);
        }
        _exit(0);
    }
    pin(here);
    started = now_ns();
    for (int64_t i = 1; i <= rounds; i++) {
        hand_over(&shared->there, i, payload);
        take_over(&shared->back, i, payload);
        now = now_ns();
        shared->samples[i - 1] = (now - started) / 2;
        started = now;
    }
    join(child);
    print_percentiles(rounds);
}

static void sleep_for_bells(int64_t messages)
{
    for (uint32_t seen = 0; seen < messages; seen++) {
        while (atomic_load_explicit(&shared->bell, memory_order_acquire) == seen)
            syscall(SYS_futex, &shared->bell, FUTEX_WAIT, seen, NULL, NULL, 0);
        shared->samples[seen] = now_ns() - atomic_load_explicit(&shared->sent_at, memory_order_relaxed);
    }
    _exit(0);
}

static void futex(int64_t messages, long gap_us, int here, int there)
{
    struct timespec gap = {gap_us / 1000000, gap_us % 1000000 * 1000};
    pid_t child = fork_onto(there);
    if (child == 0)
        sleep_for_bells(messages);
    pin(here);
    for (int64_t i = 0; i < messages; i++) {
        nanosleep(&gap, NULL);
        atomic_store_explicit(&shared->sent_at, now_ns(), memory_order_relaxed);
        atomic_fetch_add_explicit(&shared->bell, 1, memory_order_release);
        syscall(SYS_futex, &shared->bell, FUTEX_WAKE, 1, NULL, NULL, 0);
    }
    join(child);
    print_percentiles(messages);
}

/* One producer, one consumer, each with a cached copy of the other's index: the textbook ring. */
static inline int put(uint64_t *tail, uint64_t *known_head, const uint8_t *record, uint64_t size)
{
    uint8_t *slot = shared->slots[*tail % SLOTS];
    if (*tail - *known_head == SLOTS) {
        *known_head = atomic_load_explicit(&shared->head, memory_order_acquire);
        if (*tail - *known_head == SLOTS)
            return 0;
    }
    memcpy(slot, &size, 8);
    memcpy(slot + 8, record, size);
    atomic_store_explicit(&shared->tail, ++*tail, memory_order_release);
    return 1;
}

static inline int get(uint64_t *head, uint64_t *known_tail, uint8_t *record)
{
    const uint8_t *slot = shared->slots[*head % SLOTS];
    uint64_t size;
    if (*head == *known_tail) {
        *known_tail = atomic_load_explicit(&shared->tail, memory_order_acquire);
        if (*head == *known_tail)
            return 0;
    }
    memcpy(&size, slot, 8);
    memcpy(record, slot + 8, size);
    atomic_store_explicit(&shared->head, ++*head, memory_order_release);
    return 1;
}

static void ring(int64_t records, uint64_t size, int here, int there)
{
    uint8_t record[MAX_BYTES] = {1};
    uint64_t mine = 0, theirs = 0;
    int64_t started = 0;
    pid_t child = fork_onto(there);
    if (child == 0) {
        for (int64_t i = 0; i < records; i++)
            while (!put(&mine, &theirs, record, size))
                relax();
        _exit(0);
    }
    pin(here);
    for (int64_t i = 0; i < records; i++) {
        while (!get(&mine, &theirs, record))
            relax();
        if (i == 0)
            started = now_ns();
    }
    printf("{\"\": %.1f}\n", (records - 1) * 1e9 / (now_ns() - started));
    join(child);
}

static void copy(int64_t records, uint64_t size)
{
    uint8_t record[MAX_BYTES] = {1};
    uint64_t tail = 0, known_head = 0, head = 0, known_tail = 0;
    int64_t started = now_ns();
    for (int64_t i = 0; i < records; i++)
        if (!put(&tail, &known_head, record, size) || !get(&head, &known_tail, record))
            abort();
    printf("{\"\": %.3f}\n", (double)(now_ns() - started) / records);
}

static int64_t number(char **arguments, int i, int64_t low, int64_t high)
{
    int64_t value = atoll(arguments[i]);
    if (value < low || value > high) {
        fprintf(stderr, "argument %d is %lld; it must be %lld to %lld\n", i, (long long)value, (long long)low, (long long)high);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (shared == MAP_FAILED)
        fail("mmap");
    if (!strcmp(what, "spin") && argc == 5)
        spin(number(argv, 2, 1, MAX_SAMPLES), atoi(argv[3]), atoi(argv[4]));
    else if (!strcmp(what, "futex") && argc == 6)
        futex(number(argv, 2, 1, MAX_SAMPLES), number(argv, 3, 1, 1000000), atoi(argv[4]), atoi(argv[5]));
    else if (!strcmp(what, "ring") && argc == 6)
        ring(number(argv, 2, 2, 1000000000), number(argv, 3, 1, MAX_BYTES), atoi(argv[4]), atoi(argv[5]));
    else if (!strcmp(what, "copy") && argc == 4)
        copy(number(argv, 2, 1, 1000000000), number(argv, 3, 1, MAX_BYTES));
    else
        return fprintf(stderr, "usage: limits spin|futex|ring|copy ...; see the head of limits.c\n"), 2;
    return 0;
}
