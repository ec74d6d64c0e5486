/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * The kernel's types that the programs read, trimmed to the fields used. CO-RE finds each field's place in the
 * running kernel's BTF, so neither order nor the missing fields matter. Context structures come from <linux/bpf.h>.
 */
#ifndef RACECAR_KERNEL_H
#define RACECAR_KERNEL_H

#include <linux/types.h>
#include <linux/bpf.h>
#include <bpf/bpf_helpers.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_core_read.h>

#define AF_INET 2
#define AF_INET6 10
#define SOCK_STREAM 1
#define SOCK_DGRAM 2
#define SOCK_RAW 3
#define IPPROTO_ICMP 1
#define IPPROTO_TCP 6
#define IPPROTO_UDP 17
#define IPPROTO_ICMPV6 58
#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86DD
#define IFF_LOOPBACK 8
#define EPERM 1
#define EOPNOTSUPP 95
#define RC_TCP_LISTEN 10	/* include/net/tcp_states.h */
#define RC_TCP_CLOSE 7

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct net_device {
	unsigned int flags;
};

struct dst_entry {
	struct net_device *dev;
};

struct sock {
	struct dst_entry *sk_dst_cache;
};

struct inet_sock {
	struct sock sk;
};

struct inet_connection_sock {
	struct inet_sock icsk_inet;
};

struct tcp_fastopen_request;

struct tcp_sock {
	struct inet_connection_sock inet_conn;
	struct tcp_fastopen_request *fastopen_req;
	__u8 fastopen_connect:1;
	__u64 bytes_acked;
	__u64 bytes_received;
};

struct task_struct {
	__u64 start_boottime;
	struct task_struct *group_leader;
};

#pragma clang attribute pop

#endif
