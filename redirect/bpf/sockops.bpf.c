// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* From the workload's socket to the proxy's: the record travels by the tuple, for the length of one handshake. */
#include "events.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

struct ends {
	struct address local, remote;
	__be16 local_port, remote_port;
};

/* One unconditional load a field: clang would else compute the context's address, which the verifier refuses. */
#define FIELD(ops, name) (*(volatile __u32 *)&(ops)->name)

static __always_inline struct ends ends_of(struct bpf_sock_ops *ops)
{
	struct address local = { { FIELD(ops, local_ip6[0]), FIELD(ops, local_ip6[1]), FIELD(ops, local_ip6[2]),
				   FIELD(ops, local_ip6[3]) } };
	struct address remote = { { FIELD(ops, remote_ip6[0]), FIELD(ops, remote_ip6[1]), FIELD(ops, remote_ip6[2]),
				    FIELD(ops, remote_ip6[3]) } };
	__be32 local4 = FIELD(ops, local_ip4), remote4 = FIELD(ops, remote_ip4);
	/* local_port is in host order, remote_port in network order in the whole word (include/uapi/linux/bpf.h). */
	struct ends ends = { .local_port = bpf_htons(FIELD(ops, local_port)),
			     .remote_port = bpf_htons(bpf_ntohl(FIELD(ops, remote_port))) };
	int v4 = FIELD(ops, family) == AF_INET;

	ends.local = v4 ? v4_address(local4) : local;
	ends.remote = v4 ? v4_address(remote4) : remote;
	return ends;
}

static __always_inline struct rc_tuple tuple_of(struct bpf_sock_ops *ops, const struct address *local, __be16 local_port,
						const struct address *remote, __be16 remote_port)
{
	struct rc_tuple tuple = { .local_port = local_port, .remote_port = remote_port };

	tuple.netns_cookie = bpf_get_netns_cookie(ops);
	__builtin_memcpy(tuple.local, local, sizeof(tuple.local));
	__builtin_memcpy(tuple.remote, remote, sizeof(tuple.remote));
	return tuple;
}

static __always_inline void event_ends(struct rc_event *e, struct bpf_sock_ops *ops, const struct ends *ends)
{
	e->family = ops->family;
	e->source_port = ends->local_port;
	e->peer_port = ends->remote_port;
	__builtin_memcpy(e->source, &ends->local, sizeof(e->source));
	__builtin_memcpy(e->peer, &ends->remote, sizeof(e->peer));
}

static __always_inline void refuse_later(struct bpf_sock_ops *ops, struct rc_conn *conn, const struct ends *ends,
					 __u32 reason)
{
	struct rc_event *e;

	conn->state = RC_REFUSED;	/* from now on the gate lets nothing out */
	conn->reason = reason;
	count(reason);
	e = new_event(RC_EVENT_DROPPED, reason, conn->workload);
	if (e) {
		event_conn(e, conn);
		event_ends(e, ops, ends);
		bpf_ringbuf_submit(e, 0);
	}
}

static __always_inline void unannounce(const struct rc_tuple *tuple, __u32 workload)
{
	struct rc_workload *w = bpf_map_lookup_elem(&workloads, &workload);

	if (!bpf_map_delete_elem(&pending, tuple) && w)
		__sync_fetch_and_add(&w->pending, -1);
}

static __always_inline void announce(struct bpf_sock_ops *ops, struct rc_conn *conn, const struct ends *ends)
{
	struct rc_workload *w = workload_of(&cfg);
	struct rc_tuple tuple =
		tuple_of(ops, &ends->local, ends->local_port, &ends->remote, ends->remote_port);

	if (!w || !is_listener(&cfg, &ends->remote, ends->remote_port)) {
		refuse_later(ops, conn, ends, RC_REASON_NOT_REDIRECTED);
		return;
	}
	if (__sync_fetch_and_add(&w->pending, 1) >= (__s32)w->pending_limit ||
	    bpf_map_update_elem(&pending, &tuple, conn, BPF_NOEXIST)) {
		__sync_fetch_and_add(&w->pending, -1);
		refuse_later(ops, conn, ends, RC_REASON_PENDING_LIMIT);
	}
}

/* A local route always leaves by a loopback device: the address is the host's own, whatever it looks like. */
static __always_inline int leaves_by_loopback(struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct net_device *dev;

	if (!tp)
		return 1;
	dev = BPF_CORE_READ(tp, inet_conn.icsk_inet.sk.sk_dst_cache, dev);
	return !dev || BPF_CORE_READ(dev, flags) & IFF_LOOPBACK;
}

/* Look again now that the kernel has chosen the address and the route. */
static __always_inline void recheck_native(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct rc_conn *conn,
					   const struct ends *ends)
{
	struct rc_workload *w = workload_of(&cfg);
	struct address dialled;
	struct verdict v;

	if (!w || !w->enforce_egress || conn->flags & RC_CONN_AUDIT)
		return;
	__builtin_memcpy(&dialled, conn->address, sizeof(dialled));
	if (!same_address(&dialled, &ends->remote) || conn->port != ends->remote_port) {
		v = judge(w, &ends->remote, ends->remote_port, IPPROTO_TCP);
		if (v.verdict == RC_REDIRECT || v.verdict == RC_DENY_RULE)
			refuse_later(ops, conn, ends, RC_REASON_TRANSLATED);
		return;
	}
	if (scope_of(&dialled) == RC_SCOPE_WORLD && leaves_by_loopback(sk)) {
		v = judge_in_scope(w, &dialled, conn->port, IPPROTO_TCP, RC_SCOPE_HOST);
		if (v.verdict != RC_ALLOW)
			refuse_later(ops, conn, ends, RC_REASON_OWN_ADDRESS);
	}
}

static __always_inline void native_closed(struct bpf_sock_ops *ops, const struct rc_conn *conn, const struct ends *ends)
{
	struct rc_event *e = new_event(RC_EVENT_CLOSED, RC_REASON_NONE, conn->workload);

	if (!e)
		return;
	event_conn(e, conn);
	e->bytes_sent = ops->bytes_acked;
	e->bytes_received = ops->bytes_received;
	e->duration_ns = bpf_ktime_get_boot_ns() - conn->connected_ns;
	event_ends(e, ops, ends);
	if (conn->flags & RC_CONN_AUDIT)
		e->reason = RC_REASON_DEFAULT_DENY;
	bpf_ringbuf_submit(e, 0);
}

SEC("sockops")
int rc_workload_sockops(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct rc_conn *conn;
	struct ends ends;

	if (!sk || (ops->family != AF_INET && ops->family != AF_INET6))
		return 1;
	switch (ops->op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
		return 1;
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		/* A simultaneous open is reported as passive: the record left by connect says what it is. */
		conn = bpf_sk_storage_get(&conns, sk, 0, 0);
		if (!conn || conn->state == RC_NONE) {
			if (ops->op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
				conn = bpf_sk_storage_get(&conns, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
				if (conn)
					conn->state = RC_INBOUND;
			}
			return 1;
		}
		ends = ends_of(ops);
		if (conn->state == RC_REDIRECTED)
			announce(ops, conn, &ends);
		else if (conn->state == RC_NATIVE)
			recheck_native(ops, sk, conn, &ends);
		return 1;
	case BPF_SOCK_OPS_STATE_CB:
		if (ops->args[1] != RC_TCP_CLOSE)
			return 1;
		conn = bpf_sk_storage_get(&conns, sk, 0, 0);
		if (!conn)
			return 1;
		ends = ends_of(ops);
		if (conn->state == RC_REDIRECTED) {
			struct rc_tuple tuple =
				tuple_of(ops, &ends.local, ends.local_port, &ends.remote, ends.remote_port);
			struct rc_conn *announced = bpf_map_lookup_elem(&pending, &tuple);

			if (announced && announced->cookie == conn->cookie && announced->epoch == conn->epoch)
				unannounce(&tuple, conn->workload);
		} else if (conn->state == RC_NATIVE) {
			native_closed(ops, conn, &ends);
		}
		return 1;
	}
	return 1;
}

/* The proxy's side: the record moves into the accepted socket's own storage. Without one the proxy resets it. */
SEC("sockops")
int rc_proxy_sockops(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct rc_conn *announced;
	struct rc_tuple tuple;
	struct ends ends;
	__u32 workload;

	if (!sk || ops->op != BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB ||
	    (ops->family != AF_INET && ops->family != AF_INET6))
		return 1;
	ends = ends_of(ops);
	tuple = tuple_of(ops, &ends.remote, ends.remote_port, &ends.local, ends.local_port);
	announced = bpf_map_lookup_elem(&pending, &tuple);
	if (!announced)
		return 1;
	workload = announced->workload;
	bpf_sk_storage_get(&conns, sk, announced, BPF_SK_STORAGE_GET_F_CREATE);
	unannounce(&tuple, workload);
	return 1;
}
