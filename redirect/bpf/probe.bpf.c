// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One small program a hook, each loaded alone by `racecar doctor`: does this kernel take the hook and its calls? */
#include "kernel.h"

#define LOOPBACK bpf_htonl(0x7f000001)
#define DISCARD bpf_htons(9)

char LICENSE[] SEC("license") = "Dual BSD/GPL";

SEC("cgroup/connect4")
int probe_connect4(struct bpf_sock_addr *ctx)
{
	ctx->user_ip4 = LOOPBACK;	/* the hook must let the address be rewritten */
	ctx->user_port = DISCARD;
	return bpf_get_socket_cookie(ctx) != 0;
}

SEC("cgroup/connect6")
int probe_connect6(struct bpf_sock_addr *ctx)
{
	ctx->user_ip6[3] = LOOPBACK;
	ctx->user_port = DISCARD;
	return bpf_get_socket_cookie(ctx) != 0;
}

SEC("cgroup/sendmsg4")
int probe_sendmsg4(struct bpf_sock_addr *ctx)
{
	ctx->user_ip4 = LOOPBACK;
	return 1;
}

SEC("cgroup/sendmsg6")
int probe_sendmsg6(struct bpf_sock_addr *ctx)
{
	ctx->user_ip6[3] = LOOPBACK;
	return 1;
}

SEC("cgroup/getpeername4")
int probe_getpeername4(struct bpf_sock_addr *ctx)
{
	ctx->user_ip4 = LOOPBACK;
	return 1;
}

SEC("cgroup/getpeername6")
int probe_getpeername6(struct bpf_sock_addr *ctx)
{
	ctx->user_ip6[3] = LOOPBACK;
	return 1;
}

SEC("cgroup/sock_create")
int probe_sock_create(struct bpf_sock *sk)
{
	return sk->type != SOCK_RAW;
}

SEC("sockops")
int probe_sockops(struct bpf_sock_ops *ops)
{
	if (ops->op == BPF_SOCK_OPS_TCP_CONNECT_CB)
		bpf_sock_ops_cb_flags_set(ops, BPF_SOCK_OPS_STATE_CB_FLAG);
	return 1;
}

SEC("sockops")
int probe_netns_cookie(struct bpf_sock_ops *ops)
{
	return bpf_get_netns_cookie(ops) != 0;
}

SEC("cgroup_skb/egress")
int probe_egress(struct __sk_buff *skb)
{
	struct bpf_sock *sk = skb->sk;
	__u8 version;

	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	return !sk || !bpf_skb_load_bytes(skb, 0, &version, sizeof(version));
}

SEC("cgroup_skb/ingress")
int probe_ingress(struct __sk_buff *skb)
{
	__u8 version;

	return bpf_get_socket_cookie(skb) && !bpf_skb_load_bytes(skb, 0, &version, sizeof(version));
}

SEC("sk_lookup")
int probe_sk_lookup(struct bpf_sk_lookup *ctx)
{
	(void)ctx;
	return SK_PASS;
}
