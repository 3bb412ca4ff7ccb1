/* Fault hooks: a process of the debug build stops itself (SIGSTOP) at a named step of the protocol, so that a test can kill
 * it exactly there. In every other build the hooks are nothing at all.
 *
 * One hook is armed at a time, per extension module: it fires when it has been passed `countdown` times. */
#ifndef FC_HOOKS_H
#define FC_HOOKS_H

enum {
    FC_HOOK_NONE = 0,
    FC_HOOK_HELP_BEFORE_CAS,
    FC_HOOK_CLAIM_BEFORE_CAS,
    FC_HOOK_CLAIM_AFTER_CAS,
    FC_HOOK_PAD_BEFORE_HEADER,
    FC_HOOK_WRITE_HALF,
    FC_HOOK_COMMIT_BEFORE_HEADER,
    FC_HOOK_COMMIT_AFTER_HEADER,
    FC_HOOK_WAKE_BEFORE_CLEAR,
    FC_HOOK_WAKE_BEFORE_BUMP,
    FC_HOOK_WAKE_BEFORE_FUTEX,
    FC_HOOK_SLEEP_BEFORE_FLAG,
    FC_HOOK_SLEEP_BEFORE_WAIT,
    FC_HOOK_CONSUME_BEFORE_HEAD,
    FC_HOOK_CONSUME_AFTER_HEAD,
    FC_HOOK_CREATE_BEFORE_RESERVE,
    FC_HOOK_CREATE_BEFORE_MAGIC,
    FC_HOOK_CREATE_AFTER_MAGIC,
    FC_HOOK_JOIN_BEFORE_STATE,
    FC_HOOK_JOIN_AFTER_STATE,
    FC_HOOK_LEAVE_BEFORE_FREE,
    FC_HOOK_REAP_BEFORE_FREE,
    FC_HOOK_BATCH_BETWEEN_HEADERS,
    FC_HOOK_TABLE_MID_WRITE,
    FC_HOOK_TABLE_BEFORE_GENERATION,
    FC_HOOK_UNLINK_BEFORE_REMOVE,
    FC_HOOK_QUEUE_LOCKED,
    FC_HOOK_QUEUE_ITEM_OPENED,
    FC_HOOK_STRING_BEFORE_END,
    FC_HOOK_STRING_BEFORE_COUNT,
};

#ifdef FC_DEBUG

#include <signal.h>

static struct {
    int hook;
    int countdown;
} fc_armed;

static inline void fc_hook(int hook)
{
    if (__builtin_expect(fc_armed.hook == hook, 0) && --fc_armed.countdown == 0) {
        fc_armed.hook = FC_HOOK_NONE;
        raise(SIGSTOP);
    }
}

static inline int fc_arm_hook(int hook, int countdown)
{
    fc_armed.countdown = countdown;
    fc_armed.hook = hook;
    return 1;
}

#else

static inline void fc_hook(int hook) { (void)hook; }
static inline int fc_arm_hook(int hook, int countdown) { (void)hook; (void)countdown; return 0; }

#endif
#endif
