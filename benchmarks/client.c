// SPDX-License-Identifier: Apache-2.0
/*
 * client HOST PORT TARGET RATE SECONDS CONNECTIONS BODY_BYTES
 *
 * Offers requests at a fixed rate, whatever the server does: request number i is due at start + i / RATE, and its
 * latency counts from then. One that is due while every connection waits for an answer is sent as soon as one is free,
 * and the wait is part of its latency: a server that stalls cannot make its own stall vanish from the figures, as it
 * can with a client that waits for an answer before it looks at the clock (coordinated omission).
 *
 * With RATE 0 each connection asks again as soon as it is answered. That is for large bodies, which wrk reads 8 KB at
 * a time: it takes more of the machine than the proxies then, and a comparison would compare wrk with itself.
 *
 * Prints one line of JSON. "late" is how long after a request was due a free connection was given it: the client's own
 * part in the figures. Exits 1 when it cannot do its work; wrong and missing answers are counted, not fatal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <time.h>
#include <unistd.h>

#define SECOND 1000000000LL
#define MAX_CONNECTIONS 1024
#define READ_BYTES (256 * 1024)
#define MAX_RATE 100000		/* without a rate of our own: so much memory is for latencies */
#define HEAD_BYTES 8192
#define LAST_ANSWERS (5 * SECOND)

struct connection {
	int fd;
	bool waiting;		/* for an answer */
	bool dead;
	bool in_body;
	bool wrong;		/* the answer's head was not what it should be */
	int64_t due;
	size_t head_bytes;
	long long body_left;
	char head[HEAD_BYTES];
};

static struct connection connections[MAX_CONNECTIONS];
static int free_ring[MAX_CONNECTIONS];	/* oldest first, so that all of them are used */
static int free_first, free_count;
static char request[2048];
static size_t request_bytes;
static long long body_bytes;
static int64_t *latencies, *lates;
static long done, wrong, broken;
static int epoll, alive;

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int64_t now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * SECOND + t.tv_nsec;
}

static void set_free(const struct connection *c)
{
	free_ring[(free_first + free_count++) % MAX_CONNECTIONS] = (int)(c - connections);
}

static struct connection *take_free(void)
{
	struct connection *c = &connections[free_ring[free_first]];

	free_first = (free_first + 1) % MAX_CONNECTIONS;
	free_count--;
	return c;
}

static void open_connection(struct connection *c, const struct sockaddr_in *address)
{
	struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
	int on = 1;

	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (c->fd < 0 || connect(c->fd, (const struct sockaddr *)address, sizeof(*address)))
		fail("client: connect");
	setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event))
		fail("client: epoll_ctl");
	alive++;
	set_free(c);
}

static void drop(struct connection *c)
{
	if (c->waiting)
		broken++;
	c->waiting = false;
	if (!c->dead) {
		close(c->fd);
		alive--;
	}
	c->dead = true;
}

/* The request fits into any socket buffer: a short write is as good as an error. */
static void send_request(struct connection *c, int64_t due)
{
	c->due = due;
	c->waiting = true;
	c->in_body = false;
	c->wrong = false;
	c->head_bytes = 0;
	if (c->dead || send(c->fd, request, request_bytes, MSG_NOSIGNAL) != (ssize_t)request_bytes)
		drop(c);
}

static void answer_complete(struct connection *c, int64_t at)
{
	latencies[done++] = at - c->due;
	wrong += c->wrong;
	c->waiting = false;
	set_free(c);
}

/* The status must be 200 and the length what was asked for. */
static void judge_head(struct connection *c)
{
	char *length = strcasestr(c->head, "\r\ncontent-length:");

	c->body_left = length ? atoll(length + strlen("\r\ncontent-length:")) : 0;
	c->wrong = strncmp(c->head, "HTTP/1.1 200 ", 13) || !length || c->body_left != body_bytes;
}

/* Takes bytes of the head until it ends; how many it took, or -1 for a head without end. */
static long take_head(struct connection *c, const char *data, size_t bytes)
{
	size_t space = HEAD_BYTES - 1 - c->head_bytes, taken = bytes < space ? bytes : space;
	char *end;

	memcpy(c->head + c->head_bytes, data, taken);
	c->head[c->head_bytes + taken] = 0;
	end = strstr(c->head, "\r\n\r\n");
	if (!end) {
		c->head_bytes += taken;
		return taken < space ? (long)taken : -1;
	}
	end[2] = 0;
	taken = (size_t)(end + 4 - c->head) - c->head_bytes;
	judge_head(c);
	c->in_body = true;
	return (long)taken;
}

static void take(struct connection *c, const char *data, size_t bytes)
{
	while (c->waiting && (bytes || c->in_body)) {
		if (!c->in_body) {
			long taken = take_head(c, data, bytes);

			if (taken < 0) {
				drop(c);
				return;
			}
			data += taken;
			bytes -= (size_t)taken;
			continue;
		}
		if ((long long)bytes < c->body_left) {
			c->body_left -= (long long)bytes;
			return;
		}
		data += c->body_left;
		bytes -= (size_t)c->body_left;
		answer_complete(c, now());
	}
	if (bytes) {		/* nobody asked for these */
		wrong++;
		drop(c);
	}
}

static void read_some(struct connection *c)
{
	static char buffer[READ_BYTES];
	ssize_t bytes = recv(c->fd, buffer, sizeof(buffer), MSG_DONTWAIT);

	if (bytes > 0)
		take(c, buffer, (size_t)bytes);
	else if (bytes == 0 || (errno != EAGAIN && errno != EINTR))
		drop(c);
}

static int by_size(const void *a, const void *b)
{
	int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

	return (x > y) - (x < y);
}

/* The smallest value that at least this share of all is not above. */
static double quantile_us(const int64_t *sorted, long count, double share)
{
	long rank = (long)(share * (double)count);

	if (!count)
		return 0;
	if ((double)rank < share * (double)count)
		rank++;
	return (double)sorted[rank ? rank - 1 : 0] / 1000;
}

static void report(long planned, long sent, double seconds)
{
	qsort(latencies, (size_t)done, sizeof(*latencies), by_size);
	qsort(lates, (size_t)sent, sizeof(*lates), by_size);
	printf("{\"planned\": %ld, \"requests\": %ld, \"wrong\": %ld, \"broken\": %ld, \"missing\": %ld, \"seconds\": %.6f",
	       planned, done, wrong, broken, planned - done, seconds);
	printf(", \"latency_us\": {\"p50\": %.1f, \"p90\": %.1f, \"p99\": %.1f, \"p999\": %.1f, \"max\": %.1f}",
	       quantile_us(latencies, done, 0.5), quantile_us(latencies, done, 0.9), quantile_us(latencies, done, 0.99),
	       quantile_us(latencies, done, 0.999), quantile_us(latencies, done, 1));
	printf(", \"late_us\": {\"p50\": %.1f, \"p99\": %.1f}}\n", quantile_us(lates, sent, 0.5),
	       quantile_us(lates, sent, 0.99));
}

int main(int argc, char **argv)
{
	struct sockaddr_in address = {.sin_family = AF_INET};
	struct itimerspec timer = {0};
	struct epoll_event events[64];
	double rate, seconds;
	bool is_open;
	long planned, sent = 0;
	int count, tick;
	int64_t interval, start, end, last_free;

	if (argc != 8) {
		fprintf(stderr, "client HOST PORT TARGET RATE SECONDS CONNECTIONS BODY_BYTES\n");
		return 1;
	}
	rate = atof(argv[4]);
	seconds = atof(argv[5]);
	count = atoi(argv[6]);
	body_bytes = atoll(argv[7]);
	is_open = rate > 0;
	planned = (long)((is_open ? rate : MAX_RATE) * seconds);
	address.sin_port = htons((uint16_t)atoi(argv[2]));
	request_bytes = (size_t)snprintf(request, sizeof(request), "GET %s HTTP/1.1\r\nHost: %s:%s\r\n\r\n", argv[3],
					 argv[1], argv[2]);
	if (inet_pton(AF_INET, argv[1], &address.sin_addr) != 1 || count < 1 || count > MAX_CONNECTIONS ||
	    planned < 1 || request_bytes >= sizeof(request)) {
		fprintf(stderr, "client: bad arguments\n");
		return 1;
	}
	latencies = calloc((size_t)planned, sizeof(*latencies));
	lates = calloc((size_t)planned, sizeof(*lates));
	epoll = epoll_create1(EPOLL_CLOEXEC);
	tick = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (!latencies || !lates || epoll < 0 || tick < 0)
		fail("client: start");
	prctl(PR_SET_TIMERSLACK, 1UL);
	if (epoll_ctl(epoll, EPOLL_CTL_ADD, tick, &(struct epoll_event){.events = EPOLLIN, .data.ptr = NULL}))
		fail("client: epoll_ctl");
	for (int i = 0; i < count; i++)
		open_connection(&connections[i], &address);

	interval = is_open ? (int64_t)(SECOND / rate) : SECOND;
	start = last_free = now() + SECOND / 100;
	end = start + (int64_t)(seconds * SECOND);
	timer.it_value.tv_sec = start / SECOND;
	timer.it_value.tv_nsec = start % SECOND;
	timer.it_interval.tv_sec = interval / SECOND;
	timer.it_interval.tv_nsec = interval % SECOND;
	if (timerfd_settime(tick, TFD_TIMER_ABSTIME, &timer, NULL))
		fail("client: timerfd_settime");

	while (done + broken < planned && alive) {
		int64_t at = now();
		int ready;

		if (at > end + LAST_ANSWERS)
			break;
		if (!is_open && at >= end)
			planned = sent;		/* no more; those under way are waited for */
		while (free_count && sent < planned) {
			int64_t due = is_open ? start + sent * interval : at > start ? at : start;
			int64_t possible = due > last_free ? due : last_free;

			if (due > at)
				break;
			lates[sent++] = at - possible;
			send_request(take_free(), due);
			at = now();
		}
		ready = epoll_wait(epoll, events, 64, 1000);
		if (ready < 0 && errno != EINTR)
			fail("client: epoll_wait");
		for (int i = 0; i < ready; i++) {
			struct connection *c = events[i].data.ptr;
			bool none_free = free_count == 0;
			uint64_t expired;

			if (!c) {
				if (read(tick, &expired, sizeof(expired)) < 0 && errno != EAGAIN)
					fail("client: timer");
				continue;
			}
			if (!c->dead)
				read_some(c);
			if (none_free && free_count)
				last_free = now();
		}
	}
	report(planned, sent, (double)(now() - start) / SECOND);
	return 0;
}
