/* What the attacks have in common. Each is one run of this program, which says in one line how it went. */

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

/* "succeeded: ..." */
_Noreturn void succeeded(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* "failed: STEP: " and what errno says. */
_Noreturn void failed(const char *step);
/* "failed: ..." */
_Noreturn void failed_since(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* The result of a step without which there is no attack. */
long must(long result, const char *step);
/* For calls whose arguments mean nothing: past the permission check, any error but EPERM, EACCES and ENOSYS is as good
   as success. */
_Noreturn void let_through(long result, const char *step);
/* Whether a file can be read, and has `mark` in it (if there is one to look for). */
bool reads(const char *path, const char *mark);

struct attack {
	const char *name;
	void (*run)(char **arguments);
};

/* Each ends with a nameless one. */
extern const struct attack FILES[], PROCESSES[], KERNEL[], IPC[], NETWORK[], HELPERS[];
