/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The launcher starts one command under policy and guards its run.
 *
 * Two processes live here. The guardian (the process that the loader spawned) stays privileged, waits, and cleans up
 * when the loader is gone. The child is born inside the workload's cgroup, gives up everything and becomes the command.
 */
#ifndef RACECAR_LAUNCHER_H
#define RACECAR_LAUNCHER_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>

#define EXIT_REFUSED	125	/* racecar's own failure */
#define EXIT_NOT_RUN	126	/* found but not executable, as env(1) */
#define EXIT_NOT_FOUND	127

#define MAX_GROUPS	1024
#define MAX_CLEANUP	32
#define MAX_KILL	16

struct plan {
	int cgroup_fd;			/* the workload's cgroup, a directory of cgroup2 */
	int guard_fd;			/* end of file here: the loader is gone or has finished */
	int status_fd;			/* lines for the loader */
	int pty_fd;			/* slave side, or -1 */
	int seal_fd;			/* the map of workloads, or -1 */
	unsigned int pty_mask;		/* bit n: descriptor n becomes the pty */
	uid_t uid;
	gid_t gid;
	bool keep_privileges;
	size_t group_count;
	gid_t groups[MAX_GROUPS];
	size_t cleanup_count;
	const char *cleanup[MAX_CLEANUP];
	size_t kill_count;
	pid_t kill_pids[MAX_KILL];
	int kill_fds[MAX_KILL];		/* pidfds, opened before the child exists */
	char **command;
};

/* What the child tells the guardian: that it runs, then perhaps why it cannot become the command. */
enum trouble_kind {
	BORN,
	NOT_CONFINED,
	NOT_EXECUTED,			/* everything before execvp went well */
};

struct trouble {
	enum trouble_kind kind;
	int error;			/* errno, 0 for a refusal */
	char what[120];
};

struct birth {
	pid_t pid;
	int pidfd;
	int trouble_fd;			/* read end; closed by exec at the other side */
};

/* birth.c: 0, or -1 with errno. */
int bear_child(const struct plan *plan, pid_t guardian, struct birth *birth);

/* child.c: never returns. trouble_fd is the write end of a close-on-exec pipe. */
_Noreturn void become_command(const struct plan *plan, pid_t guardian, int trouble_fd);
/* child.c: tell the guardian and end. error 0 = a refusal that `what` explains. */
_Noreturn void child_fails(int trouble_fd, const char *what, int error);

/* confine.c: each returns NULL, or what failed with errno set (errno 0: `what` says all). */
const char *check_standard_descriptors(void);
const char *drop_privileges(const struct plan *plan);
void limit_guardian(void);

/* filter.c: 0 or -1 with errno. */
int install_filter(void);

/* guardian.c: returns the exit code of the launcher. */
int guard_run(const struct plan *plan, const struct birth *birth);
__attribute__((format(printf, 2, 3))) void report(const struct plan *plan, const char *format, ...);

/* seal.c: 0, or -1 with errno. */
int seal_workload(int map_fd);

/* cleanup.c */
bool is_cleanup_path(const char *path);
/* Remove one directory by the rules of its file system, or one file; 0, or -1 with errno. A missing one is fine. */
int remove_path(const char *path);

#endif
