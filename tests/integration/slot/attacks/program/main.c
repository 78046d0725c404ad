/* attack NAME ARGUMENT...: finds the attack, and runs it. */

#include "attack.h"

_Noreturn void succeeded(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	printf("succeeded: ");
	vprintf(format, arguments);
	printf("\n");
	exit(0);
}

_Noreturn void failed(const char *step)
{
	printf("failed: %s: %s\n", step, strerror(errno));
	exit(0);
}

_Noreturn void failed_since(const char *format, ...)
{
	va_list arguments;
	va_start(arguments, format);
	printf("failed: ");
	vprintf(format, arguments);
	printf("\n");
	exit(0);
}

long must(long result, const char *step)
{
	if (result == -1)
		failed(step);
	return result;
}

_Noreturn void let_through(long result, const char *step)
{
	if (result == -1 && (errno == EPERM || errno == EACCES || errno == ENOSYS))
		failed(step);
	succeeded("%s was let through (%s)", step, result == -1 ? strerror(errno) : "done");
}

bool reads(const char *path, const char *mark)
{
	static char content[1 << 20];
	int file = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	if (file == -1)
		return false;
	ssize_t size = 0, more;
	while ((more = read(file, content + size, sizeof content - size)) > 0)
		size += more;
	int error = errno;
	close(file);
	if (size > 0 && (mark == NULL || memmem(content, size, mark, strlen(mark)) != NULL))
		return true;
	errno = more == -1 ? error : ENODATA;
	return false;
}

int main(int count, char **arguments)
{
	const struct attack *all[] = { FILES, PROCESSES, KERNEL, IPC, NETWORK, HELPERS };
	for (size_t i = 0; count > 1 && i < sizeof all / sizeof *all; i++)
		for (const struct attack *attack = all[i]; attack->name != NULL; attack++)
			if (strcmp(attack->name, arguments[1]) == 0) {
				attack->run(arguments + 2);
				failed_since("%s ended without a word", attack->name);
			}
	fprintf(stderr, "there is no attack of that name\n");
	return 2;
}
