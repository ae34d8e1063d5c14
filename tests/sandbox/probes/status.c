/* Prints /proc/self/status: a program that, unlike busybox, keeps what a setuid bit gives it. */
#include <fcntl.h>
#include <unistd.h>

int main(void) {
    char buffer[4096];
    int fd = open("/proc/self/status", O_RDONLY);
    ssize_t length;
    while ((length = read(fd, buffer, sizeof buffer)) > 0)
        if (write(1, buffer, length) != length) return 1;
    return 0;
}
