/* What the machine allows without Python: the limits that benchmarks compare with. Prints one JSON object.
 *
 *     limits cell   ROUNDS CPU...          hands a 64-byte cell to and fro, both sides spin; one way, ns
 *     limits futex  MESSAGES GAP_US CPU... stores a stamp and wakes a sleeper after each gap; ns to its clock
 *
 * Through the C twin of the ring (twin.h), records of BYTES each copied in and out:
 *
 *     limits ping   ROUNDS BYTES CPU...    to and fro through two rings; one way, ns
 *     limits knock  MESSAGES GAP_US BYTES CPU...
 *                                          a stamp after each gap; ns until it was received
 *     limits ring   RECORDS BYTES BATCH PRODUCERS CPU...
 *                                          records a second, from the first to the last received. BATCH 1:
 *                                          one call a record; else put BATCH at a time, take what is there
 *     limits fan    RECORDS BYTES CONSUMERS CPU...
 *                                          each record into a ring of each consumer; deliveries a second
 *     limits copy   RECORDS BYTES CPU...   put and get in one thread; ns for both
 *     limits crowd  AGENTS RATE MS BYTES CPU...
 *                                          AGENTS processes, each with a ring, send to random others at random
 *                                          times, RATE a second in all, for MS milliseconds; ns from when a
 *                                          record was due until it was received. Agent i runs on CPU i mod n
 *
 * For a test, with the ring OFFSET bytes into the file PATH; record i holds i, i + 1, ... (mod 256):
 *
 *     limits fill   PATH OFFSET RECORDS BYTES BATCH
 *     limits drain  PATH OFFSET RECORDS BYTES
 *                                          exit status 1 if a record is not what it should be
 *
 * The first CPU is the measuring process's, the others take turns on the rest; none: not pinned. Other
 * processes are forks, ended by the kernel if this one dies.
 */
#define _GNU_SOURCE
#include "twin.h"

#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/wait.h>

enum { CELLS = 1 << 14, GET_LIMIT = 1024, MAX_BYTES = 4096, MAX_SAMPLES = 1 << 20, MAX_PROCESSES = 128 };
enum { MAX_AGENTS = 1000, CROWD_CELLS = 1024, LEAD_NS = 300000000, QUIET_NS = 500000000 };

typedef struct {
    _Alignas(FC_CELL) uint64_t turn;
    uint8_t payload[FC_CELL - sizeof(uint64_t)];
} cell_t;

typedef struct {
    cell_t there, back;
    _Alignas(FC_CELL) uint32_t bell;
    uint64_t sent_at;
    _Alignas(FC_CELL) uint32_t ready;
    _Alignas(FC_CELL) uint32_t sent, received;
    uint64_t ended_at[MAX_PROCESSES];
    int64_t samples[MAX_SAMPLES];
} shared_t;

static shared_t *shared;
static char **cpus; /* as arguments */
static int cpu_count;
static uint8_t payload[MAX_BYTES], received[MAX_BYTES];

static void fail(const char *what)
{
    perror(what);
    exit(1);
}

static void *map_shared(size_t size)
{
    void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    return memory;
}

static uint8_t *new_ring_of(uint32_t cells)
{
    uint8_t *memory = map_shared(FC_RING_BYTES(cells));
    format_ring(memory, cells);
    return memory;
}

static uint8_t *new_ring(void)
{
    return new_ring_of(CELLS);
}

/* ------------------------------------------------------------------------------------------- processes -- */

/* Number 0 is the measuring process. */
static void pin(int process)
{
    cpu_set_t set;
    if (cpu_count < 2)
        return;
    CPU_ZERO(&set);
    CPU_SET(atoi(cpus[process ? 1 + (process - 1) % (cpu_count - 1) : 0]), &set);
    if (sched_setaffinity(0, sizeof set, &set))
        fail("sched_setaffinity");
}

/* 0 in the child. */
static pid_t fork_process(int number)
{
    pid_t parent = getpid(), child = fork();
    if (child < 0)
        fail("fork");
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(1);
        pin(number);
    }
    return child;
}

static void join(int children)
{
    int status;
    while (children--)
        if (wait(&status) < 0 || status)
            fail("another process");
}

/* ----------------------------------------------------------------------------------------- percentiles -- */

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
    printf("{\"p50\": %lld, \"p95\": %lld, \"p99\": %lld}\n", percentile(n, 50), percentile(n, 95),
           percentile(n, 99));
}

static void print_rate(int64_t records, int64_t started, int64_t ended)
{
    printf("{\"\": %.1f}\n", records * 1e9 / (ended - started));
}

/* -------------------------------------------------------------------------------- without any protocol -- */

/* Copies the 56 bytes in and out as a message would be; the turn is written last. */
static void hand_over(cell_t *cell, uint64_t turn)
{
    memcpy(cell->payload, payload, sizeof cell->payload);
    fc_store_release_u64(&cell->turn, turn);
}

static void take_over(cell_t *cell, uint64_t turn)
{
    while (fc_load_acquire_u64(&cell->turn) != turn)
        fc_pause();
    memcpy(received, cell->payload, sizeof cell->payload);
}

static void measure_cell(int64_t rounds)
{
    int64_t started, now;
    if (fork_process(1) == 0) {
        for (int64_t i = 1; i <= rounds; i++) {
            take_over(&shared->there, i);
            hand_over(&shared->back, i);
        }
        _exit(0);
    }
    pin(0);
    started = fc_monotonic_ns();
    for (int64_t i = 1; i <= rounds; i++) {
        hand_over(&shared->there, i);
        take_over(&shared->back, i);
        now = fc_monotonic_ns();
        shared->samples[i - 1] = (now - started) / 2;
        started = now;
    }
    join(1);
    print_percentiles(rounds);
}

static void measure_futex(int64_t messages, int64_t gap_us)
{
    struct timespec gap = {gap_us / 1000000, gap_us % 1000000 * 1000};
    if (fork_process(1) == 0) {
        for (uint32_t seen = 0; seen < messages; seen++) {
            while (fc_load_acquire_u32(&shared->bell) == seen)
                syscall(SYS_futex, &shared->bell, FUTEX_WAIT, seen, NULL, NULL, 0);
            shared->samples[seen] = fc_monotonic_ns() - (int64_t)fc_load_relaxed_u64(&shared->sent_at);
        }
        _exit(0);
    }
    pin(0);
    for (int64_t i = 0; i < messages; i++) {
        nanosleep(&gap, NULL);
        fc_store_relaxed_u64(&shared->sent_at, fc_monotonic_ns());
        fc_fetch_add_seqcst_u32(&shared->bell, 1);
        fc_futex_wake_all(&shared->bell);
    }
    join(1);
    print_percentiles(messages);
}

/* ------------------------------------------------------------------------------------ through the twin -- */

static void put(ring_t *ring, uint32_t nbytes)
{
    record_t record = {payload, nbytes, cells_of(nbytes)};
    put_many(ring, &record, 1);
}

static void measure_ping(int64_t rounds, uint32_t nbytes)
{
    uint8_t *first = new_ring(), *second = new_ring();
    int64_t started, now;
    if (fork_process(1) == 0) {
        ring_t out = open_ring(second, 2), in = open_ring(first, 2);
        for (int64_t i = 0; i < rounds; i++) {
            get_many(&in, received, 1);
            put(&out, nbytes);
        }
        _exit(0);
    }
    ring_t out = open_ring(first, 1), in = open_ring(second, 1);
    pin(0);
    started = fc_monotonic_ns();
    for (int64_t i = 0; i < rounds; i++) {
        put(&out, nbytes);
        get_many(&in, received, 1);
        now = fc_monotonic_ns();
        shared->samples[i] = (now - started) / 2;
        started = now;
    }
    join(1);
    print_percentiles(rounds);
}

static void measure_knock(int64_t messages, int64_t gap_us, uint32_t nbytes)
{
    struct timespec gap = {gap_us / 1000000, gap_us % 1000000 * 1000};
    uint8_t *memory = new_ring();
    int64_t stamp;
    if (fork_process(1) == 0) {
        ring_t ring = open_ring(memory, 2);
        for (int64_t i = 0; i < messages; i++) {
            get_many(&ring, received, 1);
            memcpy(&stamp, received, sizeof stamp);
            shared->samples[i] = fc_monotonic_ns() - stamp;
        }
        _exit(0);
    }
    ring_t ring = open_ring(memory, 1);
    pin(0);
    for (int64_t i = 0; i < messages; i++) {
        nanosleep(&gap, NULL);
        stamp = fc_monotonic_ns();
        memcpy(payload, &stamp, sizeof stamp);
        put(&ring, nbytes);
    }
    join(1);
    print_percentiles(messages);
}

static void produce(ring_t *ring, int64_t records, uint32_t nbytes, size_t batch)
{
    record_t run[MAX_BATCH];
    for (size_t i = 0; i < batch; i++)
        run[i] = (record_t){payload, nbytes, cells_of(nbytes)};
    for (int64_t i = 0; i < records; i += batch)
        put_many(ring, run, batch);
}

static void measure_ring(int64_t records, uint32_t nbytes, size_t batch, int producers)
{
    uint8_t *memory = new_ring();
    int64_t each = records / producers / batch * batch, left = each * producers, first, started;
    for (int i = 0; i < producers; i++)
        if (fork_process(1 + i) == 0) {
            ring_t ring = open_ring(memory, i + 2);
            produce(&ring, each, nbytes, batch);
            _exit(0);
        }
    ring_t ring = open_ring(memory, 1);
    ring.patience = LAZY;
    pin(0);
    left -= get_many(&ring, received, batch > 1 ? GET_LIMIT : 1);
    first = left;
    started = fc_monotonic_ns();
    while (left > 0)
        left -= get_many(&ring, received, batch > 1 ? GET_LIMIT : 1);
    print_rate(first, started, fc_monotonic_ns());
    join(producers);
}

static void measure_fan(int64_t records, uint32_t nbytes, int consumers)
{
    uint8_t *memories[MAX_PROCESSES];
    ring_t rings[MAX_PROCESSES];
    int64_t started, ended = 0;
    for (int i = 0; i < consumers; i++) {
        memories[i] = new_ring();
        rings[i] = open_ring(memories[i], 1);
    }
    for (int i = 0; i < consumers; i++)
        if (fork_process(1 + i) == 0) {
            ring_t ring = open_ring(memories[i], 2);
            ring.patience = LAZY;
            fc_fetch_add_seqcst_u32(&shared->ready, 1);
            for (int64_t left = records; left > 0; left--)
                get_many(&ring, received, 1);
            shared->ended_at[i] = fc_monotonic_ns();
            _exit(0);
        }
    pin(0);
    while (fc_load_acquire_u32(&shared->ready) < (uint32_t)consumers)
        sched_yield();
    started = fc_monotonic_ns();
    for (int64_t i = 0; i < records; i++)
        for (int k = 0; k < consumers; k++)
            put(&rings[k], nbytes);
    join(consumers);
    for (int i = 0; i < consumers; i++)
        if ((int64_t)shared->ended_at[i] > ended)
            ended = shared->ended_at[i];
    print_rate(records * consumers, started, ended);
}

static void measure_copy(int64_t records, uint32_t nbytes)
{
    ring_t producer, consumer;
    uint8_t *memory = new_ring();
    int64_t started;
    producer = open_ring(memory, 1);
    consumer = producer;
    pin(0);
    started = fc_monotonic_ns();
    for (int64_t i = 0; i < records; i++) {
        put(&producer, nbytes);
        get_many(&consumer, received, 1);
    }
    printf("{\"\": %.3f}\n", (double)(fc_monotonic_ns() - started) / records);
}

/* ------------------------------------------------------------------------------------------- the crowd -- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

/* Nanoseconds between two events that are independent and `mean` apart on average. */
static double random_gap(uint64_t *state, double mean)
{
    return -log((next_random(state) >> 11) * 0x1p-53 + 0x1p-54) * mean;
}

/* Take a record, if one comes before `deadline`, and note how long after it was due. */
static int take_stamped(ring_t *inbox, int64_t deadline)
{
    int64_t stamp;
    if (get_many_until(inbox, received, 1, deadline) == 0)
        return 0;
    memcpy(&stamp, received, sizeof stamp);
    uint32_t number = fc_fetch_add_seqcst_u32(&shared->received, 1);
    if (number < MAX_SAMPLES)
        shared->samples[number] = fc_monotonic_ns() - stamp;
    return 1;
}

/* As send_at_rate() of load.py. */
static void be_agent(uint8_t **inboxes, int agents, int me, int64_t start, int64_t stop, double gap,
                     uint32_t nbytes)
{
    static ring_t rings[MAX_AGENTS];
    uint64_t random = 0x9E3779B97F4A7C15u * (me + 1);
    prctl(PR_SET_TIMERSLACK, 1);
    for (int i = 0; i < agents; i++)
        rings[i] = open_ring(inboxes[i], me + 1);
    double due = start + random_gap(&random, gap);
    while (due < stop) {
        while (fc_monotonic_ns() < due)
            take_stamped(&rings[me], due);
        int64_t stamp = due;
        int target = next_random(&random) % (agents - 1);
        memcpy(payload, &stamp, sizeof stamp);
        put(&rings[target + (target >= me)], nbytes);
        fc_fetch_add_seqcst_u32(&shared->sent, 1);
        take_stamped(&rings[me], 0);
        due += random_gap(&random, gap);
    }
    while (take_stamped(&rings[me], fc_monotonic_ns() + QUIET_NS) || fc_monotonic_ns() < stop)
        ;
}

static void measure_crowd(int agents, int64_t rate, int64_t milliseconds, uint32_t nbytes)
{
    uint8_t *inboxes[MAX_AGENTS];
    int64_t start = fc_monotonic_ns() + LEAD_NS, stop = start + milliseconds * 1000000;
    for (int i = 0; i < agents; i++)
        inboxes[i] = new_ring_of(CROWD_CELLS);
    for (int i = 0; i < agents; i++)
        if (fork_process(cpu_count > 1 ? i % cpu_count : 0) == 0) {
            be_agent(inboxes, agents, i, start, stop, 1e9 * agents / rate, nbytes);
            _exit(0);
        }
    join(agents);
    if (shared->sent == 0 || shared->sent != shared->received || shared->sent > MAX_SAMPLES)
        fail("not every record arrived");
    print_percentiles(shared->sent);
}

/* ------------------------------------------------------------------------- a ring that others laid out -- */

static ring_t ring_in_file(const char *path, size_t offset)
{
    struct stat status;
    int fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &status))
        fail(path);
    uint8_t *memory = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        fail("mmap");
    return open_ring(memory + offset, 2);
}

static void describe(uint8_t *bytes, uint32_t nbytes, int64_t i)
{
    for (uint32_t k = 0; k < nbytes; k++)
        bytes[k] = i + k;
}

static void fill(ring_t ring, int64_t records, uint32_t nbytes, size_t batch)
{
    static uint8_t bytes[MAX_BATCH][MAX_BYTES];
    record_t run[MAX_BATCH];
    for (int64_t i = 0; i < records; i += batch) {
        for (size_t k = 0; k < batch; k++) {
            describe(bytes[k], nbytes, i + k);
            run[k] = (record_t){bytes[k], nbytes, cells_of(nbytes)};
        }
        put_many(&ring, run, batch);
    }
    printf("{\"\": %lld}\n", (long long)records);
}

static void drain(ring_t ring, int64_t records, uint32_t nbytes)
{
    uint8_t expected[MAX_BYTES];
    for (int64_t i = 0; i < records; i++) {
        describe(expected, nbytes, i);
        get_many(&ring, received, 1);
        if (memcmp(expected, received, nbytes))
            fail("record");
    }
    printf("{\"\": %lld}\n", (long long)records);
}

/* ------------------------------------------------------------------------------------------------ main -- */

static int64_t number(char **arguments, int i, int64_t low, int64_t high)
{
    int64_t value = atoll(arguments[i]);
    if (value < low || value > high) {
        fprintf(stderr, "argument %d is %s; it must be %lld to %lld\n", i, arguments[i], (long long)low,
                (long long)high);
        exit(2);
    }
    return value;
}

/* Whether the command is `name` with so many arguments; what follows them are CPUs. */
static int is(int argc, char **argv, const char *name, int arguments)
{
    if (argc < 2 + arguments || strcmp(argv[1], name))
        return 0;
    cpus = argv + 2 + arguments;
    cpu_count = argc - 2 - arguments;
    return 1;
}

int main(int argc, char **argv)
{
    const int64_t most = 1000000000;
    shared = map_shared(sizeof *shared);
#define IS(name, arguments) is(argc, argv, name, arguments)
#define N(i, high) number(argv, 1 + i, 1, high)
    if (IS("cell", 1))
        measure_cell(N(1, MAX_SAMPLES));
    else if (IS("futex", 2))
        measure_futex(N(1, MAX_SAMPLES), N(2, 1000000));
    else if (IS("ping", 2))
        measure_ping(N(1, MAX_SAMPLES), N(2, MAX_BYTES));
    else if (IS("knock", 3))
        measure_knock(N(1, MAX_SAMPLES), N(2, 1000000), N(3, MAX_BYTES));
    else if (IS("ring", 4))
        measure_ring(N(1, most), N(2, MAX_BYTES), N(3, MAX_BATCH), N(4, MAX_PROCESSES));
    else if (IS("fan", 3))
        measure_fan(N(1, most), N(2, MAX_BYTES), N(3, MAX_PROCESSES));
    else if (IS("copy", 2))
        measure_copy(N(1, most), N(2, MAX_BYTES));
    else if (IS("crowd", 4))
        measure_crowd(number(argv, 2, 2, MAX_AGENTS), N(2, most), N(3, 60000), N(4, MAX_BYTES));
    else if (IS("fill", 5))
        fill(ring_in_file(argv[2], N(2, most)), N(3, most), N(4, MAX_BYTES), N(5, MAX_BATCH));
    else if (IS("drain", 4))
        drain(ring_in_file(argv[2], N(2, most)), N(3, most), N(4, MAX_BYTES));
    else
        return fprintf(stderr, "usage: see the head of limits.c\n"), 2;
    return 0;
}
