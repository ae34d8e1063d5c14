/* Sends each datagram that comes to port 53 back to where it came from. */
#include <netinet/in.h>
#include <sys/socket.h>

int main(void) {
    struct sockaddr_in own = {.sin_family = AF_INET, .sin_port = htons(53)}, peer;
    char data[512];
    int fd = socket(AF_INET, SOCK_DGRAM, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&own, sizeof own))
        return 1;
    for (;;) {
        socklen_t size = sizeof peer;
        ssize_t length = recvfrom(fd, data, sizeof data, 0, (struct sockaddr *)&peer, &size);
        if (length < 0 || sendto(fd, data, (size_t)length, 0, (struct sockaddr *)&peer, size) < 0)
            return 1;
    }
}
