// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* socket(): no raw sockets. Whoever has one brings a TCP stack of his own. */
#include "events.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

SEC("cgroup/sock_create")
int rc_sock_create(struct bpf_sock *sk)
{
	struct rc_event *e;

	if (sk->type != SOCK_RAW)
		return 1;
	count(RC_REASON_RAW_SOCKET);
	e = new_event(RC_EVENT_DENIED, RC_REASON_RAW_SOCKET, cfg.workload);
	if (e) {
		e->protocol = sk->protocol;
		event_task(e);
		bpf_ringbuf_submit(e, 0);
	}
	return 0;
}
