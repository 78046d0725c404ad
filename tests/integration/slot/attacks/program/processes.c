/* Other processes: the agent, its helpers, what other slots run, and what else the machine does.

   The arguments of each of these attacks are numbers of processes; beside them, every process that /proc shows is tried.
   One that gives way is enough. */

#include "attack.h"

#include <dirent.h>
#include <linux/kcmp.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define TARGETS 4096

static bool is_own(pid_t pid)
{
	/* /proc may be of another pid namespace than this process, so that it has two numbers. */
	char number[32] = "";
	if (readlink("/proc/self", number, sizeof number - 1) == -1)
		return pid == getpid();
	return pid == getpid() || pid == atoi(number);
}

/* The number of targets. Those in the arguments come first. */
static int targets(char **a, pid_t *found)
{
	int count = 0;
	for (; *a != NULL; a++)
		if (!is_own(atoi(*a)))
			found[count++] = atoi(*a);
	DIR *directory = opendir("/proc");
	struct dirent *entry;
	while (directory != NULL && (entry = readdir(directory)) != NULL && count < TARGETS)
		if (atoi(entry->d_name) > 0 && !is_own(atoi(entry->d_name)))
			found[count++] = atoi(entry->d_name);
	if (directory != NULL)
		closedir(directory);
	return count;
}

/* `give_way`: 0 or more, or -1 and why not. */
static void on_each(char **a, const char *step, long (*give_way)(pid_t))
{
	static pid_t found[TARGETS];
	int count = targets(a, found), error = ESRCH;
	for (int i = 0; i < count; i++) {
		if (give_way(found[i]) != -1)
			succeeded("%s of process %d", step, found[i]);
		/* That it is not let says more than that nobody is there. */
		error = errno == ESRCH || errno == ENOENT ? error : errno;
	}
	errno = error;
	failed(step);
}

static char *file_of(pid_t pid, const char *name)
{
	static char path[128];
	snprintf(path, sizeof path, "/proc/%d/%s", pid, name);
	return path;
}

/* The kernel says yes to a signal for process 1 of the own pid namespace, and drops it. */
static bool is_immune(pid_t pid) { return pid == 1 && getppid() == 1; }

static long harmless_signal(pid_t pid) { return is_immune(pid) ? (errno = EPERM, -1) : kill(pid, SIGURG); }

static long queued_signal(pid_t pid)
{
	return is_immune(pid) ? (errno = EPERM, -1) : sigqueue(pid, SIGURG, (union sigval){ 0 });
}

static long thread_signal(pid_t pid) { return is_immune(pid) ? (errno = EPERM, -1) : tgkill(pid, pid, SIGURG); }

static long signal_by_descriptor(pid_t pid)
{
	int process = syscall(SYS_pidfd_open, pid, 0);
	if (process == -1 || is_immune(pid))
		return process == -1 ? -1 : (errno = EPERM, -1);
	return syscall(SYS_pidfd_send_signal, process, SIGURG, NULL, 0);
}

static void signal_(char **a) { on_each(a, "signal", harmless_signal); }
static void queue(char **a) { on_each(a, "queued signal", queued_signal); }
static void thread(char **a) { on_each(a, "signal to the thread", thread_signal); }
static void descriptor(char **a) { on_each(a, "signal by descriptor", signal_by_descriptor); }

/* The kernel sends the signal when something comes in: the owner of a socket may be somebody else. */
static void owned(char **a) /* one NUMBER, of a process of this program that waits for the signal and then makes FILE */
{
	int ends[2];
	must(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), "socketpair");
	must(fcntl(ends[0], F_SETOWN, atoi(a[0])), "F_SETOWN");
	must(fcntl(ends[0], F_SETSIG, SIGUSR1), "F_SETSIG");
	must(fcntl(ends[0], F_SETFL, O_ASYNC | O_NONBLOCK), "O_ASYNC");
	must(write(ends[1], "x", 1), "write");
	/* It hears at once, or never. */
	for (int i = 0; i < 20; i++) {
		if (access(a[1], F_OK) == 0)
			succeeded("it got the signal");
		usleep(5000);
	}
	failed_since("no signal came");
}

static long seize(pid_t pid)
{
	if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) == -1)
		return -1;
	/* Its end lets go of it. */
	return 0;
}

static void trace(char **a) { on_each(a, "trace", seize); }

static long read_vm(pid_t pid)
{
	char byte;
	struct iovec local = { &byte, 1 }, remote = { (void *)4096, 1 };
	/* Nothing is there, and only who may look is told so. */
	return process_vm_readv(pid, &local, 1, &remote, 1, 0) == -1 && errno != EFAULT ? -1 : 0;
}

static long write_vm(pid_t pid)
{
	char byte = 0;
	struct iovec local = { &byte, 1 }, remote = { (void *)4096, 1 };
	return process_vm_writev(pid, &local, 1, &remote, 1, 0) == -1 && errno != EFAULT ? -1 : 0;
}

static long open_memory(pid_t pid)
{
	int memory = open(file_of(pid, "mem"), O_RDWR);
	if (memory == -1)
		return -1;
	close(memory);
	return 0;
}

static long advise(pid_t pid)
{
	int process = syscall(SYS_pidfd_open, pid, 0);
	struct iovec remote = { (void *)4096, 4096 };
	if (process == -1)
		return -1;
	return syscall(SYS_process_madvise, process, &remote, 1, MADV_COLD, 0) == -1 && errno != ENOMEM ? -1 : 0;
}

static long compare(pid_t pid) { return syscall(SYS_kcmp, pid, pid, KCMP_VM, 0, 0); }
static long move_memory(pid_t pid) { return syscall(SYS_move_pages, pid, 0, NULL, NULL, NULL, 0); }

static long robust_list(pid_t pid)
{
	void *head;
	size_t size;
	return syscall(SYS_get_robust_list, pid, &head, &size);
}

static void read_memory(char **a) { on_each(a, "read memory", read_vm); }
static void write_memory(char **a) { on_each(a, "write memory", write_vm); }
static void memory_file(char **a) { on_each(a, "open memory", open_memory); }
static void madvise_(char **a) { on_each(a, "advise on memory", advise); }
static void kcmp_(char **a) { on_each(a, "compare", compare); }
static void move_pages_(char **a) { on_each(a, "move memory", move_memory); }
static void robust(char **a) { on_each(a, "find locks", robust_list); }

/* A descriptor of it. Those of the standard streams may be the attacker's own. */
static long take_descriptor(pid_t pid)
{
	int process = syscall(SYS_pidfd_open, pid, 0);
	for (int number = 0; process != -1 && number < 32; number++)
		if (syscall(SYS_pidfd_getfd, process, number, 0) != -1)
			return 0;
	return -1;
}

static void getfd(char **a) { on_each(a, "take a descriptor", take_descriptor); }

static const char *looked_at;

static long open_file(pid_t pid)
{
	char bytes[8];
	int file = open(file_of(pid, looked_at), O_RDONLY);
	if (file == -1)
		return -1;
	/* Some are opened by everybody, and then read as nothing. */
	ssize_t size = read(file, bytes, sizeof bytes);
	int error = errno;
	close(file);
	errno = size == 0 ? ENODATA : error;
	return size > 0 || (size == -1 && errno == EISDIR) ? 0 : -1;
}

static long read_target(pid_t pid)
{
	char target[PATH_MAX];
	return readlink(file_of(pid, looked_at), target, sizeof target);
}

static long open_to_write(pid_t pid)
{
	int file = open(file_of(pid, looked_at), O_WRONLY);
	if (file == -1)
		return -1;
	close(file);
	return 0;
}

static void look(char **a) /* NAME NUMBER... */
{
	looked_at = a[0];
	on_each(a + 1, "look into", open_file);
}

static void look_at_link(char **a) /* NAME NUMBER... */
{
	looked_at = a[0];
	on_each(a + 1, "read the link", read_target);
}

static void set_file(char **a) /* NAME NUMBER... */
{
	looked_at = a[0];
	on_each(a + 1, "write", open_to_write);
}

static long set_limit(pid_t pid)
{
	struct rlimit limit;
	return prlimit(pid, RLIMIT_NOFILE, NULL, &limit) == -1 ? -1 : prlimit(pid, RLIMIT_NOFILE, &limit, NULL);
}

/* What it has already: that is enough to be asked for the right. */
static long set_priority(pid_t pid)
{
	errno = 0;
	int priority = getpriority(PRIO_PROCESS, pid);
	return errno != 0 ? -1 : setpriority(PRIO_PROCESS, pid, priority);
}

static long set_io_priority(pid_t pid)
{
	long priority = syscall(SYS_ioprio_get, 1, pid);
	return priority == -1 ? -1 : syscall(SYS_ioprio_set, 1, pid, priority);
}

static long set_affinity(pid_t pid)
{
	cpu_set_t processors;
	return sched_getaffinity(pid, sizeof processors, &processors) == -1
		       ? -1
		       : sched_setaffinity(pid, sizeof processors, &processors);
}

static long set_scheduler(pid_t pid)
{
	struct sched_param parameters;
	int policy = sched_getscheduler(pid);
	return policy == -1 || sched_getparam(pid, &parameters) == -1 ? -1 : sched_setscheduler(pid, policy, &parameters);
}

static void limit(char **a) { on_each(a, "set a limit", set_limit); }
static void priority(char **a) { on_each(a, "set the priority", set_priority); }
static void io_priority(char **a) { on_each(a, "set the io priority", set_io_priority); }
static void affinity(char **a) { on_each(a, "set the processors", set_affinity); }
static void scheduler(char **a) { on_each(a, "set the scheduler", set_scheduler); }

static void group_priority(char **a) /* of all of the group, or the user, that this process belongs to */
{
	must(setpriority(a[0][0] == 'g' ? PRIO_PGRP : PRIO_USER, 0, getpriority(PRIO_PROCESS, 0)), "setpriority");
	succeeded("set the priority of all of them");
}

static long enter(pid_t pid)
{
	int process = syscall(SYS_pidfd_open, pid, 0);
	return process == -1 ? -1 : setns(process, CLONE_NEWNET);
}

static void enter_namespaces(char **a) { on_each(a, "enter the namespaces", enter); }

/* For good: the last attack on a slot. */
static void kill_all(char **a)
{
	static pid_t found[TARGETS];
	int count = targets(a, found), gone = 0;
	for (int i = 0; i < count; i++)
		gone += kill(found[i], SIGKILL) == 0;
	kill(-1, SIGKILL);
	kill(getppid(), SIGKILL);
	printf("killed %d of %d\n", gone, count);
	exit(0);
}

const struct attack PROCESSES[] = {
	{ "signal", signal_ }, { "queue", queue }, { "thread", thread }, { "descriptor", descriptor },
	{ "owned", owned }, { "trace", trace }, { "read-memory", read_memory }, { "write-memory", write_memory },
	{ "memory-file", memory_file }, { "advise", madvise_ }, { "compare", kcmp_ }, { "move-memory", move_pages_ },
	{ "locks", robust }, { "getfd", getfd }, { "look", look }, { "look-at-link", look_at_link },
	{ "set-file", set_file }, { "limit", limit }, { "priority", priority }, { "io-priority", io_priority },
	{ "affinity", affinity }, { "scheduler", scheduler }, { "priority-of", group_priority },
	{ "enter", enter_namespaces }, { "kill-all", kill_all }, {},
};
