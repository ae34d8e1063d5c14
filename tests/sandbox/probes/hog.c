/* Touches as many MiB as it is told. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int main(int argc, char **argv) {
    size_t bytes = (size_t)atol(argv[argc - 1]) << 20;
    char *memory = malloc(bytes);
    if (!memory) return 2;
    for (size_t at = 0; at < bytes; at += 4096) memory[at] = 1;
    printf("touched\n");
    return 0;
}
