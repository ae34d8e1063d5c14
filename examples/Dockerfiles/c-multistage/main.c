#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "sieve.h"

static void print(size_t prime)
{
    printf("%zu\n", prime);
}

int main(int argc, char **argv)
{
    char *end;

    errno = 0;
    unsigned long limit = argc == 2 ? strtoul(argv[1], &end, 10) : 0;
    if (argc != 2 || errno != 0 || *argv[1] == '\0' || *end != '\0' || limit > 100000000) {
        fprintf(stderr, "usage: primes LIMIT (up to 100000000)\n");
        return 2;
    }
    if (sieve(limit, print) != 0) {
        fprintf(stderr, "primes: out of memory\n");
        return 1;
    }
    return 0;
}
