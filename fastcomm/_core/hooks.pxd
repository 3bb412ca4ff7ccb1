"""Cython's view of include/fc_hooks.h."""


cdef extern from "fc_hooks.h" nogil:
    enum:
        FC_HOOK_NONE
        FC_HOOK_HELP_BEFORE_CAS
        FC_HOOK_CLAIM_BEFORE_CAS
        FC_HOOK_CLAIM_AFTER_CAS
        FC_HOOK_PAD_BEFORE_HEADER
        FC_HOOK_WRITE_HALF
        FC_HOOK_COMMIT_BEFORE_HEADER
        FC_HOOK_COMMIT_AFTER_HEADER
        FC_HOOK_WAKE_BEFORE_CLEAR
        FC_HOOK_WAKE_BEFORE_BUMP
        FC_HOOK_WAKE_BEFORE_FUTEX
        FC_HOOK_SLEEP_BEFORE_FLAG
        FC_HOOK_SLEEP_BEFORE_WAIT
        FC_HOOK_CONSUME_BEFORE_HEAD
        FC_HOOK_CONSUME_AFTER_HEAD
        FC_HOOK_CREATE_BEFORE_RESERVE
        FC_HOOK_CREATE_BEFORE_MAGIC
        FC_HOOK_CREATE_AFTER_MAGIC
        FC_HOOK_JOIN_BEFORE_STATE
        FC_HOOK_JOIN_AFTER_STATE
        FC_HOOK_LEAVE_BEFORE_FREE
        FC_HOOK_REAP_BEFORE_FREE
        FC_HOOK_BATCH_BETWEEN_HEADERS
        FC_HOOK_TABLE_MID_WRITE
        FC_HOOK_TABLE_BEFORE_GENERATION
        FC_HOOK_UNLINK_BEFORE_REMOVE
        FC_HOOK_QUEUE_LOCKED
        FC_HOOK_QUEUE_ITEM_OPENED
        FC_HOOK_STRING_BEFORE_END
        FC_HOOK_STRING_BEFORE_COUNT
    void fc_hook(int hook)
    bint fc_arm_hook(int hook, int countdown)


cdef inline int arm_hook(int hook, int countdown) except -1:
    """Stop this process the `countdown`-th time that the calling module passes that step.

    The debug build only: else RuntimeError.
    """
    if not fc_arm_hook(hook, countdown):
        raise RuntimeError("fault hooks are compiled into the debug build only (FASTCOMM_DEBUG=1)")
    return 0
