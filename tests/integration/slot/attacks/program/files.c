/* Files of others: of another slot, of the agent, of the machine. */

#include "attack.h"

#include <dirent.h>
#include <sys/inotify.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>

static void read_file(char **a) /* PATH [MARK] */
{
	if (reads(a[0], a[1]))
		succeeded("read %s", a[0]);
	failed("read");
}

static void read_through_link(char **a) /* PATH [MARK] */
{
	unlink("link");
	must(symlink(a[0], "link"), "symlink");
	if (reads("link", a[1]))
		succeeded("read %s", a[0]);
	failed("read");
}

static void read_by_descriptor(char **a) /* PATH MARK: found without a right to read, and opened again */
{
	char path[64];
	int found = must(open(a[0], O_PATH), "open");
	sprintf(path, "/proc/self/fd/%d", found);
	if (reads(path, a[1]))
		succeeded("read %s", a[0]);
	failed("read");
}

static void write_file(char **a) /* PATH */
{
	must(open(a[0], O_WRONLY | O_NONBLOCK), "open");
	succeeded("%s can be written to", a[0]);
}

static void truncate_file(char **a) /* PATH, of a file that is longer */
{
	struct stat file;
	must(stat(a[0], &file), "stat");
	must(truncate(a[0], file.st_size), "truncate");
	succeeded("%s can be truncated", a[0]);
}

static void create_file(char **a) /* DIRECTORY */
{
	char path[PATH_MAX];
	snprintf(path, sizeof path, "%s/planted-%d", a[0], getpid());
	must(open(path, O_CREAT | O_EXCL | O_WRONLY, 0666), "create");
	unlink(path);
	succeeded("made a file in %s", a[0]);
}

static void list_directory(char **a) /* DIRECTORY */
{
	DIR *directory = opendir(a[0]);
	if (directory == NULL)
		failed("opendir");
	struct dirent *entry;
	while ((entry = readdir(directory)) != NULL)
		if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0)
			succeeded("found %s", entry->d_name);
	failed_since("there is nothing in it");
}

static void move_file(char **a) /* PATH */
{
	char moved[PATH_MAX];
	snprintf(moved, sizeof moved, "%s.moved", a[0]);
	must(rename(a[0], moved), "rename");
	rename(moved, a[0]);
	succeeded("moved %s", a[0]);
}

static void take_file(char **a) /* PATH: into the own directory, by a link */
{
	char own[64];
	sprintf(own, "taken-%d", getpid());
	must(link(a[0], own), "link");
	unlink(own);
	succeeded("have a link to %s", a[0]);
}

static void change_mode(char **a) /* PATH */
{
	struct stat file;
	must(stat(a[0], &file), "stat");
	must(chmod(a[0], file.st_mode & 07777), "chmod");
	succeeded("can set the mode of %s", a[0]);
}

static void change_times(char **a) /* PATH */
{
	struct timespec times[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_sec = 1 } };
	must(utimensat(AT_FDCWD, a[0], times, 0), "utimensat");
	succeeded("set the times of %s", a[0]);
}

static void change_attributes(char **a) /* PATH */
{
	must(setxattr(a[0], "user.attacked", "x", 1, 0), "setxattr");
	removexattr(a[0], "user.attacked");
	succeeded("set an attribute of %s", a[0]);
}

static void watch(char **a) /* PATH */
{
	must(inotify_add_watch(must(inotify_init1(0), "inotify"), a[0], IN_ALL_EVENTS), "inotify_add_watch");
	succeeded("hear of what is done to %s", a[0]);
}

static void leave_chroot(char **a)
{
	struct stat before, after;
	must(stat("/", &before), "stat");
	mkdir("jail", 0700);
	must(chroot("jail"), "chroot");
	for (int i = 0; i < 64; i++)
		must(chdir(".."), "chdir");
	must(chroot("."), "chroot");
	must(stat("/", &after), "stat");
	if (before.st_ino == after.st_ino && before.st_dev == after.st_dev)
		succeeded("out again");
	failed_since("there is another root");
}

static void open_by_handle(char **a) /* PATH */
{
	union {
		struct file_handle handle;
		char space[sizeof(struct file_handle) + MAX_HANDLE_SZ];
	} file = { .handle.handle_bytes = MAX_HANDLE_SZ };
	int mount;
	must(name_to_handle_at(AT_FDCWD, a[0], &file.handle, &mount, 0), "name_to_handle_at");
	must(open_by_handle_at(open("/", O_RDONLY | O_DIRECTORY), &file.handle, O_RDONLY), "open_by_handle_at");
	succeeded("opened %s by its handle", a[0]);
}

static void make_device(char **a) /* "char" or "block", MAJOR, MINOR */
{
	mode_t type = a[0][0] == 'c' ? S_IFCHR : S_IFBLK;
	unlink("device");
	must(mknod("device", type | 0600, makedev(atoi(a[1]), atoi(a[2]))), "mknod");
	unlink("device");
	succeeded("made it");
}

static void run_privileged(char **a) /* PROGRAM ARGUMENT...: with root's user or a capability as its file says */
{
	must(execv(a[0], a), "exec");
}

static void ask_su(char **a) /* PROGRAM ARGUMENT...: which asks for nothing and prints what root alone can read */
{
	int ends[2];
	must(pipe(ends), "pipe");
	pid_t child = must(fork(), "fork");
	if (child == 0) {
		int null = open("/dev/null", O_RDWR);
		dup2(null, 0);
		dup2(null, 2);
		dup2(ends[1], 1);
		execv(a[0], a);
		_exit(127);
	}
	close(ends[1]);
	char byte;
	bool printed = read(ends[0], &byte, 1) == 1;
	int status;
	waitpid(child, &status, 0);
	if (printed && status == 0)
		succeeded("it printed root's file");
	failed_since("it ended with status %d", status);
}

const struct attack FILES[] = {
	{ "read", read_file }, { "read-through-link", read_through_link }, { "read-by-descriptor", read_by_descriptor },
	{ "write", write_file }, { "truncate", truncate_file }, { "create", create_file }, { "list", list_directory },
	{ "move", move_file }, { "take", take_file }, { "mode", change_mode }, { "times", change_times },
	{ "attributes", change_attributes }, { "watch", watch }, { "leave-chroot", leave_chroot },
	{ "handle", open_by_handle }, { "device", make_device }, { "privileged", run_privileged }, { "su", ask_su }, {},
};
