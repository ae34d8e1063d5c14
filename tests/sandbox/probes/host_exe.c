/* Opens the executable of process 1, or of a descriptor left to it, for writing; prints what came of it. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    for (int i = 1; i < argc; i++) {
        int fd = open(argv[i], O_WRONLY);
        printf("%s %s\n", argv[i], fd < 0 ? strerror(errno) : "open");
    }
    return 0;
}
