// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* For `racecar doctor`: records in the socket's own storage, the event ring, a listener found through a map. */
#include "kernel.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* redirect/probe_bpf.py RECORD_STRUCT */
struct probe_record {
	__u32 pid;
	__be32 address;	/* as dialled */
	__u32 port;	/* as the kernel has it: network order in the lower half */
	__u32 pad;
	__u64 cookie;
};

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct probe_record);
} records SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 65536);	/* whole pages, also of 64 KB */
} ring SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} target SEC(".maps");

static __always_inline void fill(struct probe_record *record, struct bpf_sock_addr *ctx)
{
	record->pid = bpf_get_current_pid_tgid() >> 32;
	record->address = ctx->user_ip4;
	record->port = ctx->user_port;
	record->cookie = bpf_get_socket_cookie(ctx);
}

SEC("cgroup/connect4")
int probe_storage(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct probe_record *record;

	if (!sk)
		return 0;
	record = bpf_sk_storage_get(&records, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!record)
		return 0;
	fill(record, ctx);
	ctx->user_ip4 = bpf_htonl(0x7f000001);	/* wherever it was going: to the probe's own listener */
	return 1;
}

SEC("cgroup/connect4")
int probe_ring(struct bpf_sock_addr *ctx)
{
	struct probe_record *record = bpf_ringbuf_reserve(&ring, sizeof(*record), 0);

	if (!record)
		return 0;
	record->pad = 0;
	fill(record, ctx);
	bpf_ringbuf_submit(record, 0);
	return 1;
}

SEC("sockops")
int probe_sockops_storage(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;

	if (sk)
		bpf_sk_storage_get(&records, sk, 0, 0);
	return 1;
}

SEC("cgroup_skb/egress")
int probe_egress_storage(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return !sk || bpf_sk_storage_get(&records, sk, 0, 0) || 1;
}

SEC("sk_lookup")
int probe_assign(struct bpf_sk_lookup *ctx)
{
	__u32 key = 0;
	struct bpf_sock *sk = bpf_map_lookup_elem(&target, &key);

	if (!sk)
		return SK_PASS;
	bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(sk);
	return SK_PASS;
}
