"""Dispatch: the compiled half of EventBus, from a subject to the calls of its listeners.

The registry finds who listens, in the order of the calls, from its cache if it can.

Threads: under the GIL. What a call goes through is a tuple of its moment; a listener may subscribe,
unsubscribe and emit meanwhile, and one that has been unsubscribed is not called any more.
"""

cimport cython
from libc.stdint cimport uint64_t

from operator import attrgetter

from fastcomm._core.subject_registry import SubjectRegistry
from fastcomm._core.subjects import check_subject

SKIPPED = object()


@cython.final
cdef class Subscription:
    """A listener on a pattern, as EventBus.on() returns it. In a ``with`` it ends when that does.

    `pattern`, `priority`; `calls`: how often it was called and did not fail; `errors`: how often it failed.
    """

    cdef readonly str pattern
    cdef readonly object priority
    cdef readonly uint64_t calls
    cdef readonly uint64_t errors
    cdef Dispatch bus
    cdef object listener
    cdef object where
    cdef object transform
    cdef bint once
    cdef bint plain         # neither where, transform nor once
    cdef bint active

    def unsubscribe(self) -> None:
        """From now on it is not called, not even by an emit() that is under way. Again: does nothing."""
        self.end()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()

    cdef bint end(self) except -1:
        """False: it had ended already."""
        if not self.active:
            return False
        self.active = False
        self.bus.registry.remove(self.pattern, self)
        return True

    cdef object call(self, object subject, object data):
        """What the listener returns; SKIPPED if it is not to be called."""
        if not self.active:
            return SKIPPED
        if not self.plain:
            if self.where is not None and not self.where(data):
                return SKIPPED
            if self.once and not self.end():
                return SKIPPED
            if self.transform is not None:
                data = self.transform(data)
        return self.listener(subject, data)

    def __repr__(self):
        return f"<Subscription of {self.listener!r} on {self.pattern!r}{'' if self.active else ', ended'}>"


cdef class Dispatch:
    """The base of EventBus, which sets _queue and replaces _failed()."""

    cdef object registry
    cdef object match
    cdef public object _queue   # a PriorityQueue, or None
    cdef readonly uint64_t _emitted
    cdef readonly uint64_t _delivered
    cdef readonly uint64_t _errors

    def __cinit__(self):
        self.registry = SubjectRegistry(key=attrgetter("priority"))
        self.match = self.registry.match

    def _subscribe(self, str pattern, listener, priority, where, transform, bint once):
        cdef Subscription new = Subscription.__new__(Subscription)
        if not isinstance(priority, int):
            raise TypeError(f"a priority is an int, lower first, and not {type(priority).__name__}")
        for function in (listener, where, transform):
            if function is not None and not callable(function):
                raise TypeError(f"{function!r} can't be called")
        # As an exact int: a subclass may compare as it likes.
        new.pattern, new.priority, new.bus = pattern, int.__int__(priority), self
        new.listener, new.where, new.transform, new.once = listener, where, transform, once
        new.plain = where is None and transform is None and not once
        new.active = True
        self.registry.insert(pattern, new)
        return new

    def _listeners(self):
        return len(self.registry)

    # A plain method descriptor, as SubjectRegistry.match is: faster to call.
    @cython.binding(False)
    @cython.embedsignature.format("clinic")
    def emit(self, subject, data, *, priority=0, key=None):
        """Call the listeners of a subject; returns how many did not fail. InvalidSubjectError.

        A listener that returns an awaitable fails: emit_async() is for these. With a queue: put the event
        there, in which `priority` and `key` matter, and return 0. Full, ShutDown and what else put() raises.
        """
        if self._queue is None:
            return self.deliver(subject, data)
        check_subject(subject)
        self._queue.put((subject, data), priority=priority, key=None if key is None else (subject, key))
        return 0

    def _deliver(self, subject, data):
        return self.deliver(subject, data)

    @cython.final
    cdef Py_ssize_t deliver(self, object subject, object data) except -1:
        cdef Py_ssize_t delivered = 0
        cdef Subscription one
        cdef tuple found = self.match(subject)
        self._emitted += 1
        for one in found:
            try:
                result = one.call(subject, data)
                if result is not None:
                    if result is SKIPPED:
                        continue
                    refuse_awaitable(result)
            except Exception as error:
                self.count_error(one, subject, data, error)
                continue
            one.calls += 1
            self._delivered += 1
            delivered += 1
        return delivered

    async def _deliver_async(self, subject, data):
        """_deliver(), and each that returns an awaitable is awaited before the next is called."""
        cdef Py_ssize_t delivered = 0
        cdef Subscription one
        cdef tuple found = self.match(subject)
        self._emitted += 1
        for one in found:
            try:
                result = one.call(subject, data)
                if result is SKIPPED:
                    continue
                if hasattr(result, "__await__"):
                    await result
            except Exception as error:
                self.count_error(one, subject, data, error)
                continue
            one.calls += 1
            self._delivered += 1
            delivered += 1
        return delivered

    cdef int count_error(self, Subscription one, object subject, object data, object error) except -1:
        one.errors += 1
        self._errors += 1
        self._failed(error, one, subject, data)
        return 0


cdef int refuse_awaitable(object result) except -1:
    if hasattr(result, "__await__"):
        if hasattr(result, "close"):
            result.close()      # a coroutine that is never awaited warns
        raise TypeError("the listener returned an awaitable, which only emit_async() awaits")
    return 0
