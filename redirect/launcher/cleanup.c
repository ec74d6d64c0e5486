// SPDX-License-Identifier: Apache-2.0
/* Remove what a run leaves behind, without ever following a symbolic link. */
#include "launcher.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define MAX_DEPTH	8	/* pins and cgroups of a run are two levels deep */
#define BUSY_TRIES	100
#define BUSY_WAIT_MS	10	/* a cgroup is busy for a moment after its last process */

#ifndef BPF_FS_MAGIC
#define BPF_FS_MAGIC	0xcafe4a11
#endif

/* Absolute, at least two components, none of them empty, "." or "..". */
bool is_cleanup_path(const char *path)
{
	int components = 0;

	if (path[0] != '/' || strlen(path) >= PATH_MAX)
		return false;
	while (*path == '/') {
		size_t length = strcspn(++path, "/");

		if (length == 0 || length > NAME_MAX)
			return false;
		if (!strncmp(path, ".", length) || (length == 2 && !strncmp(path, "..", 2)))
			return false;
		path += length;
		components++;
	}
	return components >= 2;
}

static int open_child(int parent, const char *name)
{
	return openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
}

/* Walk to the parent of the last component by hand: O_NOFOLLOW covers one component only. */
static int open_parent(const char *path, char name[NAME_MAX + 1])
{
	int parent = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (parent >= 0) {
		size_t length = strcspn(++path, "/");
		int next;

		memcpy(name, path, length);
		name[length] = '\0';
		path += length;
		if (!*path)
			break;
		next = open_child(parent, name);
		close(parent);
		parent = next;
	}
	return parent;
}

static int remove_tree(int parent, const char *name, unsigned long magic, int depth);

/* A directory of bpffs or cgroup2 may hold directories; any other directory of a run holds none. */
static int remove_entry(int directory, const struct dirent *entry, unsigned long magic, int depth)
{
	struct stat status;

	if (fstatat(directory, entry->d_name, &status, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : -1;
	if (S_ISDIR(status.st_mode)) {
		if (magic == BPF_FS_MAGIC || magic == CGROUP2_SUPER_MAGIC)
			return remove_tree(directory, entry->d_name, magic, depth + 1);
		return 0;	/* rmdir of its parent will say ENOTEMPTY */
	}
	if (magic == CGROUP2_SUPER_MAGIC)
		return 0;	/* the files of a cgroup go with it */
	if (magic != BPF_FS_MAGIC && !S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode))
		return 0;
	if (unlinkat(directory, entry->d_name, 0) && errno != ENOENT)
		return -1;
	return 0;
}

static int remove_contents(int fd, unsigned long magic, int depth)
{
	DIR *directory = fdopendir(fd);
	struct dirent *entry;
	int result = 0, error = 0;

	if (!directory) {
		close(fd);
		return -1;
	}
	while ((entry = readdir(directory))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		if (remove_entry(dirfd(directory), entry, magic, depth)) {
			error = errno;
			result = -1;
		}
	}
	closedir(directory);
	errno = error;
	return result;
}

static int remove_itself(int parent, const char *name)
{
	for (int try = 0; unlinkat(parent, name, AT_REMOVEDIR); try++) {
		if (errno == ENOENT)
			return 0;
		if (errno != EBUSY || try >= BUSY_TRIES)
			return -1;
		poll(NULL, 0, BUSY_WAIT_MS);
	}
	return 0;
}

/* A lock file or socket named by itself. */
static int remove_file(int parent, const char *name)
{
	struct stat status;

	if (fstatat(parent, name, &status, AT_SYMLINK_NOFOLLOW))
		return errno == ENOENT ? 0 : -1;
	if (!S_ISREG(status.st_mode) && !S_ISSOCK(status.st_mode)) {
		errno = ENOTDIR;
		return -1;
	}
	return unlinkat(parent, name, 0) && errno != ENOENT ? -1 : 0;
}

static int remove_tree(int parent, const char *name, unsigned long magic, int depth)
{
	struct statfs system;
	int error = 0;
	int fd;

	if (depth > MAX_DEPTH) {
		errno = ELOOP;
		return -1;
	}
	fd = open_child(parent, name);
	if (fd < 0 && errno == ENOENT)
		return 0;
	if (fd < 0)
		return depth == 0 && errno == ENOTDIR ? remove_file(parent, name) : -1;
	/* What is mounted below is not ours. */
	if (fstatfs(fd, &system) || (depth > 0 && (unsigned long)system.f_type != magic)) {
		close(fd);
		errno = EXDEV;
		return -1;
	}
	if (remove_contents(fd, (unsigned long)system.f_type, depth))
		error = errno;
	if (remove_itself(parent, name))
		return -1;
	errno = error;
	return error ? -1 : 0;
}

int remove_path(const char *path)
{
	char name[NAME_MAX + 1];
	int parent = open_parent(path, name);
	int result, error;

	if (parent < 0)
		return errno == ENOENT ? 0 : -1;
	result = remove_tree(parent, name, 0, 0);
	error = errno;
	close(parent);
	errno = error;
	return result;
}
