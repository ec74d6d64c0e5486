// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The redirect target: its port leads to the proxy's socket and to nobody else's, also while there is no proxy. */
#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

/* Which listener the address means, or -1 for an address that is none of ours. */
static __always_inline int listener_of(const struct bpf_sk_lookup *ctx)
{
	if (ctx->protocol != IPPROTO_TCP)
		return -1;
	if (ctx->family == AF_INET && ctx->local_ip4 == bpf_htonl(0x7f000001) &&
	    ctx->local_port == bpf_ntohs(cfg.listen4_port))
		return 0;
	if (ctx->family == AF_INET6 && !ctx->local_ip6[0] && !ctx->local_ip6[1] && !ctx->local_ip6[2] &&
	    ctx->local_ip6[3] == bpf_htonl(1) && ctx->local_port == bpf_ntohs(cfg.listen6_port))
		return 1;
	return -1;
}

SEC("sk_lookup")
int rc_sk_lookup(struct bpf_sk_lookup *ctx)
{
	int listener = listener_of(ctx);
	struct bpf_sock *sk;
	__u32 key = listener;
	long failed;

	if (listener < 0)
		return SK_PASS;
	sk = bpf_map_lookup_elem(&listeners, &key);
	if (!sk)
		return SK_DROP;		/* refused with a reset; whoever bound the port meanwhile gets nothing */
	failed = bpf_sk_assign(ctx, sk, BPF_SK_LOOKUP_F_REPLACE);
	bpf_sk_release(sk);
	return failed ? SK_DROP : SK_PASS;
}
