// SPDX-License-Identifier: GPL-2.0
/*
 * Traffic and requests at the speed that races need. The tests start it in
 * their network namespaces; each command prints one line when it ends, on its
 * own or by SIGTERM.
 *
 *   flood send SRC DST PORT [N]      numbered datagrams, N of them at a time:
 *                                    "SENT ERRORS"
 *   flood receive ADDR PORT          "DIFFERENT REPEATED"
 *   flood request COUNT < MESSAGES   netlink requests, over and over again:
 *                                    "DONE", then "ERRNO TIMES" of failures
 *   flood tap DEV FILE [again]       ESP and AH that go out at DEV, each sent
 *                                    again at once if asked for; how many, and
 *                                    how many different ones by SPI and number,
 *                                    and by what follows (the IV or the ICV):
 *                                    "FRAMES NUMBERS IVS"
 *   flood replay DEV FILE            sends them again: "FRAMES"
 *   flood time TXFD RXFD GAP         sends each message of stdin, GAP ns after
 *                                    the last: ns from send() to recv(), and
 *                                    what was received first. All is binary,
 *                                    and begins with a length (uint64_t)
 *   flood whole TXFD RXFD REST       sends each message of stdin in pieces, of
 *                                    which it says the length behind its own:
 *                                    ns until REST ns after the last, how often
 *                                    a process has counted that gets what others
 *                                    leave of the CPU, and how many messages
 *                                    there were to receive. All is binary
 */
#define _GNU_SOURCE	/* SCHED_IDLE */
#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/udp.h>
#include <sched.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD		1200
#define SEGMENTS	8
#define FRAME		2048
#define NUMBERS		(1UL << 26)
#define FRAMES		(1UL << 22)

static volatile sig_atomic_t stop;

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

/* Interrupts, and nothing else. */
static void on_alarm(int sig)
{
	(void)sig;
}

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static socklen_t address(const char *text, int port,
			 struct sockaddr_storage *ss)
{
	struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ss;
	struct sockaddr_in *in = (struct sockaddr_in *)ss;

	memset(ss, 0, sizeof(*ss));
	if (inet_pton(AF_INET, text, &in->sin_addr) == 1) {
		in->sin_family = AF_INET;
		in->sin_port = htons(port);
		return sizeof(*in);
	}
	if (inet_pton(AF_INET6, text, &in6->sin6_addr) == 1) {
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(port);
		return sizeof(*in6);
	}
	fprintf(stderr, "%s: no address\n", text);
	exit(1);
}

static int udp(const char *addr, int port)
{
	struct sockaddr_storage ss;
	socklen_t len = address(addr, port, &ss);
	int fd = socket(ss.ss_family, SOCK_DGRAM, 0), size = 1 << 24;

	if (fd < 0 || bind(fd, (struct sockaddr *)&ss, len))
		die(addr);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	return fd;
}

static int do_send(char **argv)
{
	int segments = argv[3] ? atoi(argv[3]) : 1, size = PAYLOAD;
	/* Few wait where ciphers finish later. */
	int room = 1 << 14;
	static char payload[SEGMENTS * PAYLOAD];
	unsigned long sent = 0, errors = 0;
	struct sockaddr_storage ss;
	socklen_t len = address(argv[1], atoi(argv[2]), &ss);
	int fd = udp(argv[0], 0);

	if (connect(fd, (struct sockaddr *)&ss, len))
		die("connect");
	if (segments < 1 || segments > SEGMENTS)
		die(argv[3]);
	setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
	/* Where others forward nothing waits: it gets what they leave. */
	if (segments > 1 &&
	    (setsockopt(fd, IPPROTO_UDP, UDP_SEGMENT, &size, sizeof(size)) ||
	     setpriority(PRIO_PROCESS, 0, 19)))
		die("segments");
	while (!stop) {
		for (int i = 0; i < segments; i++) {
			uint64_t number = sent + errors + i;

			memcpy(payload + i * PAYLOAD, &number, sizeof(number));
		}
		if (send(fd, payload, segments * PAYLOAD, 0) > 0)
			sent += segments;
		else if (errno != EINTR)
			errors += segments;
	}
	printf("%lu %lu\n", sent, errors);
	return 0;
}

static int do_receive(char **argv)
{
	unsigned long different = 0, repeated = 0;
	unsigned char *seen = calloc(NUMBERS / 8, 1);
	int fd = udp(argv[0], atoi(argv[1]));
	struct timeval patience = { .tv_usec = 200000 };
	char payload[FRAME];
	uint64_t number;
	ssize_t len;

	if (!seen)
		die("calloc");
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	/* What has been queued when the signal comes counts. */
	while ((len = recv(fd, payload, sizeof(payload), 0)) >= 0 || !stop) {
		if (len != PAYLOAD)
			continue;
		memcpy(&number, payload, sizeof(number));
		if (number >= NUMBERS)
			continue;
		if (seen[number / 8] & 1 << number % 8)
			repeated++;
		else
			different++;
		seen[number / 8] |= 1 << number % 8;
	}
	printf("%lu %lu\n", different, repeated);
	return 0;
}

/* Sends one request and gives the errno of its acknowledgment. */
static int request(int fd, struct nlmsghdr *nlh)
{
	static unsigned int seq;
	union {
		struct nlmsghdr nlh;
		char bytes[FRAME];
	} reply;

	nlh->nlmsg_seq = ++seq;
	if (send(fd, nlh, nlh->nlmsg_len, 0) < 0)
		die("send");
	for (;;) {
		if (recv(fd, &reply, sizeof(reply), 0) < 0) {
			if (errno == EINTR)
				continue;
			die("recv");
		}
		if (reply.nlh.nlmsg_type == NLMSG_ERROR &&
		    reply.nlh.nlmsg_seq == seq)
			return -((struct nlmsgerr *)NLMSG_DATA(&reply.nlh))->error;
	}
}

static int do_request(char **argv)
{
	static unsigned long failures[4096];
	static char messages[1 << 16];
	unsigned long left = strtoul(argv[0], NULL, 0), done = 0;
	int fd = socket(AF_NETLINK, SOCK_RAW, NETLINK_XFRM);
	int size = fread(messages, 1, sizeof(messages), stdin);

	if (fd < 0)
		die("socket");
	/* Once at least, however soon it is stopped. */
	do {
		struct nlmsghdr *nlh = (struct nlmsghdr *)messages;
		int rest = size;

		for (; NLMSG_OK(nlh, (unsigned int)rest);
		     nlh = NLMSG_NEXT(nlh, rest)) {
			int err = request(fd, nlh);

			if (err)
				failures[err & 4095]++;
			else
				done++;
		}
	} while (--left && !stop);
	printf("%lu", done);
	for (int err = 0; err < 4096; err++)
		if (failures[err])
			printf(" %d %lu", err, failures[err]);
	printf("\n");
	return 0;
}

static int packet(const char *dev)
{
	struct sockaddr_ll ll = {
		.sll_family = AF_PACKET,
		.sll_protocol = htons(ETH_P_ALL),
		.sll_ifindex = if_nametoindex(dev),
	};
	int fd = socket(AF_PACKET, SOCK_RAW, htons(ETH_P_ALL)), size = 1 << 26;

	if (fd < 0 || bind(fd, (struct sockaddr *)&ll, sizeof(ll)))
		die(dev);
	setsockopt(fd, SOL_SOCKET, SO_RCVBUFFORCE, &size, sizeof(size));
	return fd;
}

static void transmit(int fd, const char *frame, ssize_t len)
{
	while (send(fd, frame, len, 0) != len)
		if (errno != ENOBUFS && errno != EINTR)
			die("send");
}

/* The SPI and what follows of an ESP, AH, or encapsulated ESP frame. */
static const char *ipsec(const char *frame)
{
	int v6 = !memcmp(frame + 12, "\x86\xdd", 2);
	int head = v6 ? 54 : 14 + 4 * (frame[14] & 15);

	if (!v6 && memcmp(frame + 12, "\x08\x00", 2))
		return NULL;
	switch (frame[v6 ? 20 : 23]) {
	case IPPROTO_ESP:
		return frame + head;
	case IPPROTO_AH:
		return frame + head + 4;
	case IPPROTO_UDP:
		return frame + head + sizeof(struct udphdr);
	}
	return NULL;
}

static int ascending(const void *a, const void *b)
{
	long left = *(const long *)a, right = *(const long *)b;

	return (left > right) - (left < right);
}

static unsigned long different(long *values, unsigned long count)
{
	unsigned long distinct = 0;

	qsort(values, count, sizeof(*values), ascending);
	for (unsigned long i = 0; i < count; i++)
		distinct += !i || values[i] != values[i - 1];
	return distinct;
}

static int do_tap(char **argv)
{
	static long numbers[FRAMES], ivs[FRAMES];
	struct timeval patience = { .tv_usec = 200000 };
	int fd = packet(argv[0]);
	FILE *file = fopen(argv[1], "w");
	unsigned long frames = 0;
	struct sockaddr_ll from;
	char frame[FRAME] = {};
	const char *header;
	ssize_t len;

	if (!file)
		die(argv[1]);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	for (;;) {
		socklen_t size = sizeof(from);

		len = recvfrom(fd, frame, sizeof(frame), 0,
			       (struct sockaddr *)&from, &size);
		if (len < 0 && stop)
			break;
		if (len <= 0 || from.sll_pkttype != PACKET_OUTGOING)
			continue;
		header = ipsec(frame);
		if (!header)
			continue;
		if (frames == FRAMES || fwrite(&len, sizeof(len), 1, file) != 1 ||
		    fwrite(frame, len, 1, file) != 1)
			die(argv[1]);
		memcpy(&numbers[frames], header, sizeof(*numbers));
		memcpy(&ivs[frames], header + sizeof(*numbers), sizeof(*ivs));
		frames++;
		if (argv[2])
			transmit(fd, frame, len);
	}
	if (fclose(file))
		die(argv[1]);
	printf("%lu %lu %lu\n", frames, different(numbers, frames),
	       different(ivs, frames));
	return 0;
}

static int do_replay(char **argv)
{
	int fd = packet(argv[0]);
	FILE *file = fopen(argv[1], "r");
	unsigned long frames = 0;
	char frame[FRAME];
	ssize_t len;

	if (!file)
		die(argv[1]);
	while (!stop && fread(&len, sizeof(len), 1, file) == 1) {
		if (len > FRAME || fread(frame, len, 1, file) != 1)
			die(argv[1]);
		transmit(fd, frame, len);
		frames++;
	}
	printf("%lu\n", frames);
	return 0;
}

/* All of it, or else stdin has ended. */
static int take(void *data, size_t size)
{
	return fread(data, size, 1, stdin) == 1;
}

static uint64_t now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000UL + ts.tv_nsec;
}

static int do_time(char **argv)
{
	int tx = atoi(argv[0]), rx = atoi(argv[1]);
	struct timespec gap = { .tv_nsec = atol(argv[2]) };
	char data[FRAME] = {};
	struct {
		uint64_t ns;
		int64_t len;
	} result;
	uint64_t len, from;

	while (take(&len, sizeof(len)) && len <= FRAME && take(data, len)) {
		nanosleep(&gap, NULL);
		from = now();
		if (send(tx, data, len, 0) < 0)
			die("send");
		result.len = recv(rx, data, sizeof(data), 0);
		result.ns = now() - from;
		if (result.len < 0)
			die("recv");
		fwrite(&result, sizeof(result), 1, stdout);
		fwrite(data, result.len, 1, stdout);
		fflush(stdout);
		while (recv(rx, data, sizeof(data), MSG_DONTWAIT) >= 0)
			;
	}
	return 0;
}

/* A process counts while nobody else wants the CPU, emulated quickly. */
static volatile uint64_t *count_idle(void)
{
	volatile uint64_t *count = mmap(NULL, sizeof(*count),
					PROT_READ | PROT_WRITE,
					MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct sched_param param = {};
	pid_t pid = fork();

	if (count == MAP_FAILED || pid < 0)
		die("fork");
	if (pid)
		return count;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (sched_setscheduler(0, SCHED_IDLE, &param))
		die("SCHED_IDLE");
	for (;;) {
		asm volatile(".rept 400; nop; .endr");
		++*count;
	}
}

static int do_whole(char **argv)
{
	int tx = atoi(argv[0]), rx = atoi(argv[1]);
	uint64_t ns = strtoul(argv[2], NULL, 0), from, counted;
	struct timespec rest = { ns / 1000000000, ns % 1000000000 };
	/* Who has told us something goes to sleep again. */
	struct timespec gap = { .tv_nsec = 100000000 };
	volatile uint64_t *count = count_idle();
	static char data[1 << 24];
	struct {
		uint64_t len, piece;
	} all;
	struct {
		uint64_t ns, counted, received;
	} result;

	while (take(&all, sizeof(all)) && all.len <= sizeof(data) &&
	       (!all.len || take(data, all.len))) {
		nanosleep(&gap, NULL);
		counted = *count;
		from = now();
		for (uint64_t at = 0; at < all.len; at += all.piece) {
			uint64_t left = all.len - at;

			if (send(tx, data + at,
				 left < all.piece ? left : all.piece, 0) < 0)
				die("send");
		}
		nanosleep(&rest, NULL);
		result.ns = now() - from;
		result.counted = *count - counted;
		result.received = 0;
		while (recv(rx, NULL, 0, MSG_DONTWAIT) >= 0)
			result.received++;
		fwrite(&result, sizeof(result), 1, stdout);
		fflush(stdout);
	}
	return 0;
}

static const struct command {
	const char *name;
	int args;
	int (*run)(char **argv);
} commands[] = {
	{ "send", 3, do_send },
	{ "send", 4, do_send },
	{ "receive", 2, do_receive },
	{ "request", 1, do_request },
	{ "tap", 2, do_tap },
	{ "tap", 3, do_tap },
	{ "replay", 2, do_replay },
	{ "time", 3, do_time },
	{ "whole", 3, do_whole },
};

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	struct sigaction alarm = { .sa_handler = on_alarm };

	/* Without SA_RESTART: waiting ends. */
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGALRM, &alarm, NULL);
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
		if (argc >= 2 && !strcmp(argv[1], commands[i].name) &&
		    argc - 2 == commands[i].args)
			return commands[i].run(argv + 2);
	fprintf(stderr, "usage: see the top of flood.c\n");
	return 2;
}
