/* No attacks, but what attacks need: somebody to attack, and something to trip over. */

#include "attack.h"

#include <linux/keyctl.h>
#include <mqueue.h>
#include <stddef.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/prctl.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/xattr.h>

static const char *to_make;

static void make(int signal) { close(open(to_make, O_CREAT | O_WRONLY, 0666)); }

static _Noreturn void serve(int server)
{
	for (;;) {
		int guest = accept(server, NULL, NULL);
		if (guest != -1) {
			send(guest, "secret", 6, MSG_NOSIGNAL);
			close(guest);
		} else if (errno != EINTR)
			pause();
	}
}

/* Lays out as much as it may of what others should not get at, says "ready" and the numbers of what can be guessed, and
   waits to be killed. MARK is in all that has a name, KEY is that of its System V IPC, FILE is made by a signal. */
static void victim(char **a) /* MARK KEY FILE */
{
	const char *mark = a[0];
	int key = atoi(a[1]);
	to_make = a[2];
	signal(SIGUSR1, make);
	/* Its user may have been changed just before. */
	prctl(PR_SET_DUMPABLE, 1);

	int segment = shmget(key, 4096, IPC_CREAT | 0666), spare = shmget(IPC_PRIVATE, 4096, IPC_CREAT | 0666);
	char *memory = segment == -1 ? NULL : shmat(segment, NULL, 0);
	if (memory != NULL)
		strcpy(memory, "secret");
	int queue = msgget(key, IPC_CREAT | 0666), semaphore = semget(key, 1, IPC_CREAT | 0666);
	struct mq_attr attributes = { .mq_maxmsg = 1, .mq_msgsize = 64 };
	syscall(SYS_mq_open, mark, O_RDWR | O_CREAT, 0666, &attributes);
	syscall(SYS_add_key, "user", mark, "secret", 6, KEY_SPEC_USER_KEYRING);

	int server = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path + 1, mark, sizeof address.sun_path - 2);
	bind(server, (struct sockaddr *)&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(mark));
	listen(server, 16);
	printf("ready %d %d %d\n", spare, queue, semaphore);
	fflush(stdout);
	serve(server);
}

/* The first of these names is always something; which of the others it is changes as fast as it can. */
static void race(char **a) /* NAME OTHER... */
{
	printf("x");
	fflush(stdout);
	for (;;)
		for (char **other = a + 1; *other != NULL; other++)
			renameat2(AT_FDCWD, a[0], AT_FDCWD, *other, RENAME_EXCHANGE);
}

static void grow(char **a) /* NAME */
{
	static char block[1 << 16];
	int file = must(open(a[0], O_CREAT | O_WRONLY | O_TRUNC, 0644), "open");
	printf("x");
	fflush(stdout);
	for (off_t size = 0;; size = size > 1 << 22 ? 0 : size + sizeof block) {
		if (size == 0)
			must(ftruncate(file, 0), "ftruncate");
		pwrite(file, block, sizeof block, size);
	}
}

/* Gives a program the right to read everything (CAP_DAC_READ_SEARCH), whoever runs it. */
static void give_capability(char **a) /* PROGRAM */
{
	uint32_t capability[] = { 0x02000001, 1 << 2, 0, 0, 0 };
	must(setxattr(a[0], "security.capability", capability, sizeof capability, 0), "setxattr");
	succeeded("done");
}

static void listen_on(char **a) /* PATH: says "secret" to everybody who connects there */
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int server = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	strncpy(address.sun_path, a[0], sizeof address.sun_path - 1);
	must(bind(server, (struct sockaddr *)&address, sizeof address), "bind");
	must(listen(server, 16), "listen");
	serve(server);
}

/* A name that is no text. */
static void strange_names(char **a)
{
	must(open("two\nlines", O_CREAT | O_WRONLY, 0644), "open");
	must(open("\xff\xfe", O_CREAT | O_WRONLY, 0644), "open");
	must(symlink("\xff\xfe", "to-no-text"), "symlink");
	succeeded("done");
}

const struct attack HELPERS[] = {
	{ "victim", victim }, { "race", race }, { "grow", grow }, { "give-capability", give_capability },
	{ "listen", listen_on }, { "strange-names", strange_names }, {},
};
