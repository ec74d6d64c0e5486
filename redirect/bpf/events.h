/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Counting refusals and telling the loader about them. */
#ifndef RACECAR_EVENTS_H
#define RACECAR_EVENTS_H

#include "judge.h"

#define EVENTS_PER_SECOND 1000	/* per workload: more are counted, not sent */

static __always_inline void count(__u32 reason)
{
	__u64 *counter = bpf_map_lookup_elem(&refusals, &reason);

	if (counter)
		__sync_fetch_and_add(counter, 1);
}

static __always_inline int within_rate(__u32 workload, __u64 now)
{
	struct rc_rate *rate = bpf_map_lookup_elem(&rates, &workload);

	if (!rate)
		return 0;
	if (now - rate->window_ns > 1000000000ULL) {
		rate->window_ns = now;
		rate->events = 0;
	}
	return __sync_fetch_and_add(&rate->events, 1) < EVENTS_PER_SECOND;
}

/* A record in the ring, or NULL (counted): the caller fills it and submits it. */
static __always_inline struct rc_event *new_event(__u32 kind, __u32 reason, __u32 workload)
{
	__u64 now = bpf_ktime_get_boot_ns();
	struct rc_event *e;

	if (!within_rate(workload, now))
		goto lost;
	e = bpf_ringbuf_reserve(&events, sizeof(*e), 0);
	if (!e)
		goto lost;
	__builtin_memset(e, 0, sizeof(*e));
	e->time_ns = now;
	e->kind = kind;
	e->reason = reason;
	e->workload = workload;
	return e;
lost:
	count(0);
	return NULL;
}

static __always_inline __u64 task_start_ns(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return BPF_CORE_READ(task, group_leader, start_boottime);
}

/* The caller of a hook, for the log. Not for a verdict: the task may change its own cgroup id. */
static __always_inline void event_task(struct rc_event *e)
{
	e->pid = bpf_get_current_pid_tgid() >> 32;
	e->uid = bpf_get_current_uid_gid();
	e->cgroup_id = bpf_get_current_cgroup_id();
	e->task_start_ns = task_start_ns();
	bpf_get_current_comm(e->comm, sizeof(e->comm));
}

/* What a socket's record says of who opened it and where it went. */
static __always_inline void event_conn(struct rc_event *e, const struct rc_conn *conn)
{
	e->cookie = conn->cookie;
	e->cgroup_id = conn->cgroup_id;
	e->task_start_ns = conn->task_start_ns;
	e->rule = conn->rule;
	e->pid = conn->pid;
	e->uid = conn->uid;
	e->port = conn->port;
	e->protocol = conn->protocol;
	__builtin_memcpy(e->address, conn->address, sizeof(e->address));
	__builtin_memcpy(e->comm, conn->comm, sizeof(e->comm));
}

#endif
