/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The maps of one instance. Each object declares those it uses; the loader makes each name once and hands the same
 * map to every object. Sizes marked "loader" are set before the map is made.
 */
#ifndef RACECAR_MAPS_H
#define RACECAR_MAPS_H

#include "kernel.h"
#include "racecar_abi.h"

/* Set by the loader between open and load. One variable an object: clang 14 writes offset 0 for each of several. */
struct rc_config {
	__u32 workload;		/* the attachment's identity: an index of `workloads` */
	__be16 listen4_port;	/* 127.0.0.1 */
	__be16 listen6_port;	/* ::1 */
};

struct rc_rate {
	__u64 window_ns;
	__u32 events;
	__u32 pad;
};

#define RC_MAX_WORKLOADS 1024

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RC_MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct rc_workload);
} workloads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);	/* loader */
	__type(key, struct rc_peer_key);
	__type(value, __u32);
} peers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 262144);	/* loader */
	__type(key, struct rc_port_key);
	__type(value, struct rc_port_value);
} ports SEC(".maps");

/* What the routing table `local` holds: the addresses that are this host's own. */
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__uint(max_entries, 65536);
	__type(key, struct rc_own_key);
	__type(value, __u32);
} own SEC(".maps");

/* Where the socket wanted to go and who opened it; dies with the socket. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct rc_conn);
} conns SEC(".maps");

/* Connections between their own ESTABLISHED and that of the proxy's accepted socket; bounded per workload. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 16384);	/* loader */
	__type(key, struct rc_tuple);
	__type(value, struct rc_conn);
} pending SEC(".maps");

/* The proxy's listening sockets: 0 IPv4, 1 IPv6. Empty while no proxy runs: then connections are refused. */
struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 2);
	__type(key, __u32);
	__type(value, __u64);
} listeners SEC(".maps");

/* Who sent a datagram to which of the workload's sockets, and when: he may be answered. */
struct rc_reply_key {
	__u64 cookie;
	__u8 address[16];
	__be16 port;
	__u8 pad[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);	/* loader */
	__type(key, struct rc_reply_key);
	__type(value, __u64);
} udp_replies SEC(".maps");

/* Datagrams that the workload's own sockets sent over loopback: they give nobody a licence to be answered. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct rc_tuple);
	__type(value, __u32);
} own_datagrams SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, RC_MAX_WORKLOADS);
	__type(key, __u32);
	__type(value, struct rc_rate);
} rates SEC(".maps");

/* Refusals by reason, summed over processors; 0 counts events that were not sent. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 64);
	__type(key, __u32);
	__type(value, __u64);
} refusals SEC(".maps");

#endif
