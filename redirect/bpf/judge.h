/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Addresses and the L3/L4 tables: which verdict a destination has. */
#ifndef RACECAR_JUDGE_H
#define RACECAR_JUDGE_H

#include "maps.h"
#include "reasons.h"

/* Sixteen bytes of address, IPv4 v4-mapped, as four words in network order. */
struct address {
	__be32 word[4];
};

static __always_inline struct address v4_address(__be32 ip)
{
	return (struct address){ .word = { 0, 0, bpf_htonl(0xffff), ip } };
}

static __always_inline int is_v4(const struct address *a)
{
	return !a->word[0] && !a->word[1] && a->word[2] == bpf_htonl(0xffff);
}

static __always_inline int is_any(const struct address *a)
{
	return is_v4(a) ? !a->word[3] : !(a->word[0] | a->word[1] | a->word[2] | a->word[3]);
}

static __always_inline int is_v6_loopback(const struct address *a)
{
	return !a->word[0] && !a->word[1] && !a->word[2] && a->word[3] == bpf_htonl(1);
}

static __always_inline int is_loopback(const struct address *a)
{
	if (is_v4(a))
		return (bpf_ntohl(a->word[3]) >> 24) == 127;
	return is_v6_loopback(a);
}

static __always_inline int is_link_local6(const struct address *a)
{
	return (bpf_ntohl(a->word[0]) >> 22) == (0xfe80 >> 6);
}

static __always_inline int same_address(const struct address *a, const struct address *b)
{
	return a->word[0] == b->word[0] && a->word[1] == b->word[1] &&
	       a->word[2] == b->word[2] && a->word[3] == b->word[3];
}

/* The proxy's listener: 127.0.0.1 or ::1 exactly, each with its own port. */
static __always_inline int is_listener(const volatile struct rc_config *cfg, const struct address *a, __be16 port)
{
	if (is_v4(a))
		return a->word[3] == bpf_htonl(0x7f000001) && port == cfg->listen4_port;
	return is_v6_loopback(a) && port == cfg->listen6_port;
}

/* Delivered to this host's own listeners too: 224.0.0.0/4, 255.255.255.255, ff00::/8. */
static __always_inline int is_multicast(const struct address *a)
{
	if (is_v4(a))
		return (bpf_ntohl(a->word[3]) >> 28) == 0xe || a->word[3] == 0xffffffff;
	return (bpf_ntohl(a->word[0]) >> 24) == 0xff;
}

static __always_inline __u32 own_kind(const struct address *a)
{
	struct rc_own_key key = { .prefixlen = 128 };
	__u32 *kind;

	if (is_loopback(a))
		return RC_OWN_LOCAL;
	if (is_multicast(a))
		return RC_OWN_SHARED;
	__builtin_memcpy(key.address, a, sizeof(key.address));
	kind = bpf_map_lookup_elem(&own, &key);
	return kind ? *kind : 0;
}

static __always_inline __u32 scope_of(const struct address *a)
{
	return own_kind(a) ? RC_SCOPE_HOST : RC_SCOPE_WORLD;
}

/* One unconditional load a field: clang would else compute the socket's address, which the verifier refuses. */
#define SK_FIELD(sk, name) (*(volatile __u32 *)&(sk)->name)

/* What the socket is bound to, or connected from; the unspecified address if to nothing. */
static __always_inline struct address bound_address(struct bpf_sock *sk)
{
	struct address source = { { SK_FIELD(sk, src_ip6[0]), SK_FIELD(sk, src_ip6[1]), SK_FIELD(sk, src_ip6[2]),
				    SK_FIELD(sk, src_ip6[3]) } };
	__be32 source4 = SK_FIELD(sk, src_ip4);

	return sk->family == AF_INET ? v4_address(source4) : source;
}

/* Bound to an address of its own, not to any or to a group (the kernel sends those from an address that it chooses). */
static __always_inline int is_bound(const struct address *bound)
{
	return !is_any(bound) && own_kind(bound) != RC_OWN_SHARED;
}

struct verdict {
	__u32 verdict;
	__u32 ruleset;
	__u32 rule;
};

/* Two longest-prefix matches: address to peer, (peer, protocol, port) to verdict. No hit is a denial. */
static __always_inline struct verdict judge_in_scope(const struct rc_workload *w, const struct address *a, __be16 port,
						     __u8 protocol, __u32 scope)
{
	struct rc_peer_key peer_key = { .prefixlen = 64 + 128, .policy = w->policy, .scope = scope };
	struct rc_port_key key = { .prefixlen = 80 + 16, .policy = w->policy, .protocol = protocol, .port = port };
	struct rc_port_value *value;
	__u32 *peer;

	__builtin_memcpy(peer_key.address, a, sizeof(peer_key.address));
	peer = bpf_map_lookup_elem(&peers, &peer_key);
	key.peer = peer ? *peer : RC_ANY_PEER;
	value = bpf_map_lookup_elem(&ports, &key);
	if (!value) {
		key.protocol = 0;
		value = bpf_map_lookup_elem(&ports, &key);
	}
	if (!value)
		return (struct verdict){ .verdict = RC_DENY };
	return (struct verdict){ .verdict = value->verdict, .ruleset = value->ruleset, .rule = value->rule };
}

static __always_inline struct verdict judge(const struct rc_workload *w, const struct address *a, __be16 port,
					    __u8 protocol)
{
	return judge_in_scope(w, a, port, protocol, scope_of(a));
}

static __always_inline struct rc_workload *workload_of(const volatile struct rc_config *cfg)
{
	__u32 index = cfg->workload;

	return bpf_map_lookup_elem(&workloads, &index);
}

#endif
