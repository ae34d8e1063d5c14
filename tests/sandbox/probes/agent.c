/* Asks the agent at $SSH_AUTH_SOCK for keys, a signature, and to forget all keys; prints "what type-of-answer". */
#include <arpa/inet.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

static unsigned char answer[65536];

static int ask(int fd, const unsigned char *body, uint32_t length) {
    uint32_t size = htonl(length);
    if (write(fd, &size, 4) != 4 || write(fd, body, length) != (ssize_t)length) return -1;
    if (recv(fd, &size, 4, MSG_WAITALL) != 4) return -1;
    size = ntohl(size);
    if (size > sizeof answer || recv(fd, answer, size, MSG_WAITALL) != (ssize_t)size) return -1;
    return answer[0];
}

int main(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    unsigned char sign[65536] = {13}, list = 11, forget = 19, lock[] = {22, 0, 0, 0, 1, 'x'};
    uint32_t length, none = 0;
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, getenv("SSH_AUTH_SOCK"), sizeof address.sun_path - 1);
    if (connect(fd, (struct sockaddr *)&address, sizeof address)) { perror("connect"); return 1; }
    printf("list %d\n", ask(fd, &list, 1));
    memcpy(&length, answer + 1, 4);
    printf("keys %u\n", ntohl(length));
    memcpy(&length, answer + 5, 4);
    length = ntohl(length);
    memcpy(sign + 1, answer + 5, 4 + length);
    memcpy(sign + 5 + length, "\0\0\0\4data", 8);
    memcpy(sign + 13 + length, &none, 4);
    printf("sign %d\n", ask(fd, sign, 17 + length));
    printf("forget %d\n", ask(fd, &forget, 1));
    printf("lock %d\n", ask(fd, lock, sizeof lock));
    return 0;
}
