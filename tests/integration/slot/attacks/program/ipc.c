/* What processes share without a file: System V and POSIX IPC, and unix sockets. */

#include "attack.h"

#include <mqueue.h>
#include <stddef.h>
#include <sys/ipc.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

/* Numbers of what there is in the kernel's tables, in case that its key is not known. */
#define INDICES 64

static void attach(long id)
{
	const char *memory = shmat(id, NULL, 0);
	if (memory == (void *)-1)
		failed("shmat");
	succeeded("memory begins with %.6s", memory);
}

static void memory_by_key(char **a) { attach(must(shmget(atoi(a[0]), 0, 0), "shmget")); }

static void memory_by_number(char **a)
{
	struct shmid_ds state;
	for (int i = 0; i < INDICES; i++) {
		long id = shmctl(i, SHM_STAT, &state);
		if (id != -1)
			attach(id);
	}
	failed("shmctl");
}

static void remove_memory(char **a) /* of a segment's number, which is there for that */
{
	must(shmctl(atoi(a[0]), IPC_RMID, NULL), "shmctl");
	succeeded("removed it");
}

static void say(long id)
{
	struct {
		long type;
		char text[8];
	} message = { 1, "planted" };
	must(msgsnd(id, &message, sizeof message.text, IPC_NOWAIT), "msgsnd");
	must(msgrcv(id, &message, sizeof message.text, 0, IPC_NOWAIT), "msgrcv");
	succeeded("a message was %.8s", message.text);
}

static void queue_by_key(char **a) { say(must(msgget(atoi(a[0]), 0), "msgget")); }

static void queue_by_number(char **a)
{
	struct msqid_ds state;
	for (int i = 0; i < INDICES; i++) {
		long id = msgctl(i, MSG_STAT, &state);
		if (id != -1)
			say(id);
	}
	/* One may guess, too. */
	say(atoi(a[0]));
}

static void change(long id)
{
	struct sembuf more = { 0, 1, IPC_NOWAIT };
	must(semop(id, &more, 1), "semop");
	succeeded("changed a semaphore");
}

static void semaphore_by_key(char **a) { change(must(semget(atoi(a[0]), 1, 0), "semget")); }

static void semaphore_by_number(char **a)
{
	struct semid_ds state;
	for (int i = 0; i < INDICES; i++) {
		long id = semctl(i, 0, SEM_STAT, &state);
		if (id != -1)
			change(id);
	}
	change(atoi(a[0]));
}

static void set_semaphore(char **a) /* NUMBER */
{
	must(semctl(atoi(a[0]), 0, SETVAL, 5), "semctl");
	succeeded("set a semaphore");
}

static void posix_queue(char **a) /* NAME */
{
	/* Without the library's "/". */
	must(syscall(SYS_mq_open, a[0], O_RDWR, 0, NULL), "mq_open");
	succeeded("opened %s", a[0]);
}

static void reach(struct sockaddr_un *address, socklen_t size)
{
	char secret[64] = "";
	int ours = must(socket(AF_UNIX, SOCK_STREAM, 0), "socket");
	must(connect(ours, (struct sockaddr *)address, size), "connect");
	must(recv(ours, secret, sizeof secret - 1, 0), "recv");
	succeeded("heard %s", secret);
}

static void abstract_socket(char **a) /* NAME */
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path + 1, a[0], sizeof address.sun_path - 2);
	reach(&address, offsetof(struct sockaddr_un, sun_path) + 1 + strlen(a[0]));
}

static void socket_file(char **a) /* PATH */
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	strncpy(address.sun_path, a[0], sizeof address.sun_path - 1);
	reach(&address, sizeof address);
}

/* Standard streams that are sockets could take descriptors to whoever reads them. */
static void pass_descriptors(char **a)
{
	char control[CMSG_SPACE(sizeof(int))] = { 0 };
	struct iovec byte = { "x", 1 };
	struct msghdr message = { .msg_iov = &byte, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof control };
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	*header = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int)) };
	memcpy(CMSG_DATA(header), &(int){ open("/dev/null", O_RDONLY) }, sizeof(int));
	for (int stream = 0; stream < 3; stream++)
		if (sendmsg(stream, &message, MSG_NOSIGNAL | MSG_DONTWAIT) != -1)
			succeeded("sent one to whoever reads stream %d", stream);
	failed("sendmsg");
}

static void inherited(char **a)
{
	for (int number = 3; number < 1024; number++)
		if (fcntl(number, F_GETFD) != -1)
			succeeded("descriptor %d is open", number);
	failed_since("nothing else is open");
}

const struct attack IPC[] = {
	{ "memory-by-key", memory_by_key }, { "memory-by-number", memory_by_number }, { "remove-memory", remove_memory },
	{ "queue-by-key", queue_by_key }, { "queue-by-number", queue_by_number }, { "semaphore-by-key", semaphore_by_key },
	{ "semaphore-by-number", semaphore_by_number }, { "set-semaphore", set_semaphore }, { "posix-queue", posix_queue },
	{ "abstract-socket", abstract_socket }, { "socket-file", socket_file },
	{ "pass-descriptors", pass_descriptors }, { "inherited", inherited }, {},
};
