// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * The release gate: no packet of the workload leaves for a destination under policy unless a hook released its socket.
 * It reads nothing but the packet, the socket's record and the tables, and drops what it cannot read.
 */
#include "events.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

const volatile struct rc_config cfg = {};

#define LOOPBACK_IFINDEX 1
#define IP_OFFSET_MASK 0x1fff
#define TCP_SYN 0x02
#define TCP_RST 0x04
#define TCP_ACK 0x10
#define TCP_URG 0x20
#define REPLY_WINDOW_NS (30 * 1000000000ULL)

struct packet {
	struct address source, destination;
	__be16 source_port, destination_port;
	__u8 protocol;
	__u8 tcp_flags;
	__u32 l4_offset;
	__u32 payload;		/* TCP only, bytes */
};

static __always_inline __u32 read_ip4(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__u8 version_ihl, tos;
		__be16 length, id, fragment;
		__u8 ttl, protocol;
		__be16 checksum;
		__be32 source, destination;
	} ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return RC_REASON_MALFORMED_PACKET;
	if ((ip.version_ihl & 0x0f) != 5)
		return RC_REASON_IP_OPTIONS;	/* source routes hide where a packet goes, and need no capability */
	if (ip.fragment & bpf_htons(IP_OFFSET_MASK))
		return RC_REASON_FRAGMENT;
	p->source = v4_address(ip.source);
	p->destination = v4_address(ip.destination);
	p->protocol = ip.protocol;
	p->l4_offset = sizeof(ip);
	return RC_REASON_NONE;
}

static __always_inline __u32 read_ip6(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__be32 version_class_flow;
		__be16 length;
		__u8 next, hops;
		struct address source, destination;
	} ip;

	if (bpf_skb_load_bytes(skb, 0, &ip, sizeof(ip)))
		return RC_REASON_MALFORMED_PACKET;
	switch (ip.next) {
	case 0:		/* hop-by-hop */
	case 43:	/* routing */
	case 44:	/* fragment */
	case 50:	/* ESP */
	case 51:	/* AH */
	case 60:	/* destination options */
	case 135:	/* mobility */
	case 139:	/* HIP */
	case 140:	/* shim6 */
		return RC_REASON_EXTENSION_HEADER;
	}
	p->source = ip.source;
	p->destination = ip.destination;
	p->protocol = ip.next;
	p->l4_offset = sizeof(ip);
	return RC_REASON_NONE;
}

static __always_inline __u32 read_l4(struct __sk_buff *skb, struct packet *p)
{
	struct {
		__be16 source, destination;
		__be32 sequence, acknowledged;
		__u8 offset, flags;
	} tcp;
	__u32 headers;

	if (p->protocol == IPPROTO_UDP) {
		if (bpf_skb_load_bytes(skb, p->l4_offset, &tcp, 4))
			return RC_REASON_MALFORMED_PACKET;
	} else if (p->protocol == IPPROTO_TCP) {
		if (bpf_skb_load_bytes(skb, p->l4_offset, &tcp, sizeof(tcp)))
			return RC_REASON_MALFORMED_PACKET;
		headers = p->l4_offset + (tcp.offset >> 4) * 4;
		if (headers > skb->len)
			return RC_REASON_MALFORMED_PACKET;
		p->payload = skb->len - headers;
		p->tcp_flags = tcp.flags;
	} else {
		return RC_REASON_NONE;
	}
	p->source_port = tcp.source;
	p->destination_port = tcp.destination;
	return RC_REASON_NONE;
}

static __always_inline __u32 read_packet(struct __sk_buff *skb, struct packet *p)
{
	__u32 reason;

	if (skb->protocol == bpf_htons(ETH_P_IP))
		reason = read_ip4(skb, p);
	else if (skb->protocol == bpf_htons(ETH_P_IPV6))
		reason = read_ip6(skb, p);
	else
		return RC_REASON_MALFORMED_PACKET;
	return reason ? reason : read_l4(skb, p);
}

/* Packets that no record covers: the table alone decides. */
static __always_inline __u32 by_table(const struct rc_workload *w, const struct packet *p)
{
	struct verdict v = judge(w, &p->destination, p->destination_port, p->protocol);

	if (v.verdict == RC_ALLOW || (w->audit && v.verdict == RC_DENY))
		return RC_REASON_NONE;
	if (v.verdict == RC_REDIRECT)
		return RC_REASON_NO_STATE;
	return v.verdict == RC_DENY_RULE ? RC_REASON_DENY_RULE : RC_REASON_DEFAULT_DENY;
}

/* The socket was judged by the address that it dialled; after NAT the packet may carry another one. */
static __always_inline __u32 by_record(const struct rc_workload *w, struct rc_conn *conn, const struct packet *p)
{
	struct address dialled;
	struct verdict v;

	__builtin_memcpy(&dialled, conn->address, sizeof(dialled));
	if (conn->generation != w->generation) {
		v = judge(w, &dialled, conn->port, conn->protocol);
		if (v.verdict != RC_ALLOW && !(w->audit && v.verdict == RC_DENY))
			return RC_REASON_STALE_POLICY;
		conn->generation = w->generation;
	}
	if (same_address(&dialled, &p->destination) && (conn->port == p->destination_port || !conn->port))
		return RC_REASON_NONE;
	v = judge(w, &p->destination, p->destination_port, p->protocol);
	if (v.verdict == RC_REDIRECT || v.verdict == RC_DENY_RULE)
		return RC_REASON_TRANSLATED;
	return RC_REASON_NONE;
}

static __always_inline __u32 judge_tcp(const struct rc_workload *w, struct bpf_sock *sk, struct rc_conn *conn,
				       const struct packet *p)
{
	if (sk->type != SOCK_STREAM || sk->protocol != IPPROTO_TCP)
		return RC_REASON_UNKNOWN_SOCKET;
	if (sk->state == RC_TCP_LISTEN) {
		/* Only the answer to a handshake; the accepted socket has a record of its own. */
		if ((p->tcp_flags & (TCP_SYN | TCP_ACK)) == (TCP_SYN | TCP_ACK) && !p->payload)
			return RC_REASON_NONE;
		return RC_REASON_UNKNOWN_SOCKET;
	}
	if (!conn)
		return by_table(w, p);
	switch (conn->state) {
	case RC_INBOUND:
		return RC_REASON_NONE;	/* policy judges who opens a connection */
	case RC_NATIVE:
		return by_record(w, conn, p);
	case RC_REDIRECTED:
		if (!is_listener(&cfg, &p->destination, p->destination_port))
			return RC_REASON_NOT_REDIRECTED;
		/* A reset in urgent mode carries the flag too, and no data: the proxy must learn of it. */
		if (p->tcp_flags & TCP_URG && (p->payload || !(p->tcp_flags & TCP_RST)))
			return RC_REASON_URGENT_DATA;
		return RC_REASON_NONE;
	case RC_REFUSED:
		return conn->reason ? conn->reason : RC_REASON_DEFAULT_DENY;
	}
	return by_table(w, p);
}

static __always_inline int answers_datagram(struct __sk_buff *skb, const struct packet *p)
{
	struct rc_reply_key key = { .cookie = bpf_get_socket_cookie(skb), .port = p->destination_port };
	__u64 *seen;

	__builtin_memcpy(key.address, &p->destination, sizeof(key.address));
	seen = bpf_map_lookup_elem(&udp_replies, &key);
	return seen && bpf_ktime_get_boot_ns() - *seen < REPLY_WINDOW_NS;
}

/* A route that ends at loopback: the address is the host's own, also one that the table does not hold yet. */
static __always_inline int is_unknown_own(struct __sk_buff *skb, const struct rc_workload *w, const struct packet *p)
{
	struct verdict v;

	if (skb->ifindex != LOOPBACK_IFINDEX || scope_of(&p->destination) == RC_SCOPE_HOST)
		return 0;
	v = judge_in_scope(w, &p->destination, p->destination_port, p->protocol, RC_SCOPE_HOST);
	return v.verdict != RC_ALLOW && !(w->audit && v.verdict == RC_DENY);
}

/*
 * A datagram in another's name: IP_FREEBIND lends any address, IP_PKTINFO any of the host's own. Over loopback it would
 * make the workload's own server believe that it may answer somebody who never wrote.
 */
static __always_inline int is_in_anothers_name(struct __sk_buff *skb, struct bpf_sock *sk, const struct packet *p)
{
	struct address bound = bound_address(sk);

	if (is_any(&p->source))
		return skb->ifindex == LOOPBACK_IFINDEX;	/* DHCP asks from nowhere */
	if (own_kind(&p->source) != RC_OWN_LOCAL)
		return 1;
	return skb->ifindex == LOOPBACK_IFINDEX && p->protocol == IPPROTO_UDP && is_bound(&bound) &&
	       !same_address(&bound, &p->source);
}

static __always_inline struct rc_tuple datagram(const struct packet *p)
{
	struct rc_tuple tuple = { .local_port = p->source_port, .remote_port = p->destination_port };

	__builtin_memcpy(tuple.local, &p->source, sizeof(tuple.local));
	__builtin_memcpy(tuple.remote, &p->destination, sizeof(tuple.remote));
	return tuple;
}

static __always_inline __u32 judge_other(struct __sk_buff *skb, const struct rc_workload *w, struct bpf_sock *sk,
					 struct rc_conn *conn, const struct packet *p)
{
	__u32 reason;

	if (is_in_anothers_name(skb, sk, p))
		return RC_REASON_SOURCE_ADDRESS;
	/* A port may be shared or left for a moment: by its address alone nobody can tell who sent a datagram. */
	if (p->protocol == IPPROTO_UDP && skb->ifindex == LOOPBACK_IFINDEX) {
		struct rc_tuple tuple = datagram(p);
		__u32 noted = 1;

		if (bpf_map_update_elem(&own_datagrams, &tuple, &noted, BPF_ANY))
			return RC_REASON_NO_STATE;
	}
	if (p->protocol == IPPROTO_UDP && conn && conn->state == RC_NATIVE && conn->protocol == IPPROTO_UDP &&
	    !(conn->flags & RC_CONN_REPLY))
		reason = by_record(w, conn, p);
	else
		reason = by_table(w, p);
	if (!reason && is_unknown_own(skb, w, p))
		reason = RC_REASON_OWN_ADDRESS;
	if (reason && p->protocol == IPPROTO_UDP && answers_datagram(skb, p))
		return RC_REASON_NONE;
	return reason;
}

static __always_inline void note_drop(const struct packet *p, const struct rc_conn *conn, __u32 family, __u32 reason)
{
	struct rc_event *e;

	count(reason);
	e = new_event(RC_EVENT_DROPPED, reason, cfg.workload);
	if (!e)
		return;
	e->port = p->destination_port;
	__builtin_memcpy(e->address, &p->destination, sizeof(e->address));
	if (conn)
		event_conn(e, conn);
	e->protocol = p->protocol;
	e->family = family;
	e->source_port = p->source_port;
	e->peer_port = p->destination_port;
	__builtin_memcpy(e->source, &p->source, sizeof(e->source));
	__builtin_memcpy(e->peer, &p->destination, sizeof(e->peer));
	bpf_ringbuf_submit(e, 0);
}

/* The ends of a TCP socket whose packet could not be read: by them the loader finds the connection and ends it. */
static __always_inline void ends_of(struct bpf_sock *sk, struct packet *p)
{
	struct address destination = { { SK_FIELD(sk, dst_ip6[0]), SK_FIELD(sk, dst_ip6[1]), SK_FIELD(sk, dst_ip6[2]),
					 SK_FIELD(sk, dst_ip6[3]) } };
	__be32 destination4 = SK_FIELD(sk, dst_ip4);
	int v4 = sk->family == AF_INET;

	if (sk->protocol != IPPROTO_TCP)
		return;
	p->source = bound_address(sk);
	p->destination = v4 ? v4_address(destination4) : destination;
	p->source_port = bpf_htons(SK_FIELD(sk, src_port));
	p->destination_port = *(volatile __be16 *)&sk->dst_port;
	p->protocol = IPPROTO_TCP;
}

SEC("cgroup_skb/egress")
int rc_gate(struct __sk_buff *skb)
{
	struct rc_workload *w = workload_of(&cfg);
	struct rc_conn *conn = NULL;
	struct bpf_sock *sk = skb->sk;
	struct packet p = {};
	__u32 reason, family = 0;

	if (!w)
		return 0;
	if (!w->enforce_egress)
		return 1;
	reason = read_packet(skb, &p);
	sk = sk ? bpf_sk_fullsock(sk) : NULL;
	if (sk) {
		family = sk->family;
		conn = bpf_sk_storage_get(&conns, sk, 0, 0);
		if (reason)
			ends_of(sk, &p);
	} else if (!reason) {
		reason = RC_REASON_UNKNOWN_SOCKET;
	}
	if (reason)
		goto drop;
	/* SO_BINDTODEVICE after connect, or IP_PKTINFO: what was judged as the host's own would go to a neighbour. */
	if (skb->ifindex != LOOPBACK_IFINDEX && own_kind(&p.destination) == RC_OWN_LOCAL) {
		reason = RC_REASON_BOUND_DEVICE;
		goto drop;
	}
	reason = p.protocol == IPPROTO_TCP ? judge_tcp(w, sk, conn, &p) : judge_other(skb, w, sk, conn, &p);
	if (!reason)
		return 1;
drop:
	note_drop(&p, conn, family, reason);
	return 0;
}

/* Nothing is judged here: who sent a datagram is remembered, so that a server under default deny may answer. */
SEC("cgroup_skb/ingress")
int rc_arrivals(struct __sk_buff *skb)
{
	struct packet p = {};
	struct rc_reply_key key = {};
	__u64 now;

	if (read_packet(skb, &p) || p.protocol != IPPROTO_UDP)
		return 1;
	/* IP_FREEBIND needs no capability: over loopback the workload can send itself datagrams "from" anywhere. */
	if (skb->ifindex == LOOPBACK_IFINDEX) {
		struct rc_tuple tuple = datagram(&p);

		if (own_kind(&p.source) != RC_OWN_LOCAL || bpf_map_lookup_elem(&own_datagrams, &tuple))
			return 1;
	} else if (own_kind(&p.source) == RC_OWN_LOCAL) {
		return 1;	/* from the wire, in this host's own name, or a looped-back copy to a group */
	}
	key.cookie = bpf_get_socket_cookie(skb);
	key.port = p.source_port;
	__builtin_memcpy(key.address, &p.source, sizeof(key.address));
	now = bpf_ktime_get_boot_ns();
	bpf_map_update_elem(&udp_replies, &key, &now, BPF_ANY);
	return 1;
}
