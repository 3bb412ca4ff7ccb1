"""The bus's tables for the modules that are laid over them."""

from libc.stdint cimport uint32_t, uint64_t

from fastcomm._core.layout cimport fc_agent_t, fc_subscription_t, fc_subscriptions_t


cdef class AgentTable:
    cdef unsigned char[::1] memory
    cdef fc_agent_t *agents
    cdef readonly int capacity


cdef class SubscriptionTable:
    cdef unsigned char[::1] memory
    cdef fc_subscriptions_t *shared
    cdef fc_subscription_t *entries
    cdef readonly uint32_t capacity

    cdef uint64_t c_generation(self) noexcept nogil
    cdef int log_change(self, uint32_t entry) except -1
