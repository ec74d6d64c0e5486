/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* Structures shared by the BPF programs and redirect/abi.py. Addresses are 16 bytes, IPv4 v4-mapped. */
#ifndef RACECAR_ABI_H
#define RACECAR_ABI_H

#define RC_SCOPE_WORLD 0
#define RC_SCOPE_HOST 1		/* loopback and the host's own addresses */

#define RC_ANY_PEER 0

enum rc_state {
	RC_NONE = 0,
	RC_NATIVE = 1,		/* allowed as it is, never redirected */
	RC_REDIRECTED = 2,	/* on its way to the proxy */
	RC_INBOUND = 3,		/* accepted by the workload */
	RC_REFUSED = 4,
};

enum rc_verdict {
	RC_DENY = 0,
	RC_ALLOW = 1,
	RC_REDIRECT = 2,
	RC_DENY_RULE = 3,
};

#define RC_CONN_AUDIT 1		/* allowed by audit mode only */
#define RC_CONN_REPLY 2		/* allowed as an answer to a datagram, for as long as the window lasts */

#define RC_OWN_LOCAL 1		/* delivered to this host and to no other */
#define RC_OWN_SHARED 2		/* broadcast and anycast: delivered to this host among others */

/* What the connect hook decided for a socket; in its sk_storage, and in that of the proxy's accepted socket. */
struct rc_conn {
	__u64 cookie;
	__u64 cgroup_id;
	__u64 task_start_ns;
	__u64 connected_ns;
	__u32 workload;
	__u32 generation;
	__u32 epoch;
	__u32 ruleset;
	__u32 rule;
	__u32 pid;
	__u32 uid;
	__u32 flags;
	__u8 address[16];
	__be16 port;
	__u8 state;
	__u8 protocol;
	__u8 reason;		/* why it was refused after connect, for the gate's events */
	__u8 pad[3];
	char comm[16];
};
_Static_assert(sizeof(struct rc_conn) == 104, "redirect/abi.py CONNECTION_STRUCT");

/* A connection on its way to the proxy's listener. */
struct rc_tuple {
	__u64 netns_cookie;
	__u8 local[16];		/* the workload's side */
	__u8 remote[16];	/* the listener's side */
	__be16 local_port;
	__be16 remote_port;
	__u32 pad;
};
_Static_assert(sizeof(struct rc_tuple) == 48, "no hidden padding: used as a key");

/* One enforced workload: an entry of the workloads map. */
struct rc_workload {
	__u32 policy;		/* which tables judge it */
	__u32 generation;	/* grows with each policy swap */
	__u32 enforce_egress;	/* 0: no policy selects it in this direction */
	__u32 audit;
	__u32 pending_limit;
	__s32 pending;		/* connections announced and not yet accepted */
};

struct rc_peer_key {
	__u32 prefixlen;	/* 64 + bits of the address */
	__u32 policy;
	__u32 scope;
	__u8 address[16];
};

struct rc_port_key {
	__u32 prefixlen;	/* 80 + bits of the port */
	__u32 policy;
	__u32 peer;
	__u8 direction;		/* 0 egress */
	__u8 protocol;		/* 0: any */
	__be16 port;
};

struct rc_port_value {
	__u32 verdict;
	__u32 ruleset;
	__u32 rule;
};

struct rc_own_key {
	__u32 prefixlen;
	__u8 address[16];
};

enum rc_event_kind {
	RC_EVENT_DENIED = 1,	/* refused at a hook: the caller got an error */
	RC_EVENT_DROPPED = 2,	/* a packet stopped by the release gate */
	RC_EVENT_AUDIT = 3,	/* allowed by audit mode only */
	RC_EVENT_NATIVE = 4,	/* a native connection was allowed */
	RC_EVENT_CLOSED = 5,	/* a native connection ended */
};

struct rc_event {
	__u64 time_ns;		/* boot time clock */
	__u64 cookie;
	__u64 cgroup_id;
	__u64 task_start_ns;
	__u64 bytes_sent;
	__u64 bytes_received;
	__u64 duration_ns;
	__u32 kind;
	__u32 reason;
	__u32 workload;
	__u32 rule;
	__u32 pid;
	__u32 uid;
	__u8 address[16];	/* as dialled */
	__u8 source[16];
	__u8 peer[16];		/* as the packet or the socket has it: unlike `address` after redirection or NAT */
	__be16 port;
	__be16 source_port;
	__be16 peer_port;
	__u8 protocol;
	__u8 family;		/* of the socket; 0 unknown */
	char comm[16];
};
_Static_assert(sizeof(struct rc_event) == 152, "redirect/abi.py EVENT_STRUCT");

#endif
