/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What connect4/6 and sendmsg4/6 share: the dialled address made canonical, judged, and left with the socket. */
#ifndef RACECAR_CONNECT_H
#define RACECAR_CONNECT_H

#include "events.h"

#define REPLY_WINDOW_NS (30 * 1000000000ULL)

struct dialled {
	struct address address;
	__be16 port;
	__u8 protocol;
};

static __always_inline int refuse(struct bpf_sock_addr *ctx, __u32 workload, const struct dialled *to, __u32 reason)
{
	struct rc_event *e;

	count(reason);
	e = new_event(RC_EVENT_DENIED, reason, workload);
	if (e) {
		e->cookie = bpf_get_socket_cookie(ctx);
		e->port = to->port;
		e->protocol = to->protocol;
		__builtin_memcpy(e->address, &to->address, sizeof(e->address));
		event_task(e);
		bpf_ringbuf_submit(e, 0);
	}
	return 0;
}

static __always_inline void note_audit(struct bpf_sock_addr *ctx, __u32 workload, const struct dialled *to)
{
	struct rc_event *e = new_event(RC_EVENT_AUDIT, RC_REASON_DEFAULT_DENY, workload);

	if (!e)
		return;
	e->cookie = bpf_get_socket_cookie(ctx);
	e->port = to->port;
	e->protocol = to->protocol;
	__builtin_memcpy(e->address, &to->address, sizeof(e->address));
	event_task(e);
	bpf_ringbuf_submit(e, 0);
}

/*
 * Where the kernel would really go. 0.0.0.0 and :: mean the bound source address, else loopback
 * (ip_route_output_key_hash, tcp_v6_connect); v4-mapped is IPv4. Written back, so that what is judged is what is dialled.
 */
static __always_inline struct dialled canonical4(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	__be32 ip = ctx->user_ip4;

	if (!ip) {
		if (sk && sk->family == AF_INET)
			ip = sk->src_ip4;
		if (!ip)
			ip = bpf_htonl(0x7f000001);
		ctx->user_ip4 = ip;
	}
	return (struct dialled){ v4_address(ip), ctx->user_port, ctx->protocol };
}

static __always_inline struct dialled canonical6(struct bpf_sock_addr *ctx)
{
	struct dialled to = { .port = ctx->user_port, .protocol = ctx->protocol };
	struct bpf_sock *sk = ctx->sk;

	to.address.word[0] = ctx->user_ip6[0];
	to.address.word[1] = ctx->user_ip6[1];
	to.address.word[2] = ctx->user_ip6[2];
	to.address.word[3] = ctx->user_ip6[3];
	if (is_any(&to.address)) {
		struct address source = {};

		if (sk) {
			source.word[0] = sk->src_ip6[0];
			source.word[1] = sk->src_ip6[1];
			source.word[2] = sk->src_ip6[2];
			source.word[3] = sk->src_ip6[3];
		}
		if (is_v4(&to.address) || is_v4(&source))
			to.address = v4_address(is_v4(&source) && source.word[3] ? source.word[3] : bpf_htonl(0x7f000001));
		else
			to.address.word[3] = bpf_htonl(1);
		ctx->user_ip6[0] = to.address.word[0];
		ctx->user_ip6[1] = to.address.word[1];
		ctx->user_ip6[2] = to.address.word[2];
		ctx->user_ip6[3] = to.address.word[3];
	}
	return to;
}

static __always_inline void remember(struct bpf_sock_addr *ctx, struct rc_conn *conn, const struct rc_workload *w,
				     __u32 workload, const struct dialled *to, const struct verdict *v)
{
	conn->cookie = bpf_get_socket_cookie(ctx);
	conn->cgroup_id = bpf_get_current_cgroup_id();
	conn->task_start_ns = task_start_ns();
	conn->connected_ns = bpf_ktime_get_boot_ns();
	conn->workload = workload;
	conn->generation = w->generation;
	conn->ruleset = v->ruleset;
	conn->rule = v->rule;
	conn->pid = bpf_get_current_pid_tgid() >> 32;
	conn->uid = bpf_get_current_uid_gid();
	conn->flags = 0;
	conn->port = to->port;
	conn->protocol = to->protocol;
	__builtin_memcpy(conn->address, &to->address, sizeof(conn->address));
	bpf_get_current_comm(conn->comm, sizeof(conn->comm));
}

static __always_inline int answers_datagram(struct bpf_sock_addr *ctx, const struct dialled *to)
{
	struct rc_reply_key key = { .cookie = bpf_get_socket_cookie(ctx), .port = to->port };
	__u64 *seen;

	__builtin_memcpy(key.address, &to->address, sizeof(key.address));
	seen = bpf_map_lookup_elem(&udp_replies, &key);
	return seen && bpf_ktime_get_boot_ns() - *seen < REPLY_WINDOW_NS;
}

#endif
