// SPDX-License-Identifier: Apache-2.0
/* Start one command in its cgroup and guard its run: its arguments, and the guardian before the child exists. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char usage_text[] =
	"usage: racecar-launcher --cgroup-fd N --guard-fd N --status-fd N {--uid U --gid G [--groups A,B] |\n"
	"       --keep-privileges} [--pty-fd N --pty-mask BITS] [--cleanup PATH]... [--kill-pid PID]... [--seal-fd N] -- CMD [ARG]...\n";

static _Noreturn void usage(const char *what, const char *value)
{
	fprintf(stderr, "racecar-launcher: %s%s%s\n%s", what, value ? ": " : "", value ? value : "", usage_text);
	exit(EXIT_REFUSED);
}

static _Noreturn void fail(const struct plan *plan, const char *what, int error)
{
	if (error)
		report(plan, "failed %s: %s (%d)\n", what, strerror(error), error);
	else
		report(plan, "failed %s\n", what);
	exit(EXIT_REFUSED);
}

static unsigned long number(const char *text, unsigned long most)
{
	unsigned long value;
	char *end;

	errno = 0;
	value = strtoul(text, &end, 10);
	if (text[0] < '0' || text[0] > '9' || *end || errno || value > most)
		usage("not a number in range", text);
	return value;
}

static int descriptor(const char *text)
{
	int fd = (int)number(text, INT_MAX);

	if (fd <= 2 || fcntl(fd, F_GETFD) < 0)
		usage("not an open descriptor above 2", text);
	(void)fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd;
}

/* The last value of uid_t and gid_t means "no change" to the kernel. */
static unsigned int identity(const char *text)
{
	return (unsigned int)number(text, UINT32_MAX - 1);
}

static void add_groups(struct plan *plan, char *text)
{
	char *rest = NULL;

	for (char *part = strtok_r(text, ",", &rest); part; part = strtok_r(NULL, ",", &rest)) {
		if (plan->group_count == MAX_GROUPS)
			usage("too many groups", NULL);
		plan->groups[plan->group_count++] = identity(part);
	}
}

static void add_cleanup(struct plan *plan, const char *path)
{
	if (!is_cleanup_path(path))
		usage("not a clean absolute path two levels deep", path);
	if (plan->cleanup_count == MAX_CLEANUP)
		usage("too many --cleanup", NULL);
	plan->cleanup[plan->cleanup_count++] = path;
}

static void add_kill(struct plan *plan, const char *text)
{
	if (plan->kill_count == MAX_KILL)
		usage("too many --kill-pid", NULL);
	plan->kill_pids[plan->kill_count++] = (pid_t)number(text, INT_MAX);
}

enum option_number {
	CGROUP_FD = 256, GUARD_FD, STATUS_FD, UID, GID, GROUPS, KEEP, PTY_FD, PTY_MASK, CLEANUP, KILL_PID, SEAL_FD,
};

static const struct option options[] = {
	{ "cgroup-fd", required_argument, NULL, CGROUP_FD },
	{ "guard-fd", required_argument, NULL, GUARD_FD },
	{ "status-fd", required_argument, NULL, STATUS_FD },
	{ "uid", required_argument, NULL, UID },
	{ "gid", required_argument, NULL, GID },
	{ "groups", required_argument, NULL, GROUPS },
	{ "keep-privileges", no_argument, NULL, KEEP },
	{ "pty-fd", required_argument, NULL, PTY_FD },
	{ "pty-mask", required_argument, NULL, PTY_MASK },
	{ "cleanup", required_argument, NULL, CLEANUP },
	{ "kill-pid", required_argument, NULL, KILL_PID },
	{ "seal-fd", required_argument, NULL, SEAL_FD },
	{ NULL, 0, NULL, 0 },
};

static void take_option(struct plan *plan, int option, char *value)
{
	switch (option) {
	case CGROUP_FD:
		plan->cgroup_fd = descriptor(value);
		break;
	case GUARD_FD:
		plan->guard_fd = descriptor(value);
		break;
	case STATUS_FD:
		plan->status_fd = descriptor(value);
		break;
	case PTY_FD:
		plan->pty_fd = descriptor(value);
		break;
	case PTY_MASK:
		plan->pty_mask = (unsigned int)number(value, 7);
		break;
	case UID:
		plan->uid = identity(value);
		break;
	case GID:
		plan->gid = identity(value);
		break;
	case GROUPS:
		add_groups(plan, value);
		break;
	case KEEP:
		plan->keep_privileges = true;
		break;
	case CLEANUP:
		add_cleanup(plan, value);
		break;
	case KILL_PID:
		add_kill(plan, value);
		break;
	case SEAL_FD:
		plan->seal_fd = descriptor(value);
		break;
	default:
		usage("unknown option", NULL);
	}
}

static void read_arguments(struct plan *plan, int argc, char **argv)
{
	int option;

	opterr = 0;
	/* "+": the command's own options are not ours. */
	while ((option = getopt_long(argc, argv, "+", options, NULL)) != -1)
		take_option(plan, option, optarg);
	if (plan->cgroup_fd < 0 || plan->guard_fd < 0 || plan->status_fd < 0)
		usage("--cgroup-fd, --guard-fd and --status-fd are needed", NULL);
	if (optind >= argc || strcmp(argv[optind - 1], "--"))
		usage("the command comes after --", NULL);
	plan->command = argv + optind;
	if (plan->keep_privileges) {
		if (plan->uid != (uid_t)-1 || plan->gid != (gid_t)-1 || plan->group_count)
			usage("--keep-privileges keeps uid, gid and groups", NULL);
		plan->uid = getuid();
		plan->gid = getgid();
	} else if (plan->uid == (uid_t)-1 || plan->gid == (gid_t)-1 || plan->uid == 0) {
		usage("--uid (not 0) and --gid are needed without --keep-privileges", NULL);
	}
}

/* A closed descriptor 0-2 would be given to the next open, and the command would hold that. */
static void fill_standard_descriptors(void)
{
	for (int fd = 0; fd <= 2; fd++)
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) != fd)
			_exit(EXIT_REFUSED);
}

/* A guardian that held the command's pipes or pty would keep their readers from seeing the end. */
static void let_go_of_streams(const struct plan *plan)
{
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int fd = 0; fd <= 2; fd++)
		if (null < 0 || dup2(null, fd) < 0)
			close(fd);
	if (null > 2)
		close(null);
	if (plan->pty_fd >= 0)
		close(plan->pty_fd);
}

static void prepare_guardian(struct plan *plan)
{
	struct statfs system;
	sigset_t all;

	/* Signals are for the command: the loader passes them on. Keys typed at a terminal reach its session only. */
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, NULL);
	(void)setsid();		/* EPERM: already a group's leader, and the mask is enough */
	if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0))
		fail(plan, "PR_SET_DUMPABLE", errno);
	(void)prctl(PR_SET_NAME, "racecar-guard", 0, 0, 0);
	if (fstatfs(plan->cgroup_fd, &system))
		fail(plan, "fstatfs of the cgroup", errno);
	if ((unsigned long)system.f_type != CGROUP2_SUPER_MAGIC)
		fail(plan, "the cgroup descriptor is not of cgroup2", 0);
	if (fcntl(plan->guard_fd, F_SETFL, O_NONBLOCK))
		fail(plan, "O_NONBLOCK on the guard pipe", errno);
	for (size_t i = 0; i < plan->kill_count; i++) {
		plan->kill_fds[i] = (int)syscall(SYS_pidfd_open, plan->kill_pids[i], 0);
		if (plan->kill_fds[i] < 0)
			fail(plan, "pidfd_open of a --kill-pid", errno);
	}
}

int main(int argc, char **argv)
{
	static struct plan plan = {
		.cgroup_fd = -1, .guard_fd = -1, .status_fd = -1, .pty_fd = -1, .seal_fd = -1,
		.uid = (uid_t)-1, .gid = (gid_t)-1,
	};
	struct birth birth;

	fill_standard_descriptors();
	read_arguments(&plan, argc, argv);
	prepare_guardian(&plan);
	if (bear_child(&plan, getpid(), &birth))
		fail(&plan, "making a process in the cgroup", errno);
	let_go_of_streams(&plan);
	limit_guardian();	/* before the loader hears of a pid: what it reads then is what guards */
	report(&plan, "pid %d\n", (int)birth.pid);
	return guard_run(&plan, &birth);
}
