/* Tries to trace, read and signal process 1 and its own parent; prints "what errno". */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <unistd.h>

int main(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)main, 1};
    errno = 0; ptrace(PTRACE_ATTACH, 1, 0, 0); printf("attach %d\n", errno);
    errno = 0; ptrace(PTRACE_SEIZE, 1, 0, 0); printf("seize %d\n", errno);
    errno = 0; process_vm_readv(1, &here, 1, &there, 1, 0); printf("read %d\n", errno);
    errno = 0; process_vm_writev(1, &here, 1, &there, 1, 0); printf("write %d\n", errno);
    errno = 0; kill(1, SIGKILL); printf("kill %d\n", errno);
    errno = 0; kill(-1, 0); printf("all %d\n", errno);
    return 0;
}
