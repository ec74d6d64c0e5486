// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Datagrams with an address of their own (sendto, sendmsg): judged like connect, each one. */
#include "connect.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

static __always_inline int on_sendmsg(struct bpf_sock_addr *ctx, const struct dialled *to)
{
	__u32 workload = cfg.workload;
	struct rc_workload *w = workload_of(&cfg);
	struct bpf_sock *sk = ctx->sk;
	struct rc_conn *conn;
	struct verdict v;
	__u32 flags = 0;

	if (!w || !sk)
		return refuse(ctx, workload, to, RC_REASON_NO_STATE);
	if (!w->enforce_egress)
		return 1;
	v = judge(w, &to->address, to->port, to->protocol);
	if (v.verdict != RC_ALLOW && answers_datagram(ctx, to)) {
		flags = RC_CONN_REPLY;
	} else if (v.verdict != RC_ALLOW) {
		if (!w->audit || v.verdict == RC_DENY_RULE)
			return refuse(ctx, workload, to,
				      v.verdict == RC_DENY_RULE ? RC_REASON_DENY_RULE : RC_REASON_DEFAULT_DENY);
		note_audit(ctx, workload, to);
		flags = RC_CONN_AUDIT;
	}
	conn = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		return refuse(ctx, workload, to, RC_REASON_NO_STATE);
	if (sk->dst_port && conn->state == RC_NATIVE)
		return 1;	/* connected: its record is that of connect, this datagram was judged above */
	remember(ctx, conn, w, workload, to, &v);
	conn->flags = flags;
	conn->state = RC_NATIVE;
	return 1;
}

SEC("cgroup/sendmsg4")
int rc_sendmsg4(struct bpf_sock_addr *ctx)
{
	struct dialled to = canonical4(ctx);

	return on_sendmsg(ctx, &to);
}

SEC("cgroup/sendmsg6")
int rc_sendmsg6(struct bpf_sock_addr *ctx)
{
	struct dialled to = canonical6(ctx);

	return on_sendmsg(ctx, &to);
}
