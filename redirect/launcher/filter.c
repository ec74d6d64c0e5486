// SPDX-License-Identifier: Apache-2.0
/* The seccomp filter of a workload: which calls and socket families exist for it. Children inherit it and cannot take it off. */
#include "launcher.h"

#include <asm/ioctls.h>
#include <errno.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#if defined(__x86_64__)
#define NATIVE_ARCH	AUDIT_ARCH_X86_64
#elif defined(__aarch64__) && defined(__AARCH64EL__)
#define NATIVE_ARCH	AUDIT_ARCH_AARCH64
#else
#error "the seccomp filter is written for x86_64 and little-endian aarch64"
#endif

#define X32_BIT			0x40000000	/* set in every system call number of x32 */
#define SOCKET_TYPE_MASK	0xf		/* the kernel's SOCK_TYPE_MASK: the rest are flags */
#define SMC_PROTOCOL		256		/* IPPROTO_SMC, Linux 6.11 */

#define LOAD(offset)		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (offset))
/* Families, types, protocols and ioctl numbers are 32-bit values to the kernel, which ignores the upper half. */
#define LOAD_ARGUMENT(n)	LOAD(offsetof(struct seccomp_data, args) + 8 * (n))
#define EQUAL(k, yes, no)	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (k), (yes), (no))
#define AT_LEAST(k, yes, no)	BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, (k), (yes), (no))
#define RETURN(value)		BPF_STMT(BPF_RET | BPF_K, (value))
#define FAIL(error)		RETURN(SECCOMP_RET_ERRNO | (error))
#define ALLOW			RETURN(SECCOMP_RET_ALLOW)

int install_filter(void)
{
	struct sock_filter code[] = {
		/* Numbers of another architecture (int 0x80, compat) would pass every comparison below. */
		LOAD(offsetof(struct seccomp_data, arch)),
		EQUAL(NATIVE_ARCH, 1, 0),
		RETURN(SECCOMP_RET_KILL_PROCESS),

		LOAD(offsetof(struct seccomp_data, nr)),
#ifdef __x86_64__
		AT_LEAST(X32_BIT, 0, 1),
		FAIL(ENOSYS),
#endif
		/*
		 * IORING_OP_SOCKET makes sockets of any family, and no filter sees the operations of a ring. As on a
		 * kernel without io_uring: programs fall back to ordinary calls.
		 */
		EQUAL(SYS_io_uring_setup, 5, 0),
		EQUAL(SYS_io_uring_enter, 4, 0),
		EQUAL(SYS_io_uring_register, 3, 0),
		/*
		 * A key that is missing is asked for by a helper that the kernel starts as root, outside the cgroup: with
		 * dns_resolver it asks any name of the caller's choice. keyctl can make such requests too.
		 */
		EQUAL(SYS_request_key, 2, 0),
		EQUAL(SYS_add_key, 1, 0),
		EQUAL(SYS_keyctl, 0, 1),
		FAIL(ENOSYS),

		EQUAL(SYS_socket, 1, 0),
		EQUAL(SYS_socketpair, 0, 14),
		LOAD_ARGUMENT(0),
		EQUAL(AF_INET, 4, 0),
		EQUAL(AF_INET6, 3, 0),
		EQUAL(AF_UNIX, 9, 0),
		EQUAL(AF_NETLINK, 8, 0),
		FAIL(EAFNOSUPPORT),
		/* AF_INET with SOCK_PACKET is AF_PACKET to the kernel (the name that it had in 2.0). */
		LOAD_ARGUMENT(1),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, SOCKET_TYPE_MASK),
		EQUAL(SOCK_PACKET, 0, 1),
		FAIL(EAFNOSUPPORT),
		/* IPPROTO_SMC is AF_SMC by another name: bytes that move without packets. */
		LOAD_ARGUMENT(2),
		EQUAL(SMC_PROTOCOL, 0, 1),
		FAIL(EPROTONOSUPPORT),
		ALLOW,

		/* Typing into a terminal: TIOCSTI, and TIOCLINUX's paste on a console. */
		EQUAL(SYS_ioctl, 0, 4),
		LOAD_ARGUMENT(1),
		EQUAL(TIOCSTI, 1, 0),
		EQUAL(TIOCLINUX, 0, 1),
		FAIL(EPERM),
		ALLOW,
	};
	struct sock_fprog program = {
		.len = sizeof(code) / sizeof(code[0]),
		.filter = code,
	};

	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
}
