/* Tries system calls a step must not make; prints "name errno" for each, 0 where it was allowed. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <sys/personality.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static void tell(const char *name, long result) { printf("%s %d\n", name, result < 0 ? errno : 0); }
#define TRY(name, ...) do { errno = 0; tell(#name, syscall(SYS_##name, ##__VA_ARGS__)); } while (0)

int main(void) {
    TRY(mount, "none", "/tmp", "tmpfs", 0, 0);
    TRY(umount2, "/proc", 2);
    TRY(pivot_root, "/", "/");
    TRY(unshare, CLONE_NEWNS);
    TRY(setns, -1, 0);
    TRY(open_tree, AT_FDCWD, "/", 1);
    TRY(move_mount, -1, "", -1, "", 0);
    TRY(fsopen, "tmpfs", 0);
    TRY(fsconfig, -1, 0, 0, 0, 0);
    TRY(fsmount, -1, 0, 0);
    TRY(fspick, AT_FDCWD, "/", 0);
    TRY(mount_setattr, -1, "", 0, 0, 0);
    TRY(init_module, 0, 0, "");
    TRY(finit_module, -1, "", 0);
    TRY(delete_module, "x", 0);
    TRY(kexec_load, 0, 0, 0, 0);
    TRY(kexec_file_load, -1, -1, 0, "", 0);
    TRY(reboot, 0, 0, 0, 0);
    TRY(swapon, "/tmp", 0);
    TRY(swapoff, "/tmp");
    TRY(acct, 0);
    TRY(settimeofday, 0, 0);
    TRY(clock_settime, 0, 0);
    TRY(sethostname, "x", 1);
    TRY(setdomainname, "x", 1);
    TRY(keyctl, 0, 0, 0, 0, 0);
    TRY(add_key, "user", "x", "y", 1, -3);
    TRY(request_key, "user", "x", 0, 0);
    TRY(bpf, 0, 0, 0);
    TRY(perf_event_open, 0, 0, -1, -1, 0);
    TRY(userfaultfd, 0);
    TRY(open_by_handle_at, -1, 0, 0);
    TRY(io_uring_setup, 1, 0);
    TRY(quotactl, 0, 0, 0, 0);
    TRY(lookup_dcookie, 0, 0, 0);
    TRY(syslog, 3, 0, 0);
    TRY(vhangup);
    TRY(mbind, 0, 0, 0, 0, 0, 0);
    TRY(set_mempolicy, 0, 0, 0);
    TRY(kcmp, 1, 1, 0, 0, 0);
    TRY(pidfd_getfd, -1, 0, 0);
    TRY(process_madvise, -1, 0, 0, 0, 0);
    TRY(personality, 0x0040000);
    TRY(fanotify_init, 0, 0);
    TRY(nfsservctl, 0, 0, 0);
#ifdef __x86_64__
    TRY(iopl, 3);
    TRY(ioperm, 0, 1, 1);
#endif
    TRY(clone, CLONE_NEWUSER | 17, 0, 0, 0, 0);
    TRY(clone3, 0, 0);
    errno = 0; tell("vsock", socket(40, SOCK_STREAM, 0));
    errno = 0; tell("alg", socket(38, SOCK_SEQPACKET, 0));
    errno = 0; tell("inet", socket(AF_INET, SOCK_STREAM, 0));
    errno = 0; tell("unknown", syscall(9999));
    return 0;
}
