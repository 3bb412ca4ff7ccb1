"""An indexed d-ary heap over C arrays: no Python objects, inlined where it is used.

A d-ary heap (D. B. Johnson, "Priority queues with update and finding minimum spanning trees", 1975) is a heap
whose nodes have ARITY children instead of 2. It is half as deep with 4, and the children that a step down
compares lie side by side, in one or two cache lines. What is removed leaves a hole that sinks to a leaf along
the smallest children, and the last node rises from there (I. Wegener, "Bottom-up heapsort", 1993): it mostly
belongs near the leaves, so comparing it on the way down would be in vain.

A node is ordered by priority, lower first, then by number; numbers differ, so the order is total, and whoever
numbers in the order of arrival has a stable heap. `entry` is what the node stands for; `places` leads from an
entry back to its node, so that any node can be moved or removed in logarithmic time.

Threads: nothing here locks; whoever owns the struct serialises. A struct of zeros is an empty heap.
"""

from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc

cdef enum:
    ARITY = 4

cdef struct Node:
    int64_t priority
    uint64_t number
    uint32_t entry

cdef struct Heap:
    Node* nodes
    uint32_t* places        # by entry; what stands there for an entry without a node is the owner's affair
    uint32_t size


cdef inline bint c_node_before(const Node* a, const Node* b) noexcept nogil:
    # Without branches: which of two random nodes is less can't be predicted.
    return (a.priority < b.priority) | ((a.priority == b.priority) & (a.number < b.number))


cdef inline bint c_heap_reserve(Heap* heap, uint32_t capacity) noexcept nogil:
    """Room for so many nodes and entries, no fewer than there are. False: no memory, nothing changed."""
    cdef void* nodes = realloc(heap.nodes, capacity * sizeof(Node))
    cdef void* places
    if nodes == NULL:
        return False
    heap.nodes = <Node*>nodes
    places = realloc(heap.places, capacity * sizeof(uint32_t))
    if places == NULL:
        return False
    heap.places = <uint32_t*>places
    return True


cdef inline void c_heap_free(Heap* heap) noexcept nogil:
    free(heap.nodes)
    free(heap.places)
    heap.nodes = NULL
    heap.places = NULL
    heap.size = 0


cdef inline Node* c_heap_node(const Heap* heap, uint32_t entry) noexcept nogil:
    return &heap.nodes[heap.places[entry]]


cdef inline void c_heap_set(Heap* heap, uint32_t place, const Node* node) noexcept nogil:
    heap.nodes[place] = node[0]
    heap.places[node.entry] = place


cdef inline void c_heap_rise(Heap* heap, uint32_t hole, const Node* node) noexcept nogil:
    """Fill the hole with `node`, once everything after it has moved out of its way to the root."""
    cdef uint32_t parent
    while hole > 0:
        parent = (hole - 1) // ARITY
        if not c_node_before(node, &heap.nodes[parent]):
            break
        c_heap_set(heap, hole, &heap.nodes[parent])
        hole = parent
    c_heap_set(heap, hole, node)


cdef inline uint32_t c_heap_sink(Heap* heap, uint32_t hole) noexcept nogil:
    """Move the hole down to a leaf, the least child up each time; returns the leaf."""
    cdef uint64_t child, end, least
    while True:
        child = <uint64_t>hole * ARITY + 1
        if child >= heap.size:
            return hole
        end = min(child + ARITY, <uint64_t>heap.size)
        least = child
        for child in range(child + 1, end):
            if c_node_before(&heap.nodes[child], &heap.nodes[least]):
                least = child
        c_heap_set(heap, hole, &heap.nodes[least])
        hole = <uint32_t>least


cdef inline void c_heap_push(Heap* heap, uint32_t entry, int64_t priority, uint64_t number) noexcept nogil:
    """Add a node; there is room for it, and `entry` has none yet."""
    cdef Node node = Node(priority, number, entry)
    heap.size += 1
    c_heap_rise(heap, heap.size - 1, &node)


cdef inline void c_heap_remove(Heap* heap, uint32_t entry) noexcept nogil:
    cdef uint32_t hole = heap.places[entry]
    cdef Node last
    heap.size -= 1
    if hole != heap.size:
        last = heap.nodes[heap.size]
        c_heap_rise(heap, c_heap_sink(heap, hole), &last)


cdef inline void c_heap_move(Heap* heap, uint32_t entry, int64_t priority, uint64_t number) noexcept nogil:
    """Give the node of `entry` another rank."""
    cdef uint32_t hole = heap.places[entry]
    cdef Node node = Node(priority, number, entry)
    if not c_node_before(&node, &heap.nodes[hole]):
        hole = c_heap_sink(heap, hole)
    c_heap_rise(heap, hole, &node)
