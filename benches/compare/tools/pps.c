/* pps: sends or counts small UDP datagrams; prints JSON.
 *   pps recv PORT IDLE_MS              counts until nothing has come for IDLE_MS
 *   pps send ADDRESS PORT LEN RATE SECONDS    RATE in datagrams a second, 0 as fast as it goes */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 32, LEN_MAX = 2048, FIRST_MS = 20000, BUFFER = 16 << 20 };

static char data[BATCH][LEN_MAX];
static struct iovec pieces[BATCH];
static struct mmsghdr messages[BATCH];

static uint64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int fail(const char *what) {
    perror(what);
    return 1;
}

static void prepare(size_t len) {
    for (int i = 0; i < BATCH; i++) {
        pieces[i] = (struct iovec){data[i], len};
        messages[i].msg_hdr = (struct msghdr){.msg_iov = &pieces[i], .msg_iovlen = 1};
    }
}

static int receive(int socket, struct sockaddr_in at, int idle_ms) {
    uint64_t packets = 0, first = 0, last = 0;
    int buffer = BUFFER;
    if (setsockopt(socket, SOL_SOCKET, SO_RCVBUFFORCE, &buffer, sizeof buffer)) return fail("SO_RCVBUFFORCE");
    if (bind(socket, (struct sockaddr *)&at, sizeof at)) return fail("bind");
    prepare(LEN_MAX);
    for (;;) {
        int got = recvmmsg(socket, messages, BATCH, MSG_DONTWAIT, NULL);
        if (got < 0 && errno == EAGAIN) {
            struct pollfd wait = {socket, POLLIN, 0};
            if (poll(&wait, 1, packets ? idle_ms : FIRST_MS) == 0) break;
            continue;
        }
        if (got < 0 && errno == EINTR) continue;
        if (got < 0) return fail("recvmmsg");
        last = now_ns();
        if (!packets) first = last;
        packets += got;
    }
    printf("{\"packets\":%llu,\"secs\":%.6f}\n", (unsigned long long)packets, (last - first) / 1e9);
    return 0;
}

static void sleep_until(uint64_t due) {
    struct timespec t = {due / 1000000000, due % 1000000000};
    clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
}

static int transmit(int socket, struct sockaddr_in to, size_t len, double rate, double seconds) {
    /* At a low rate small batches, sent about 15,000 times a second, or the switch would see only bursts. */
    int batch = rate > 0 ? rate / 15000 : BATCH;
    if (batch < 1) batch = 1;
    if (batch > BATCH) batch = BATCH;
    if (connect(socket, (struct sockaddr *)&to, sizeof to)) return fail("connect");
    if (prctl(PR_SET_TIMERSLACK, 1)) return fail("PR_SET_TIMERSLACK");
    prepare(len);
    uint64_t start = now_ns(), now = start, end = start + (uint64_t)(seconds * 1e9), packets = 0;
    while (now < end) {
        uint64_t due = rate > 0 ? start + (uint64_t)(packets / rate * 1e9) : 0;
        if (due > now) sleep_until(due);
        int sent = sendmmsg(socket, messages, batch, 0);
        if (sent > 0) packets += sent;
        else if (errno != ENOBUFS && errno != EAGAIN && errno != ECONNREFUSED) return fail("sendmmsg");
        now = now_ns();
    }
    printf("{\"packets\":%llu,\"secs\":%.6f}\n", (unsigned long long)packets, (now - start) / 1e9);
    return 0;
}

int main(int count, char **args) {
    struct sockaddr_in address = {.sin_family = AF_INET};
    int socket_ = socket(AF_INET, SOCK_DGRAM, 0);
    if (socket_ < 0) return fail("socket");
    if (count == 4 && !strcmp(args[1], "recv")) {
        address.sin_port = htons(atoi(args[2]));
        return receive(socket_, address, atoi(args[3]));
    }
    if (count == 7 && !strcmp(args[1], "send") && inet_pton(AF_INET, args[2], &address.sin_addr) == 1 &&
        atoi(args[4]) > 0 && atoi(args[4]) <= LEN_MAX) {
        address.sin_port = htons(atoi(args[3]));
        return transmit(socket_, address, atoi(args[4]), atof(args[5]), atof(args[6]));
    }
    fprintf(stderr, "usage: pps recv PORT IDLE_MS | pps send ADDRESS PORT LEN RATE SECONDS\n");
    return 2;
}
