// SPDX-License-Identifier: Apache-2.0
/* The child: born in the workload's cgroup, confines itself and becomes the command. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

#define LAST_SIGNAL	64	/* the kernel's _NSIG; its sets are one long */

static int exit_code_of(const struct trouble *trouble)
{
	if (trouble->kind != NOT_EXECUTED)
		return EXIT_REFUSED;
	return trouble->error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN;
}

static _Noreturn void tell(int trouble_fd, struct trouble *trouble)
{
	/* Smaller than PIPE_BUF: one write, whole or not at all. */
	if (write(trouble_fd, trouble, sizeof(*trouble)) < 0)
		_exit(EXIT_REFUSED);
	_exit(exit_code_of(trouble));
}

_Noreturn void child_fails(int trouble_fd, const char *what, int error)
{
	struct trouble trouble = { .kind = NOT_CONFINED, .error = error };

	snprintf(trouble.what, sizeof(trouble.what), "%s", what);
	tell(trouble_fd, &trouble);
}

/* The pty becomes the controlling terminal of the new session and the descriptors that the loader named. */
static const char *take_pty(const struct plan *plan)
{
	if (plan->pty_fd < 0)
		return NULL;
	/* /proc/self/fd/0 and /dev/pts/N must open for the command's uid, and for nobody else (mesg, write). */
	if (fchown(plan->pty_fd, plan->uid, plan->gid) || fchmod(plan->pty_fd, 0600))
		return "giving the pty to the command's uid";
	if (ioctl(plan->pty_fd, TIOCSCTTY, 0))
		return "making the pty the controlling terminal";
	for (int fd = 0; fd <= 2; fd++)
		if (plan->pty_mask & (1u << fd) && dup2(plan->pty_fd, fd) < 0)
			return "dup2 of the pty";
	return NULL;
}

/* Leave 0, 1, 2 and 3, the pipe that exec closes. Returns NULL or what failed. */
static const char *close_descriptors(int *trouble_fd)
{
	if (*trouble_fd != 3) {
		if (dup3(*trouble_fd, 3, O_CLOEXEC) < 0)
			return "dup3";
		*trouble_fd = 3;
	}
	if (syscall(SYS_close_range, 4u, UINT_MAX, 0u))
		return "close_range";
	return NULL;
}

/*
 * By system calls: libc refuses to touch 32 and 33, which it keeps for itself, but its posix_spawn leaves them ignored,
 * and so does every program that was started that way (by make, for one). Zeros are SIG_DFL, without flags.
 */
static void reset_signals(void)
{
	const struct {
		unsigned long handler, flags, restorer, mask;
	} by_default = { 0 };
	const unsigned long none = 0;

	/* Errors are of SIGKILL and SIGSTOP. */
	for (int number = 1; number <= LAST_SIGNAL; number++)
		(void)syscall(SYS_rt_sigaction, number, &by_default, NULL, sizeof(none));
	(void)syscall(SYS_rt_sigprocmask, SIG_SETMASK, &none, NULL, sizeof(none));
}

_Noreturn void become_command(const struct plan *plan, pid_t guardian, int trouble_fd)
{
	struct trouble trouble = { .kind = NOT_EXECUTED };
	const char *failed;

	if (setsid() < 0)
		child_fails(trouble_fd, "setsid", errno);
	failed = take_pty(plan);
	if (!failed)
		failed = check_standard_descriptors();
	if (!failed)
		failed = close_descriptors(&trouble_fd);
	if (failed)
		child_fails(trouble_fd, failed, errno);
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		child_fails(trouble_fd, "no_new_privs", errno);
	if (!plan->keep_privileges) {
		failed = drop_privileges(plan);
		if (failed)
			child_fails(trouble_fd, failed, errno);
	}
	/* A change of uid clears it, so only now; a guardian that died before this line is seen by getppid. */
	if (prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0))
		child_fails(trouble_fd, "PR_SET_PDEATHSIG", errno);
	if (getppid() != guardian)
		_exit(EXIT_REFUSED);
	reset_signals();
	if (install_filter())
		child_fails(trouble_fd, "installing the seccomp filter", errno);

	execvp(plan->command[0], plan->command);
	trouble.error = errno;
	snprintf(trouble.what, sizeof(trouble.what), "%s", "exec");
	tell(trouble_fd, &trouble);
}
