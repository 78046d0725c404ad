/* The kernel itself: namespaces, mounts, its settings, and the parts of it that are attacked most. */

#include "attack.h"

#include <grp.h>
#include <linux/bpf.h>
#include <linux/io_uring.h>
#include <linux/keyctl.h>
#include <linux/perf_event.h>
#include <linux/sched.h>
#include <linux/userfaultfd.h>
#include <sys/fanotify.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/swap.h>
#include <sys/time.h>
#include <sys/timex.h>
#include <sys/uio.h>
#ifdef __x86_64__
#include <sys/io.h>
#endif

static const struct {
	const char *name;
	int flag;
} NAMESPACES[] = {
	{ "user", CLONE_NEWUSER }, { "mnt", CLONE_NEWNS }, { "pid", CLONE_NEWPID }, { "net", CLONE_NEWNET },
	{ "ipc", CLONE_NEWIPC }, { "uts", CLONE_NEWUTS }, { "cgroup", CLONE_NEWCGROUP }, { "time", 0x80 },
};

static int flag_of(const char *name)
{
	for (size_t i = 0; i < sizeof NAMESPACES / sizeof *NAMESPACES; i++)
		if (strcmp(NAMESPACES[i].name, name) == 0)
			return NAMESPACES[i].flag;
	failed_since("there is no such namespace");
}

static void unshare_(char **a) /* NAME */
{
	must(unshare(flag_of(a[0])), "unshare");
	succeeded("have a new one");
}

static void born(long child)
{
	if (child == 0)
		_exit(0);
	must(child, "clone");
	waitpid(child, NULL, 0);
	succeeded("a child has a new one");
}

static void clone_(char **a) /* NAME */
{
	born(syscall(SYS_clone, flag_of(a[0]) | SIGCHLD, 0, 0, 0, 0));
}

static void clone3_(char **a) /* NAME */
{
	struct clone_args arguments = { .flags = flag_of(a[0]), .exit_signal = SIGCHLD };
	born(syscall(SYS_clone3, &arguments, sizeof arguments));
}

static void setns_(char **a) /* NAME: into that of process 1, and of the own parent */
{
	char path[64];
	sprintf(path, "/proc/1/ns/%s", a[0]);
	int namespace = open(path, O_RDONLY);
	if (namespace == -1) {
		sprintf(path, "/proc/self/ns/%s", a[0]);
		namespace = must(open(path, O_RDONLY), "open");
	}
	must(setns(namespace, 0), "setns");
	succeeded("entered %s", path);
}

static void mount_(char **a)
{
	mkdir("mounted", 0700);
	must(mount("none", "mounted", "tmpfs", 0, NULL), "mount");
	umount("mounted");
	succeeded("mounted something");
}

static void bind(char **a) /* PATH */
{
	mkdir("mounted", 0700);
	must(mount(a[0], "mounted", NULL, MS_BIND, NULL), "mount");
	umount("mounted");
	succeeded("mounted %s", a[0]);
}

static void remount(char **a) /* PATH: to write to it */
{
	let_through(mount(NULL, a[0], NULL, MS_REMOUNT | MS_BIND, NULL), "mount");
}

static void unmount(char **a) { let_through(umount2("/nowhere", MNT_DETACH), "umount2"); }

static void new_mount(char **a)
{
	must(syscall(SYS_fsopen, "tmpfs", 0), "fsopen");
	succeeded("have a file system");
}

static void copy_mount(char **a)
{
	must(syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */), "open_tree");
	succeeded("have a copy of the root");
}

static void set_mount(char **a)
{
	char attributes[32] = { 0 };
	let_through(syscall(SYS_mount_setattr, AT_FDCWD, "/nowhere", 0, attributes, sizeof attributes), "mount_setattr");
}

static void pivot(char **a) { let_through(syscall(SYS_pivot_root, "/nowhere", "/nowhere"), "pivot_root"); }
static void swap(char **a) { let_through(swapoff("/nowhere"), "swapoff"); }
static void account(char **a) { let_through(acct(NULL), "acct"); }
static void restart(char **a) { let_through(syscall(SYS_reboot, 0xfee1dead, 672274793, 0, NULL), "reboot"); }
static void kexec(char **a) { let_through(syscall(SYS_kexec_load, 0, 0, NULL, 1L << 40), "kexec_load"); }

static void module(char **a)
{
	let_through(syscall(SYS_finit_module, open("/dev/null", O_RDONLY), "", 0), "finit_module");
}

static void remove_module(char **a)
{
	let_through(syscall(SYS_delete_module, "no-such", O_NONBLOCK), "delete_module");
}

static void clock_(char **a)
{
	struct timeval now;
	struct timezone zone;
	must(gettimeofday(&now, &zone), "gettimeofday");
	must(settimeofday(NULL, &zone), "settimeofday");
	succeeded("set the time zone");
}

static void adjust_clock(char **a)
{
	struct timex clock = { 0 };
	must(adjtimex(&clock), "adjtimex");
	clock.modes = ADJ_TICK; /* to what it is */
	must(adjtimex(&clock), "adjtimex");
	succeeded("set the clock's tick");
}

static void host_name(char **a)
{
	char name[256];
	must(gethostname(name, sizeof name), "gethostname");
	must(sethostname(name, strlen(name)), "sethostname");
	succeeded("set the host's name");
}

static void kernel_log(char **a)
{
	char line[256];
	must(syscall(SYS_syslog, 3, line, sizeof line), "syslog");
	succeeded("read the kernel's log");
}

static void io_uring(char **a)
{
	struct io_uring_params parameters = { 0 };
	must(syscall(SYS_io_uring_setup, 1, &parameters), "io_uring_setup");
	succeeded("have a ring");
}

static void bpf_(char **a)
{
	union bpf_attr map = { .map_type = BPF_MAP_TYPE_ARRAY, .key_size = 4, .value_size = 4, .max_entries = 1 };
	must(syscall(SYS_bpf, BPF_MAP_CREATE, &map, sizeof map), "bpf");
	succeeded("have a map");
}

static void perf(char **a)
{
	struct perf_event_attr event = { .type = PERF_TYPE_SOFTWARE, .size = sizeof event };
	must(syscall(SYS_perf_event_open, &event, 0, -1, -1, 0), "perf_event_open");
	succeeded("have an event");
}

static void userfault(char **a)
{
	must(syscall(SYS_userfaultfd, UFFD_USER_MODE_ONLY), "userfaultfd");
	succeeded("handle page faults");
}

static void fanotify(char **a)
{
	must(syscall(SYS_fanotify_init, FAN_CLASS_NOTIF | 0x200 /* FAN_REPORT_FID */, O_RDONLY), "fanotify_init");
	succeeded("may watch file systems");
}

static void splice_memory(char **a)
{
	int ends[2];
	must(pipe(ends), "pipe");
	must(vmsplice(ends[1], &(struct iovec){ "x", 1 }, 1, 0), "vmsplice");
	succeeded("put memory into a pipe");
}

static void x32(char **a)
{
	must(syscall(0x40000000 + SYS_getpid), "the x32 call");
	succeeded("called by another number");
}

static void ports(char **a)
{
#ifdef __x86_64__
	must(ioperm(0x80, 1, 1), "ioperm");
	must(iopl(3), "iopl");
	succeeded("may use input and output ports");
#else
	errno = ENOSYS;
	failed("ioperm");
#endif
}

static void add_key(char **a) /* MARK */
{
	must(syscall(SYS_add_key, "user", a[0], "secret", 6, KEY_SPEC_USER_KEYRING), "add_key");
	succeeded("have a key");
}

static void find_key(char **a) /* MARK: of a key that another process of the user has added */
{
	char secret[64] = "";
	long key = must(syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", a[0], 0), "search");
	must(syscall(SYS_keyctl, KEYCTL_READ, key, secret, sizeof secret), "read");
	succeeded("it is %s", secret);
}

static void request_key(char **a) { let_through(syscall(SYS_request_key, "user", a[0], NULL, 0), "request_key"); }

static void session_keyring(char **a)
{
	must(syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "attack"), "join");
	succeeded("joined a session");
}

static void become(char **a) /* USER */
{
	must(setresuid(atoi(a[0]), atoi(a[0]), atoi(a[0])), "setresuid");
	succeeded("am user %s", a[0]);
}

static void join_group(char **a)
{
	gid_t group = 0;
	must(setgroups(1, &group), "setgroups");
	succeeded("am in root's group");
}

static void raise_limit(char **a)
{
	struct rlimit limit;
	must(getrlimit(RLIMIT_NOFILE, &limit), "getrlimit");
	limit.rlim_max++;
	must(setrlimit(RLIMIT_NOFILE, &limit), "setrlimit");
	succeeded("have more than the hard limit");
}

static void capability(char **a)
{
	struct {
		uint32_t version;
		int pid;
	} header = { 0x20080522, 0 };
	uint32_t all[6] = { 1 << 21, 1 << 21, 0, 0, 0, 0 }; /* CAP_SYS_ADMIN */
	must(syscall(SYS_capset, &header, all), "capset");
	succeeded("have a capability");
}

static void lower_oom_score(char **a)
{
	/* Who has raised it may be let take that back. */
	int score = must(open("/proc/self/oom_score_adj", O_WRONLY), "open");
	must(write(score, "1000", 4), "raise");
	must(write(score, "0", 1), "lower");
	succeeded("others go first when memory runs out");
}

static void type_into_terminal(char **a)
{
	int master = posix_openpt(O_RDWR | O_NOCTTY);
	if (master == -1)
		master = 0;
	grantpt(master);
	unlockpt(master);
	setsid();
	const char *name = ptsname(master);
	int terminal = name == NULL ? 0 : open(name, O_RDWR);
	ioctl(terminal, TIOCSCTTY, 0);
	must(ioctl(terminal, TIOCSTI, "x"), "TIOCSTI");
	succeeded("typed something");
}

static void paste_into_console(char **a)
{
	char request = 6; /* says how the keyboard is shifted */
	int console = open("/dev/tty0", O_RDWR | O_NOCTTY);
	must(ioctl(console == -1 ? 0 : console, TIOCLINUX, &request), "TIOCLINUX");
	succeeded("may use the console");
}

const struct attack KERNEL[] = {
	{ "unshare", unshare_ }, { "clone", clone_ }, { "clone3", clone3_ }, { "setns", setns_ }, { "mount", mount_ },
	{ "bind", bind }, { "remount", remount }, { "unmount", unmount }, { "new-mount", new_mount },
	{ "copy-mount", copy_mount }, { "set-mount", set_mount }, { "pivot", pivot }, { "swap", swap },
	{ "account", account }, { "reboot", restart }, { "kexec", kexec }, { "module", module },
	{ "remove-module", remove_module }, { "time", clock_ }, { "adjust-clock", adjust_clock },
	{ "host-name", host_name }, { "kernel-log", kernel_log }, { "io-uring", io_uring }, { "bpf", bpf_ },
	{ "perf", perf }, { "userfault", userfault }, { "fanotify", fanotify }, { "splice-memory", splice_memory },
	{ "x32", x32 }, { "ports", ports }, { "add-key", add_key }, { "find-key", find_key },
	{ "request-key", request_key }, { "session-keyring", session_keyring }, { "become", become },
	{ "join-group", join_group }, { "raise-limit", raise_limit },
	{ "capability", capability }, { "oom-score", lower_oom_score }, { "type", type_into_terminal },
	{ "paste", paste_into_console }, {},
};
