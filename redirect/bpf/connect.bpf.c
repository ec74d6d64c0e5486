// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* connect(): refuse what policy refuses, send what needs reading to the proxy, leave the verdict with the socket. */
#include "connect.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

/* Data that would leave with the SYN, before the connection has state (tcp_sendmsg_fastopen, TCP_FASTOPEN_CONNECT). */
static __always_inline int has_fast_open(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);

	if (!tp)
		return 1;
	return tp->fastopen_req || BPF_CORE_READ_BITFIELD(tp, fastopen_connect);
}

static __always_inline int has_foreign_source(struct bpf_sock *sk, int v4)
{
	struct address source = bound_address(sk);

	if (sk->family == AF_INET || is_any(&source))
		return 0;	/* any local address reaches 127.0.0.1 */
	return is_v4(&source) != v4;
}

/* IP_FREEBIND needs no capability: bound to another host's address, a socket would speak in its name. */
static __always_inline int has_borrowed_source(struct bpf_sock *sk)
{
	struct address source = bound_address(sk);

	return is_bound(&source) && own_kind(&source) != RC_OWN_LOCAL;
}

/* Reasons why a socket cannot be sent to the listener on loopback: refuse rather than pass it by. */
static __always_inline __u32 cannot_redirect(struct bpf_sock *sk, const struct dialled *to)
{
	if (sk->bound_dev_if)
		return RC_REASON_BOUND_DEVICE;
	if (is_link_local6(&to->address))
		return RC_REASON_SCOPED_ADDRESS;
	if (has_foreign_source(sk, is_v4(&to->address)))
		return RC_REASON_SOURCE_ADDRESS;
	if (has_fast_open(sk))
		return RC_REASON_FAST_OPEN;
	return RC_REASON_NONE;
}

/* Returns 1 to go on, 0 to refuse, 2 to go on to the proxy. */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, struct dialled *to)
{
	__u32 workload = cfg.workload, reason;
	struct rc_workload *w = workload_of(&cfg);
	struct bpf_sock *sk = ctx->sk;
	struct rc_conn *conn;
	struct verdict v = {};
	__u32 sticky;

	if (!w || !sk)
		return refuse(ctx, workload, to, RC_REASON_NO_STATE);
	if (to->protocol != IPPROTO_TCP && to->protocol != IPPROTO_UDP)
		to->port = 0;	/* ping sockets keep an identifier there */

	/* The record comes first: without one nothing could be released later. */
	conn = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!conn)
		return refuse(ctx, workload, to, RC_REASON_NO_STATE);
	/* A connect that fails leaves a connected datagram socket with its old peer: what was a licence stays one. */
	sticky = to->protocol == IPPROTO_UDP && sk->dst_port ? conn->flags & RC_CONN_REPLY : 0;
	conn->state = RC_REFUSED;
	conn->reason = RC_REASON_NONE;
	conn->epoch++;

	if (to->protocol == IPPROTO_TCP && is_listener(&cfg, &to->address, to->port))
		return refuse(ctx, workload, to, RC_REASON_PROXY_ADDRESS);

	if (w->enforce_egress && has_borrowed_source(sk))
		return refuse(ctx, workload, to, RC_REASON_SOURCE_ADDRESS);
	if (w->enforce_egress)
		v = judge(w, &to->address, to->port, to->protocol);
	else
		v.verdict = RC_ALLOW;
	remember(ctx, conn, w, workload, to, &v);
	conn->flags = sticky;

	switch (v.verdict) {
	case RC_ALLOW:
		conn->state = RC_NATIVE;
		return 1;
	case RC_REDIRECT:
		if (to->protocol != IPPROTO_TCP)
			return refuse(ctx, workload, to, RC_REASON_DEFAULT_DENY);
		reason = cannot_redirect(sk, to);
		if (reason)
			return refuse(ctx, workload, to, reason);
		conn->state = RC_REDIRECTED;
		return 2;
	}
	if (to->protocol == IPPROTO_UDP && answers_datagram(ctx, to)) {
		conn->state = RC_NATIVE;
		conn->flags = RC_CONN_REPLY;
		return 1;
	}
	if (w->audit && v.verdict == RC_DENY) {
		conn->state = RC_NATIVE;
		conn->flags = RC_CONN_AUDIT | sticky;
		note_audit(ctx, workload, to);
		return 1;
	}
	return refuse(ctx, workload, to, v.verdict == RC_DENY_RULE ? RC_REASON_DENY_RULE : RC_REASON_DEFAULT_DENY);
}

SEC("cgroup/connect4")
int rc_connect4(struct bpf_sock_addr *ctx)
{
	struct dialled to = canonical4(ctx);
	int go = on_connect(ctx, &to);

	if (go == 2) {
		ctx->user_ip4 = bpf_htonl(0x7f000001);
		ctx->user_port = cfg.listen4_port;	/* 4-byte store only: the verifier refuses 2 bytes */
	}
	return go != 0;
}

SEC("cgroup/connect6")
int rc_connect6(struct bpf_sock_addr *ctx)
{
	struct dialled to = canonical6(ctx);
	int go = on_connect(ctx, &to);

	if (go == 2) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		if (is_v4(&to.address)) {	/* an IPv6 socket that dials v4-mapped speaks IPv4 */
			ctx->user_ip6[2] = bpf_htonl(0xffff);
			ctx->user_ip6[3] = bpf_htonl(0x7f000001);
			ctx->user_port = cfg.listen4_port;
		} else {
			ctx->user_ip6[2] = 0;
			ctx->user_ip6[3] = bpf_htonl(1);
			ctx->user_port = cfg.listen6_port;
		}
	}
	return go != 0;
}
