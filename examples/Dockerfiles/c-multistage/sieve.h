#ifndef SIEVE_H
#define SIEVE_H

#include <stddef.h>

/* Calls found(prime) for every prime up to and including limit, in order. Returns -1 when memory runs out. */
int sieve(size_t limit, void (*found)(size_t prime));

#endif
