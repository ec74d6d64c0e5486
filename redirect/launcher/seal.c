// SPDX-License-Identifier: Apache-2.0
/* Let a workload that has ended open nothing any more: sockets that it handed on outlive it. */
#include "launcher.h"

#include <errno.h>
#include <linux/bpf.h>
#include <stdint.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct rc_workload of redirect/bpf/racecar_abi.h; a test of the Python side compares the sizes. */
struct workload {
	uint32_t policy;
	uint32_t generation;
	uint32_t enforce_egress;
	uint32_t audit;
	uint32_t pending_limit;
	int32_t pending;
};

static int map_call(int command, int map_fd, struct workload *value)
{
	uint32_t first = 0;
	union bpf_attr attributes;

	memset(&attributes, 0, sizeof(attributes));
	attributes.map_fd = (uint32_t)map_fd;
	attributes.key = (uint64_t)(uintptr_t)&first;
	attributes.value = (uint64_t)(uintptr_t)value;
	return (int)syscall(SYS_bpf, command, &attributes, sizeof(attributes));
}

/*
 * The tables of policy 0 are empty and deny everything. The generation stays: connections that were allowed may send
 * their last bytes. A workload that no policy selects stays as it is.
 */
int seal_workload(int map_fd)
{
	struct workload value;

	if (map_call(BPF_MAP_LOOKUP_ELEM, map_fd, &value))
		return -1;
	value.policy = 0;
	value.audit = 0;
	value.pending_limit = 0;
	return map_call(BPF_MAP_UPDATE_ELEM, map_fd, &value);
}
