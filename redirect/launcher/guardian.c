// SPDX-License-Identifier: Apache-2.0
/*
 * The guardian: waits for the command, reports its end, and when the loader is gone ends the run.
 *
 * It outlives the command until the loader closes the guard pipe, because between the end of the command and the
 * loader's own cleaning a loader that is killed would leave pins, cgroups and the command's children behind. The
 * command stays a zombie that long, so its pid means nothing else.
 */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef P_PIDFD
#define P_PIDFD 3
#endif

#define EMPTY_WAIT_MS	30000	/* for killed processes to be gone; they may hang in a device or a file server */
#define KILL_WAIT_MS	5000

struct watch {
	const struct plan *plan;
	int child_fd;
	int trouble_fd;			/* -1 once the command runs or has failed to */
	bool reported;			/* one line of how it ended */
	int code;			/* exit code of the launcher */
};

void report(const struct plan *plan, const char *format, ...)
{
	char line[512];
	va_list arguments;
	int length;

	va_start(arguments, format);
	length = vsnprintf(line, sizeof(line), format, arguments);
	va_end(arguments);
	if (length < 0)
		return;
	if ((size_t)length >= sizeof(line)) {
		length = sizeof(line) - 1;
		line[length - 1] = '\n';
	}
	/* Nobody may be left to read it. SIGPIPE is blocked. */
	if (write(plan->status_fd, line, (size_t)length) < 0)
		return;
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void report_trouble(struct watch *watch, struct trouble *trouble)
{
	if (trouble->kind == BORN)
		return;
	trouble->what[sizeof(trouble->what) - 1] = '\0';
	watch->reported = true;
	watch->code = EXIT_REFUSED;
	if (trouble->kind == NOT_EXECUTED) {
		watch->code = trouble->error == ENOENT ? EXIT_NOT_FOUND : EXIT_NOT_RUN;
		report(watch->plan, "exec-failed %d\n", trouble->error);
	} else if (trouble->error) {
		report(watch->plan, "failed %s: %s (%d)\n", trouble->what, strerror(trouble->error), trouble->error);
	} else {
		report(watch->plan, "failed %s\n", trouble->what);
	}
}

/* The pipe closes when exec succeeds; a message comes when it does not. */
static void read_trouble(struct watch *watch)
{
	struct trouble trouble;
	ssize_t length;

	while (watch->trouble_fd >= 0) {
		length = read(watch->trouble_fd, &trouble, sizeof(trouble));
		if (length < 0 && errno == EAGAIN)
			return;
		if (length == sizeof(trouble)) {
			report_trouble(watch, &trouble);
			continue;
		}
		close(watch->trouble_fd);
		watch->trouble_fd = -1;
	}
}

/* WNOWAIT: the zombie keeps the pid from being given to somebody else, whom the loader would signal. */
static void read_end(struct watch *watch)
{
	siginfo_t info = { 0 };

	if (waitid((idtype_t)P_PIDFD, (id_t)watch->child_fd, &info, WEXITED | WNOWAIT | WNOHANG))
		return;
	if (!info.si_pid || watch->reported)
		return;
	watch->reported = true;
	if (info.si_code == CLD_EXITED) {
		watch->code = info.si_status;
		report(watch->plan, "exit %d\n", info.si_status);
	} else {
		watch->code = 128 + info.si_status;
		report(watch->plan, "signal %d\n", info.si_status);
	}
}

static bool loader_is_gone(int guard_fd)
{
	char ignored[64];
	ssize_t length = read(guard_fd, ignored, sizeof(ignored));

	return length == 0 || (length < 0 && errno != EAGAIN && errno != EINTR);
}

static void wait_for_loader(struct watch *watch)
{
	bool ended = false;

	for (;;) {
		struct pollfd polls[] = {
			{ .fd = watch->plan->guard_fd, .events = POLLIN },
			{ .fd = watch->trouble_fd, .events = POLLIN },
			{ .fd = ended ? -1 : watch->child_fd, .events = POLLIN },
		};

		if (poll(polls, 3, -1) < 0 && errno != EINTR)
			return;
		if (polls[1].revents || polls[2].revents)
			read_trouble(watch);
		if (polls[2].revents) {
			read_end(watch);
			ended = true;
		}
		if (polls[0].revents && loader_is_gone(watch->plan->guard_fd))
			return;
	}
}

static int kill_cgroup(int cgroup_fd)
{
	int fd = openat(cgroup_fd, "cgroup.kill", O_WRONLY | O_CLOEXEC | O_NOFOLLOW);
	int result;

	if (fd < 0)
		return -1;
	result = write(fd, "1", 1) == 1 ? 0 : -1;
	close(fd);
	return result;
}

static bool is_populated(int events_fd)
{
	char text[256];
	ssize_t length = pread(events_fd, text, sizeof(text) - 1, 0);

	/* ENODEV: the cgroup has been removed, and only an empty one can be. */
	if (length < 0)
		return errno != ENODEV;
	text[length] = '\0';
	return strstr(text, "populated 0") == NULL;
}

/* True when no process is left in the cgroup or below it. */
static bool wait_until_empty(int cgroup_fd)
{
	int fd = openat(cgroup_fd, "cgroup.events", O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	long long deadline = now_ms() + EMPTY_WAIT_MS;
	bool populated = true;

	if (fd < 0)
		return errno == ENOENT || errno == ENODEV;
	while ((populated = is_populated(fd))) {
		struct pollfd change = { .fd = fd, .events = POLLPRI };
		long long left = deadline - now_ms();

		if (left <= 0)
			break;
		/* kernfs signals POLLPRI once per change since the last read. */
		poll(&change, 1, (int)left);
	}
	close(fd);
	return !populated;
}

static void kill_helpers(const struct plan *plan)
{
	for (size_t i = 0; i < plan->kill_count; i++)
		(void)syscall(SYS_pidfd_send_signal, plan->kill_fds[i], SIGKILL, NULL, 0);
	for (size_t i = 0; i < plan->kill_count; i++) {
		struct pollfd end = { .fd = plan->kill_fds[i], .events = POLLIN };

		poll(&end, 1, KILL_WAIT_MS);
	}
}

static void clean_up(const struct plan *plan)
{
	if (plan->seal_fd >= 0 && seal_workload(plan->seal_fd))
		report(plan, "left cannot seal the workload: %s (%d)\n", strerror(errno), errno);
	for (size_t i = 0; i < plan->cleanup_count; i++)
		if (remove_path(plan->cleanup[i]))
			report(plan, "left cannot remove %s: %s (%d)\n", plan->cleanup[i], strerror(errno), errno);
}

/* Returns false when processes are left: their programs must then stay attached, so nothing is removed. */
static bool end_workload(struct watch *watch)
{
	const struct plan *plan = watch->plan;
	siginfo_t ignored;

	if (kill_cgroup(plan->cgroup_fd) && errno != ENOENT && errno != ENODEV)
		report(plan, "left cannot write cgroup.kill: %s (%d)\n", strerror(errno), errno);
	(void)syscall(SYS_pidfd_send_signal, watch->child_fd, SIGKILL, NULL, 0);
	kill_helpers(plan);
	if (!wait_until_empty(plan->cgroup_fd)) {
		report(plan, "left processes in the cgroup that do not end, and all that confines them\n");
		return false;
	}
	read_end(watch);
	(void)waitid((idtype_t)P_PIDFD, (id_t)watch->child_fd, &ignored, WEXITED | WNOHANG);
	return true;
}

int guard_run(const struct plan *plan, const struct birth *birth)
{
	struct watch watch = {
		.plan = plan, .child_fd = birth->pidfd, .trouble_fd = birth->trouble_fd, .code = EXIT_REFUSED,
	};

	wait_for_loader(&watch);
	if (!end_workload(&watch))
		return EXIT_REFUSED;
	clean_up(plan);
	return watch.code;
}
