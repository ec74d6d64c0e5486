// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For `racecar doctor`: what verdicts inside the workload's own connection would stand on. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} sockets SEC(".maps");

struct steps {
	__u32 state;
	__u32 done;
};

static long step(__u32 index, void *context)
{
	struct steps *steps = context;

	switch (steps->state) {
	case 0:
		steps->state = 1;
		break;
	case 1:
		steps->state = 2;
		break;
	case 2:
		steps->done = index + 1;
		return 1;
	}
	return 0;
}

/*
 * Three runs of the callback are needed. Before 6.6.15 the verifier looks at the first only, takes the other cases
 * for dead code and removes them: the program loads, and returns 0.
 */
SEC("cgroup_skb/egress")
int probe_loop(struct __sk_buff *skb)
{
	struct steps steps = {};

	(void)skb;
	bpf_loop(100, step, &steps, 0);
	return steps.done == 3;
}

SEC("sk_msg")
int probe_redirect(struct sk_msg_md *msg)
{
	bpf_msg_apply_bytes(msg, 0);
	return bpf_msg_redirect_map(msg, &sockets, 1, BPF_F_INGRESS);
}
