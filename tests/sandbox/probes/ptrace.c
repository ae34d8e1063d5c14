/* Tries to trace, read and signal the threads of process 1; prints "what errno" for the first of them, and then for
   each in which something worked that should not. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static void try_thread(int id) {
    char byte, path[64];
    struct iovec here = {&byte, 1}, there = {(void *)try_thread, 1};
    const char *names[] = {"mem", "fd/0", "root/etc", "cwd/etc", "maps", "environ", "syscall"};
    errno = 0; ptrace(PTRACE_SEIZE, id, 0, 0); if (errno != EPERM) printf("seize-%d %d\n", id, errno);
    if (errno == 0) exit(1); /* which detaches */
    errno = 0; ptrace(PTRACE_ATTACH, id, 0, 0); if (errno != EPERM) printf("attach-%d %d\n", id, errno);
    if (errno == 0) exit(1);
    errno = 0; process_vm_readv(id, &here, 1, &there, 1, 0); if (errno != EPERM) printf("read-%d %d\n", id, errno);
    errno = 0; process_vm_writev(id, &here, 1, &there, 1, 0); if (errno != EPERM) printf("write-%d %d\n", id, errno);
    for (int i = 0; i < 7; i++) {
        snprintf(path, sizeof path, "/proc/1/task/%d/%s", id, names[i]);
        int fd = open(path, O_RDONLY);
        if (fd >= 0 && read(fd, &byte, 1) >= 0) printf("open-%s 0\n", path);
    }
    syscall(SYS_tgkill, 1, id, SIGSTOP);
    syscall(SYS_tgkill, 1, id, SIGKILL);
}

int main(void) {
    char byte;
    struct iovec here = {&byte, 1}, there = {(void *)main, 1};
    int threads = 0;
    DIR *tasks = opendir("/proc/1/task");
    for (struct dirent *entry; tasks && (entry = readdir(tasks));)
        if (atoi(entry->d_name)) {
            threads++;
            try_thread(atoi(entry->d_name));
        }
    printf("threads %d\n", threads);
    errno = 0; ptrace(PTRACE_ATTACH, 1, 0, 0); printf("attach %d\n", errno);
    errno = 0; ptrace(PTRACE_SEIZE, 1, 0, 0); printf("seize %d\n", errno);
    errno = 0; process_vm_readv(1, &here, 1, &there, 1, 0); printf("read %d\n", errno);
    errno = 0; process_vm_writev(1, &here, 1, &there, 1, 0); printf("write %d\n", errno);
    errno = 0; kill(1, SIGKILL); printf("kill %d\n", errno);
    errno = 0; kill(-1, 0); printf("all %d\n", errno);
    return 0;
}
