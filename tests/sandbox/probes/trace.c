/* Tries to trace and read the processes named, prints the errno of each attempt; then the same for one of its own. */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

static int seize(int pid) { return ptrace(PTRACE_SEIZE, pid, 0, 0) < 0 ? errno : 0; }

int main(int count, char **words) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)main, 1};
    for (int place = 1; place < count; place++) {
        int pid = atoi(words[place]), pidfd = syscall(SYS_pidfd_open, pid, 0);
        int seized = seize(pid);
        int read = process_vm_readv(pid, &here, 1, &there, 1, 0) < 0 ? errno : 0;
        int written = process_vm_writev(pid, &here, 1, &there, 1, 0) < 0 ? errno : 0;
        int taken = syscall(SYS_pidfd_getfd, pidfd, 0, 0) < 0 ? errno : 0;
        printf("%d %d %d %d\n", seized, read, written, taken);
    }
    int child = fork();
    if (child == 0) for (;;) pause();
    printf("own %d\n", seize(child));
    kill(child, SIGKILL);
    waitpid(child, 0, 0);
    return 0;
}
