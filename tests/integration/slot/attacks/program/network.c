/* The network: ports of the agent and of the machine, addresses of clouds, name servers, and families beside IP. */

#include "attack.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>

/* Everything here is on this machine. */
#define PATIENCE_MS 300

union address {
	struct sockaddr any;
	struct sockaddr_in four;
	struct sockaddr_in6 six;
};

static socklen_t parse(char **a, union address *address)
{
	memset(address, 0, sizeof *address);
	if (strchr(a[0], ':') == NULL) {
		address->four.sin_family = AF_INET;
		address->four.sin_port = htons(atoi(a[1]));
		must(inet_pton(AF_INET, a[0], &address->four.sin_addr) - 1, "address");
		return sizeof address->four;
	}
	address->six.sin6_family = AF_INET6;
	address->six.sin6_port = htons(atoi(a[1]));
	must(inet_pton(AF_INET6, a[0], &address->six.sin6_addr) - 1, "address");
	return sizeof address->six;
}

static void hear(int ours)
{
	char answer[64] = "";
	if (must(poll(&(struct pollfd){ ours, POLLIN, 0 }, 1, PATIENCE_MS), "poll") == 0)
		failed_since("nobody answers");
	if (must(recv(ours, answer, sizeof answer - 1, 0), "recv") == 0)
		failed_since("nobody speaks");
	succeeded("heard %s", answer);
}

static void tcp(char **a) /* ADDRESS PORT */
{
	union address address;
	socklen_t size = parse(a, &address);
	int ours = must(socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK, 0), "socket");
	if (connect(ours, &address.any, size) == -1 && errno != EINPROGRESS)
		failed("connect");
	int error = 0;
	socklen_t length = sizeof error;
	poll(&(struct pollfd){ ours, POLLOUT, 0 }, 1, PATIENCE_MS);
	must(getsockopt(ours, SOL_SOCKET, SO_ERROR, &error, &length), "getsockopt");
	if (error != 0) {
		errno = error;
		failed("connect");
	}
	hear(ours);
}

static void udp(char **a) /* ADDRESS PORT */
{
	union address address;
	socklen_t size = parse(a, &address);
	int ours = must(socket(address.any.sa_family, SOCK_DGRAM, 0), "socket");
	must(sendto(ours, "who", 3, 0, &address.any, size), "sendto");
	hear(ours);
}

static void family(char **a) /* FAMILY TYPE PROTOCOL */
{
	must(socket(atoi(a[0]), atoi(a[1]), atoi(a[2])), "socket");
	succeeded("have a socket");
}

const struct attack NETWORK[] = { { "tcp", tcp }, { "udp", udp }, { "socket", family }, {} };
