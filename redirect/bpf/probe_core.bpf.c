// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For `racecar doctor`: what needs the kernel's own type information (CO-RE) and CAP_PERFMON. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int probe_tcp_sock(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct tcp_sock *tp = sk ? bpf_skc_to_tcp_sock(sk) : NULL;

	return !tp || !tp->fastopen_req;
}

SEC("cgroup/connect4")
int probe_task(struct bpf_sock_addr *ctx)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	(void)ctx;
	return BPF_CORE_READ(task, group_leader, start_boottime) != 0;
}
