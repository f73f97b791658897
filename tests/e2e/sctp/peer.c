/* An SCTP end-point for machines whose kernel has none: usrsctp's protocol engine over a raw IP socket.
 *
 *   peer serve ADDRESS PORT NAME    answers associations until its standard input ends
 *   peer ask ADDRESS VIP PORT       opens associations as it is told, a line each:
 *     open LPORT          from this port; says the server's name
 *     data LPORT BYTES    sends so many, gets them back, compares
 *     shut LPORT          ends it in order, the client first
 *     bye LPORT           ends it in order, the server first
 *     abort LPORT         ends it with an ABORT
 *
 * Every line is answered by one. At the end each says how many packets came with a wrong CRC32c.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <usrsctp.h>

enum { MESSAGE = 8000, PEERS = 64 };

/* A host at the other end; its address in memory is what usrsctp knows it by. */
struct peer {
    struct sockaddr_storage address;
    socklen_t length;
};

static struct peer peers[PEERS];
static int known, raw, family;
static const char *name;

static void fail(const char *what) {
    fprintf(stderr, "peer: %s: %s\n", what, strerror(errno));
    exit(1);
}

static struct sockaddr_storage address(const char *text, socklen_t *length) {
    struct sockaddr_storage s = {0};
    struct sockaddr_in *v4 = (void *)&s;
    struct sockaddr_in6 *v6 = (void *)&s;
    if (inet_pton(AF_INET, text, &v4->sin_addr) == 1) {
        v4->sin_family = AF_INET;
        *length = sizeof *v4;
    } else if (inet_pton(AF_INET6, text, &v6->sin6_addr) == 1) {
        v6->sin6_family = AF_INET6;
        *length = sizeof *v6;
    } else {
        errno = EINVAL;
        fail(text);
    }
    return s;
}

/* Same host? Ports and flow labels of raw sockets mean nothing. */
static int same(const struct sockaddr_storage *a, const struct sockaddr_storage *b) {
    if (a->ss_family == AF_INET)
        return ((struct sockaddr_in *)a)->sin_addr.s_addr == ((struct sockaddr_in *)b)->sin_addr.s_addr;
    return !memcmp(&((struct sockaddr_in6 *)a)->sin6_addr, &((struct sockaddr_in6 *)b)->sin6_addr, 16);
}

static struct peer *peer_at(const struct sockaddr_storage *a, socklen_t length) {
    for (int i = 0; i < known; i++)
        if (same(&peers[i].address, a))
            return &peers[i];
    if (known == PEERS)
        fail("too many peers");
    peers[known] = (struct peer){*a, length};
    if (family == AF_INET6)
        ((struct sockaddr_in6 *)&peers[known].address)->sin6_port = 0;
    usrsctp_register_address(&peers[known]);
    return &peers[known++];
}

static int output(void *to, void *packet, size_t length, uint8_t tos, uint8_t set_df) {
    struct peer *p = to;
    (void)tos, (void)set_df;
    return sendto(raw, packet, length, 0, (void *)&p->address, p->length) < 0 ? errno : 0;
}

static void *input(void *unused) {
    static unsigned char packet[1 << 16];
    for (;;) {
        struct sockaddr_storage from;
        socklen_t length = sizeof from;
        ssize_t n = recvfrom(raw, packet, sizeof packet, 0, (void *)&from, &length);
        /* IPv4 raw sockets give the IP header too */
        size_t skip = family == AF_INET ? (packet[0] & 15) * 4u : 0;
        if (n > (ssize_t)skip)
            usrsctp_conninput(peer_at(&from, length), packet + skip, n - skip, 0);
    }
    return unused;
}

static void *timers(void *unused) {
    for (;;) {
        usleep(10000);
        usrsctp_handle_timers(10);
    }
    return unused;
}

static void start(const char *own) {
    socklen_t length;
    struct sockaddr_storage a = address(own, &length);
    pthread_t thread;
    family = a.ss_family;
    raw = socket(family, SOCK_RAW, IPPROTO_SCTP);
    int room = 1 << 21;
    if (raw < 0 || setsockopt(raw, SOL_SOCKET, SO_RCVBUF, &room, sizeof room) || bind(raw, (void *)&a, length))
        fail(own);
    usrsctp_init_nothreads(0, output, NULL);
    usrsctp_sysctl_set_sctp_ecn_enable(0);
    if (pthread_create(&thread, NULL, input, NULL) || pthread_create(&thread, NULL, timers, NULL))
        fail("thread");
}

static struct sockaddr_conn conn(struct peer *p, int port) {
    return (struct sockaddr_conn){.sconn_family = AF_CONN, .sconn_port = htons(port), .sconn_addr = p};
}

static struct socket *open_socket(struct peer *p, int port) {
    struct socket *s = usrsctp_socket(AF_CONN, SOCK_STREAM, IPPROTO_SCTP, NULL, NULL, 0, NULL);
    struct sockaddr_conn own = conn(p, port);
    int on = 1;
    if (!s || usrsctp_setsockopt(s, IPPROTO_SCTP, SCTP_NODELAY, &on, sizeof on) ||
        usrsctp_bind(s, (void *)&own, sizeof own))
        fail("socket");
    return s;
}

static int put(struct socket *s, const void *what, size_t length) {
    return usrsctp_sendv(s, what, length, NULL, 0, NULL, 0, SCTP_SENDV_NOINFO, 0) == (ssize_t)length;
}

/* A whole message; 0 when the other end has shut down, -1 when the association is gone. */
static ssize_t get(struct socket *s, char *buf, size_t room) {
    size_t got = 0;
    for (;;) {
        struct sctp_rcvinfo info;
        socklen_t from = 0, length = sizeof info;
        unsigned kind;
        int flags = 0;
        ssize_t n = usrsctp_recvv(s, buf + got, room - got, NULL, &from, &info, &length, &kind, &flags);
        if (n <= 0)
            return n;
        got += n;
        if (flags & MSG_EOR || got == room)
            return got;
    }
}

static void *answer(void *association) {
    struct socket *s = association;
    char buf[MESSAGE + 1];
    ssize_t n;
    while ((n = get(s, buf, sizeof buf)) > 0) {
        if (n == 4 && !memcmp(buf, "who?", 4))
            put(s, name, strlen(name));
        else if (n == 4 && !memcmp(buf, "bye!", 4))
            usrsctp_shutdown(s, SHUT_WR);
        else
            put(s, buf, n);
    }
    usrsctp_close(s);
    return NULL;
}

static void *serve(void *listener) {
    struct socket *s;
    pthread_t thread;
    while ((s = usrsctp_accept(listener, NULL, NULL)))
        if (!pthread_create(&thread, NULL, answer, s))
            pthread_detach(thread);
    return NULL;
}

static struct socket *of_port[1 << 16];

static const char *data(struct socket *s, long bytes) {
    static char out[MESSAGE], in[MESSAGE + 1];
    static unsigned x = 1;
    for (; bytes > 0; bytes -= MESSAGE) {
        size_t n = bytes < MESSAGE ? bytes : MESSAGE;
        for (size_t i = 0; i < n; i++)
            out[i] = (x = x * 1103515245 + 12345) >> 16;
        if (!put(s, out, n))
            return "not sent";
        if (get(s, in, sizeof in) != (ssize_t)n || memcmp(in, out, n))
            return "came back changed";
    }
    return "same";
}

static const char *obey(char *line, struct peer *vip, int port) {
    static char got[MESSAGE + 1];
    char what[16];
    int lport;
    long bytes = 0;
    if (sscanf(line, "%15s %d %ld", what, &lport, &bytes) < 2 || lport < 1 || lport > 65535)
        return "not understood";
    struct socket **s = &of_port[lport];
    if (!strcmp(what, "open")) {
        struct sockaddr_conn to = conn(vip, port);
        *s = open_socket(vip, lport);
        if (usrsctp_connect(*s, (void *)&to, sizeof to))
            return strerror(errno);
        ssize_t n = put(*s, "who?", 4) ? get(*s, got, sizeof got - 1) : -1;
        got[n > 0 ? n : 0] = 0;
        return n > 0 ? got : "no answer";
    }
    if (!*s)
        return "not open";
    if (!strcmp(what, "data"))
        return data(*s, bytes);
    ssize_t n = 0;
    if (!strcmp(what, "abort")) {
        struct linger now = {1, 0};
        usrsctp_setsockopt(*s, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    } else if (!strcmp(what, "shut") || !strcmp(what, "bye")) {
        if (*what == 'b' ? !put(*s, "bye!", 4) : usrsctp_shutdown(*s, SHUT_WR))
            return strerror(errno);
        n = get(*s, got, sizeof got);
    } else {
        return "not understood";
    }
    usrsctp_close(*s);
    *s = NULL;
    return n == 0 ? "ended" : "not ended";
}

int main(int argc, char **argv) {
    setvbuf(stdout, NULL, _IOLBF, 0);
    int serves = argc == 5 && !strcmp(argv[1], "serve");
    if (!serves && !(argc == 5 && !strcmp(argv[1], "ask"))) {
        fprintf(stderr, "usage: peer serve ADDRESS PORT NAME | peer ask ADDRESS VIP PORT\n");
        return 2;
    }
    char line[256];
    start(argv[2]);
    if (serves) {
        name = argv[4];
        struct socket *s = open_socket(NULL, atoi(argv[3]));
        pthread_t thread;
        if (usrsctp_listen(s, 64) || pthread_create(&thread, NULL, serve, s))
            fail("listen");
        puts("ready");
        while (fgets(line, sizeof line, stdin))
            ;
    } else {
        socklen_t length;
        struct sockaddr_storage a = address(argv[3], &length);
        struct peer *vip = peer_at(&a, length);
        puts("ready");
        while (fgets(line, sizeof line, stdin))
            puts(obey(line, vip, atoi(argv[4])));
    }
    struct sctpstat counts;
    usrsctp_get_stat(&counts);
    printf("%u of %u packets with a wrong checksum\n", counts.sctps_checksumerrors, counts.sctps_recvpackets);
    fflush(stdout);
    _exit(0);
}
