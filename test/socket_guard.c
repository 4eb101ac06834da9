/* Preloaded into a process and all that it starts (LD_PRELOAD): whatever would leave this machine
 * is written to $SOCKET_GUARD_LOG, one line each, and refused. Native code calls the C library's
 * functions as Python does, so it is caught as well. What stays on the machine goes through:
 * loopback, Unix and netlink sockets, and multicast whose interface is loopback (DDS).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static void report(const char *what, const char *where)
{
    const char *path = getenv("SOCKET_GUARD_LOG");
    char line[512];
    int file, length;
    if (!path) return;
    length = snprintf(line, sizeof line, "%s %s\n", what, where ? where : "?");
    if (length > (int)sizeof line - 1) length = sizeof line - 1;
    file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
    if (file < 0) return;
    if (write(file, line, length) < 0) abort();
    close(file);
}

static int stays_v4(int socket, struct in_addr address)
{
    unsigned host = ntohl(address.s_addr);
    struct in_addr interface;
    socklen_t size = sizeof interface;
    if (host >> 24 == 127 || !host) return 1;
    if (host >> 28 != 14) return 0; /* no multicast */
    return !getsockopt(socket, IPPROTO_IP, IP_MULTICAST_IF, &interface, &size)
        && ntohl(interface.s_addr) >> 24 == 127;
}

/* 1: it stays on the machine; else 0, and it was reported. */
static int stays(int socket, const struct sockaddr *to, const char *what)
{
    char text[INET6_ADDRSTRLEN] = "?", where[INET6_ADDRSTRLEN + 16];
    int port;
    if (!to || (to->sa_family != AF_INET && to->sa_family != AF_INET6)) return 1;
    if (to->sa_family == AF_INET) {
        const struct sockaddr_in *v4 = (const void *)to;
        if (stays_v4(socket, v4->sin_addr)) return 1;
        inet_ntop(AF_INET, &v4->sin_addr, text, sizeof text);
        port = ntohs(v4->sin_port);
    } else {
        const struct sockaddr_in6 *v6 = (const void *)to;
        struct in_addr mapped;
        if (IN6_IS_ADDR_LOOPBACK(&v6->sin6_addr) || IN6_IS_ADDR_UNSPECIFIED(&v6->sin6_addr))
            return 1;
        memcpy(&mapped, v6->sin6_addr.s6_addr + 12, 4);
        if (IN6_IS_ADDR_V4MAPPED(&v6->sin6_addr) && stays_v4(socket, mapped)) return 1;
        inet_ntop(AF_INET6, &v6->sin6_addr, text, sizeof text);
        port = ntohs(v6->sin6_port);
    }
    snprintf(where, sizeof where, "%s port %d", text, port);
    report(what, where);
    errno = ENETUNREACH;
    return 0;
}

int connect(int socket, const struct sockaddr *to, socklen_t size)
{
    return stays(socket, to, "connect") ? REAL(connect)(socket, to, size) : -1;
}

ssize_t sendto(
    int socket, const void *data, size_t count, int flags, const struct sockaddr *to, socklen_t size)
{
    if (!stays(socket, to, "sendto")) return -1;
    return REAL(sendto)(socket, data, count, flags, to, size);
}

ssize_t sendmsg(int socket, const struct msghdr *message, int flags)
{
    if (message && !stays(socket, message->msg_name, "sendmsg")) return -1;
    return REAL(sendmsg)(socket, message, flags);
}

int sendmmsg(int socket, struct mmsghdr *messages, unsigned count, int flags)
{
    unsigned n;
    for (n = 0; n < count; ++n)
        if (!stays(socket, messages[n].msg_hdr.msg_name, "sendmmsg")) return -1;
    return REAL(sendmmsg)(socket, messages, count, flags);
}

/* The same by number, for code that goes past the functions above. */
long syscall(long number, ...)
{
    long a[6];
    int n;
    va_list list;
    va_start(list, number);
    for (n = 0; n < 6; ++n) a[n] = va_arg(list, long);
    va_end(list);
    if (number == SYS_connect && !stays((int)a[0], (const void *)a[1], "syscall connect"))
        return -1;
    if (number == SYS_sendto && !stays((int)a[0], (const void *)a[4], "syscall sendto")) return -1;
    if (number == SYS_sendmsg && a[1]
        && !stays((int)a[0], ((const struct msghdr *)a[1])->msg_name, "syscall sendmsg"))
        return -1;
    return REAL(syscall)(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

/* 1: no question to a name server is needed. */
static int known(const char *name)
{
    unsigned char address[16];
    return !name || !*name || !strcmp(name, "localhost") || inet_pton(AF_INET, name, address) == 1
        || inet_pton(AF_INET6, name, address) == 1;
}

int getaddrinfo(
    const char *name, const char *service, const struct addrinfo *hints, struct addrinfo **found)
{
    if (known(name)) return REAL(getaddrinfo)(name, service, hints, found);
    report("getaddrinfo", name);
    return EAI_FAIL;
}

struct hostent *gethostbyname(const char *name)
{
    if (known(name)) return REAL(gethostbyname)(name);
    report("gethostbyname", name);
    h_errno = NO_RECOVERY;
    return NULL;
}

struct hostent *gethostbyname2(const char *name, int family)
{
    if (known(name)) return REAL(gethostbyname2)(name, family);
    report("gethostbyname2", name);
    h_errno = NO_RECOVERY;
    return NULL;
}

int gethostbyname_r(const char *name, struct hostent *result, char *buffer, size_t size,
    struct hostent **found, int *error)
{
    if (known(name)) return REAL(gethostbyname_r)(name, result, buffer, size, found, error);
    report("gethostbyname_r", name);
    *found = NULL;
    *error = NO_RECOVERY;
    return 0;
}

/* resolv.h gives these other names in older C libraries; the functions are what is called */
int res_query(const char *name, int class_, int type, unsigned char *answer, int size)
{
    (void)class_, (void)type, (void)answer, (void)size;
    report("res_query", name);
    return -1;
}

int res_search(const char *name, int class_, int type, unsigned char *answer, int size)
{
    (void)class_, (void)type, (void)answer, (void)size;
    report("res_search", name);
    return -1;
}
