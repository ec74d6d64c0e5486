// SPDX-License-Identifier: Apache-2.0
/* Make the child inside the workload's cgroup. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/sched.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

/* The child's first words: it exists and runs. */
static _Noreturn void begin(const struct plan *plan, pid_t guardian, int trouble_fd, bool must_enter)
{
	const struct trouble born = { .kind = BORN };

	if (must_enter) {
		int fd = openat(plan->cgroup_fd, "cgroup.procs", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);

		if (fd < 0 || write(fd, "0", 1) != 1)
			child_fails(trouble_fd, "entering the cgroup", errno);
	}
	if (write(trouble_fd, &born, sizeof(born)) != sizeof(born))
		_exit(EXIT_REFUSED);
	become_command(plan, guardian, trouble_fd);
}

static pid_t clone_into_cgroup(const struct plan *plan, int *child_fd)
{
	struct clone_args arguments = {
		.flags = CLONE_INTO_CGROUP | CLONE_PIDFD,
		.pidfd = (uintptr_t)child_fd,
		.exit_signal = SIGCHLD,
		.cgroup = (uint64_t)plan->cgroup_fd,
	};

	return (pid_t)syscall(SYS_clone3, &arguments, sizeof(arguments));
}

static pid_t clone_outside(int *child_fd)
{
	pid_t child = fork();

	if (child <= 0)
		return child;
	*child_fd = (int)syscall(SYS_pidfd_open, child, 0);
	if (*child_fd < 0) {
		int error = errno;

		(void)kill(child, SIGKILL);
		(void)waitpid(child, NULL, 0);
		errno = error;
		return -1;
	}
	return child;
}

static pid_t try_birth(const struct plan *plan, pid_t guardian, bool outside, struct birth *birth)
{
	int pipes[2];

	if (pipe2(pipes, O_CLOEXEC | O_NONBLOCK))
		return -1;
	birth->pidfd = -1;
	birth->pid = outside ? clone_outside(&birth->pidfd) : clone_into_cgroup(plan, &birth->pidfd);
	if (birth->pid == 0)
		begin(plan, guardian, pipes[1], outside);
	close(pipes[1]);
	birth->trouble_fd = pipes[0];
	if (birth->pid < 0) {
		int error = errno;

		close(pipes[0]);
		errno = error;
	}
	return birth->pid;
}

/* False when it ended without having run one instruction. True also when the loader has gone meanwhile. */
static bool has_begun(const struct plan *plan, const struct birth *birth)
{
	for (;;) {
		struct pollfd polls[] = {
			{ .fd = birth->trouble_fd, .events = POLLIN },
			{ .fd = plan->guard_fd, .events = 0 },		/* POLLHUP */
		};

		if (poll(polls, 2, -1) < 0 && errno != EINTR)
			return true;
		if (polls[0].revents)
			return polls[0].revents & POLLIN;
		if (polls[1].revents)
			return true;
	}
}

int bear_child(const struct plan *plan, pid_t guardian, struct birth *birth)
{
	if (try_birth(plan, guardian, false, birth) > 0) {
		siginfo_t ignored;

		if (has_begun(plan, birth))
			return 0;
		(void)waitid((idtype_t)P_PIDFD, (id_t)birth->pidfd, &ignored, WEXITED);
		close(birth->pidfd);
		close(birth->trouble_fd);
	} else if (errno != ENOSYS && errno != EPERM && errno != EINVAL) {
		return -1;
	}
	/*
	 * Container profiles answer clone3 with ENOSYS or EPERM. And some kernels (seen on 6.18) kill a child at birth
	 * when its cgroup and its parent's have seen cgroup.kill a different number of times. The child then enters the
	 * cgroup itself, before anything of the command's: as good, but it waits for a lock.
	 */
	return try_birth(plan, guardian, true, birth) > 0 ? 0 : -1;
}
