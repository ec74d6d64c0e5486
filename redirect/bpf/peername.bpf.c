// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* getpeername(): the workload sees the address that it asked for, not the proxy's. */
#include "maps.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

static __always_inline struct rc_conn *redirected(struct bpf_sock_addr *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct rc_conn *conn;

	if (!sk)
		return NULL;
	conn = bpf_sk_storage_get(&conns, sk, 0, 0);
	return conn && conn->state == RC_REDIRECTED ? conn : NULL;
}

SEC("cgroup/getpeername4")
int rc_getpeername4(struct bpf_sock_addr *ctx)
{
	struct rc_conn *conn = redirected(ctx);
	__be32 ip;

	if (conn) {
		__builtin_memcpy(&ip, conn->address + 12, sizeof(ip));
		ctx->user_ip4 = ip;
		ctx->user_port = conn->port;
	}
	return 1;
}

SEC("cgroup/getpeername6")
int rc_getpeername6(struct bpf_sock_addr *ctx)
{
	struct rc_conn *conn = redirected(ctx);
	__be32 word[4];

	if (conn) {
		__builtin_memcpy(word, conn->address, sizeof(word));
		ctx->user_ip6[0] = word[0];
		ctx->user_ip6[1] = word[1];
		ctx->user_ip6[2] = word[2];
		ctx->user_ip6[3] = word[3];
		ctx->user_port = conn->port;
	}
	return 1;
}
