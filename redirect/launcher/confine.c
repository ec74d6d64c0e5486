// SPDX-License-Identifier: Apache-2.0
/* What the child gives up, and what the guardian gives up once the child exists. */
#include "launcher.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#define LAST_CAPABILITY	63	/* two 32-bit words in the kernel's interface */
#define CAPABILITY(n)	((__u32)1 << (n))

/* Root without meaning, no capability kept or raised, for this process and its children. */
#define SECURE_BITS	(SECURE_ALL_BITS & ~(1 << SECURE_KEEP_CAPS))
#define SECURE_LOCKED	(SECURE_BITS | SECURE_ALL_LOCKS)

static const char *refuse(const char *what)
{
	errno = 0;
	return what;
}

/*
 * A socket of the network as stdin, stdout or stderr was made outside the cgroup: no hook and no gate would see it.
 * Sockets of AF_UNIX are not policed. Objects without a file type (io_uring, pidfd, BPF) are no streams.
 */
const char *check_standard_descriptors(void)
{
	for (int fd = 0; fd <= 2; fd++) {
		struct stat status;
		int domain = AF_UNSPEC;
		socklen_t length = sizeof(domain);

		if (fstat(fd, &status))
			return "fstat of a standard descriptor";
		if (S_ISSOCK(status.st_mode)) {
			if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &length))
				return "SO_DOMAIN of a standard descriptor";
			if (domain != AF_UNIX)
				return refuse(fd == 0 ? "stdin is a network socket" :
					      fd == 1 ? "stdout is a network socket" : "stderr is a network socket");
		} else if (!(status.st_mode & S_IFMT)) {
			return refuse(fd == 0 ? "stdin is a kernel object, not a file" :
				      fd == 1 ? "stdout is a kernel object, not a file" :
						"stderr is a kernel object, not a file");
		}
	}
	return NULL;
}

static int set_capabilities(__u32 low)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[2] = { { .effective = low, .permitted = low } };

	return (int)syscall(SYS_capset, &header, data);
}

static int get_capabilities(struct __user_cap_data_struct data[2])
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };

	return (int)syscall(SYS_capget, &header, data);
}

static const char *empty_bounding_set(void)
{
	for (int capability = 0; capability <= LAST_CAPABILITY; capability++) {
		int held = prctl(PR_CAPBSET_READ, capability, 0, 0, 0);

		if (held < 0)
			break;		/* EINVAL: past the last one of this kernel */
		if (held && prctl(PR_CAPBSET_DROP, capability, 0, 0, 0))
			return "dropping the bounding set (needs CAP_SETPCAP)";
	}
	return NULL;
}

static const char *check_dropped(const struct plan *plan)
{
	struct __user_cap_data_struct held[2];
	uid_t ruid, euid, suid;
	gid_t rgid, egid, sgid;

	if (getresuid(&ruid, &euid, &suid) || getresgid(&rgid, &egid, &sgid) || get_capabilities(held))
		return "reading the credentials back";
	if (ruid != plan->uid || euid != plan->uid || suid != plan->uid)
		return refuse("the uid did not change");
	if (rgid != plan->gid || egid != plan->gid || sgid != plan->gid)
		return refuse("the gid did not change");
	if (getgroups(0, NULL) != (int)plan->group_count)
		return refuse("the groups did not change");
	for (int word = 0; word < 2; word++)
		if (held[word].effective | held[word].permitted | held[word].inheritable)
			return refuse("capabilities are left");
	return NULL;
}

const char *drop_privileges(const struct plan *plan)
{
	const char *failed = empty_bounding_set();

	if (failed)
		return failed;
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
		return "clearing ambient capabilities";
	/* A second lock on doors that no_new_privs holds shut already: no reason to stop where it is refused. */
	(void)prctl(PR_SET_SECUREBITS, SECURE_LOCKED, 0, 0, 0);
	if (setgroups(plan->group_count, plan->groups))
		return "setgroups";
	if (setresgid(plan->gid, plan->gid, plan->gid))
		return "setresgid";
	if (setresuid(plan->uid, plan->uid, plan->uid))
		return "setresuid";
	if (set_capabilities(0))
		return "capset";
	/* Possession of the loader's session keyring would give its keys to the command. EPERM: closed to all here. */
	if (syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, NULL) < 0 && errno != ENOSYS && errno != EPERM)
		return "leaving the session keyring";
	return check_dropped(plan);
}

/* The guardian signals processes of other users and removes directories; it needs nothing else, and no core file. */
void limit_guardian(void)
{
	struct __user_cap_data_struct held[2];
	__u32 wanted = CAPABILITY(CAP_KILL) | CAPABILITY(CAP_DAC_OVERRIDE) | CAPABILITY(CAP_FOWNER);

	(void)prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
	if (!get_capabilities(held))
		(void)set_capabilities(held[0].permitted & wanted);
}
