/* tappipe: what TAP I/O alone allows. Copies frames between TAPs in two namespaces, one thread each way.
 *   tappipe NETNS_A TAP_A NETNS_B TAP_B vnet|plain
 * vnet: super-frames of 64 KiB with unfinished checksums; plain: one frame of MTU size for each read and write. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#ifndef TUN_F_USO4 /* Linux 6.2 */
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

struct way { int from, to; };

static void die(const char *what) {
    perror(what);
    exit(1);
}

static int open_tap(const char *netns, const char *name, int vnet) {
    char path[256];
    snprintf(path, sizeof path, "/run/netns/%s", netns);
    int ns = open(path, O_RDONLY | O_CLOEXEC);
    if (ns < 0 || setns(ns, CLONE_NEWNET)) die(path);
    close(ns);
    int tap = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
    if (tap < 0) die("/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | (vnet ? IFF_VNET_HDR : 0)};
    strncpy(request.ifr_name, name, IFNAMSIZ - 1);
    if (ioctl(tap, TUNSETIFF, &request)) die("TUNSETIFF");
    unsigned tcp = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6;
    if (vnet && ioctl(tap, TUNSETOFFLOAD, tcp | TUN_F_USO4 | TUN_F_USO6) && ioctl(tap, TUNSETOFFLOAD, tcp))
        die("TUNSETOFFLOAD");
    return tap;
}

static _Noreturn void copy_forever(const struct way *way) {
    static _Thread_local char frame[70000];
    for (;;) {
        ssize_t len = read(way->from, frame, sizeof frame);
        if (len <= 0) die("read");
        /* A TAP that is still down refuses frames. */
        if (write(way->to, frame, len) < 0 && errno != EIO) die("write");
    }
}

static void *copy(void *way) { copy_forever(way); }

int main(int count, char **args) {
    if (count != 6) {
        fprintf(stderr, "usage: tappipe NETNS_A TAP_A NETNS_B TAP_B vnet|plain\n");
        return 2;
    }
    int vnet = !strcmp(args[5], "vnet");
    int a = open_tap(args[1], args[2], vnet), b = open_tap(args[3], args[4], vnet);
    struct way there = {a, b}, back = {b, a};
    pthread_t thread;
    if (pthread_create(&thread, NULL, copy, &there)) die("pthread_create");
    copy_forever(&back);
}
