/* Reaches for what belongs to the host; prints "what errno" for each attempt, 0 where it was in reach. Nothing that is
   opened is written to. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

static void tell(const char *name, int failed) { printf("%s %d\n", name, failed ? errno : 0); }

static void reach(const char *name, const char *path, int flags) {
    int fd = open(path, flags);
    tell(name, fd < 0);
    if (fd >= 0) close(fd);
}

/* Whether there is anything to be read: what is covered by the null device can be opened. */
static int read_from(const char *path) {
    char byte;
    int fd = open(path, O_RDONLY);
    if (fd < 0) return 0;
    int got = read(fd, &byte, 1) == 1;
    close(fd);
    if (!got) errno = ENODATA;
    return got;
}

static void device(const char *name, mode_t kind, unsigned major, unsigned minor) {
    unlink("/tmp/node");
    if (mknod("/tmp/node", kind | 0600, makedev(major, minor))) { tell(name, 1); return; }
    reach(name, "/tmp/node", O_RDONLY | O_NONBLOCK);
}

/* The classic way out of a chroot: a directory that is open outside of a second one. */
static void leave(void) {
    struct stat before, after;
    stat("/", &before);
    mkdir("/tmp/inner", 0700);
    int here = open("/", O_RDONLY | O_DIRECTORY);
    errno = EPERM;
    if (chroot("/tmp/inner") || fchdir(here)) { tell("chroot-and-back", 1); return; }
    for (int i = 0; i < 64; i++) if (chdir("..")) break;
    if (chroot(".")) { tell("chroot-and-back", 1); return; }
    stat("/", &after);
    errno = ENOENT;
    tell("chroot-and-back", before.st_dev == after.st_dev && before.st_ino == after.st_ino);
}

/* A socket without a file, which belongs to a network namespace (unix(7)). */
static void connect_to(const char *name) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path + 1, name, sizeof address.sun_path - 2);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    tell("abstract-socket", connect(fd, (void *)&address, sizeof(sa_family_t) + 1 + strlen(name)) < 0);
    close(fd);
}

/* What the test made or found on the host: its disk, its process, a segment of shared memory, a socket. */
static void of_the_host(char **words) {
    device("disk", S_IFBLK, atoi(words[0]), atoi(words[1]));
    mkdir("/tmp/mounted", 0700);
    tell("mounted-disk", mount("/tmp/node", "/tmp/mounted", "ext4", 0, 0));
    tell("process", kill(atoi(words[2]), 0));
    tell("shared-memory", shmget(atoi(words[3]), 0, 0) < 0);
    connect_to(words[4]);
}

int main(int count, char **words) {
    /* on the host: "make KEY" and "remove KEY" of the segment */
    if (count == 3) {
        int segment = shmget(atoi(words[2]), 4096, 0666 | IPC_CREAT);
        return segment < 0 || (words[1][0] == 'r' && shmctl(segment, IPC_RMID, 0));
    }
    if (count == 6) of_the_host(words + 1);
    reach("core-pattern", "/proc/sys/kernel/core_pattern", O_WRONLY);
    reach("modprobe", "/proc/sys/kernel/modprobe", O_WRONLY);
    reach("sysrq", "/proc/sysrq-trigger", O_WRONLY);
    reach("panic", "/proc/sys/kernel/panic", O_WRONLY);
    reach("irq", "/proc/irq/default_smp_affinity", O_WRONLY);
    reach("uevent", "/sys/kernel/uevent_seqnum", O_WRONLY);
    reach("sysfs", "/sys/kernel/mm/transparent_hugepage/enabled", O_WRONLY);
    reach("groups", "/sys/fs/cgroup/memory/cgroup.procs", O_WRONLY);
    reach("unified-groups", "/sys/fs/cgroup/cgroup.procs", O_WRONLY);
    reach("release-agent", "/sys/fs/cgroup/memory/release_agent", O_WRONLY);
    tell("mounted-memory", mount("none", "/mnt", "tmpfs", 0, 0) && mount("none", "/tmp", "tmpfs", 0, 0));
    tell("kcore", !read_from("/proc/kcore"));
    reach("mount-namespace", "/proc/1/ns/mnt", O_RDONLY);
    reach("root-of-init", "/proc/1/root/etc", O_RDONLY);
    reach("memory-of-init", "/proc/1/mem", O_RDWR);
    device("memory", S_IFCHR, 1, 1);
    device("port", S_IFCHR, 1, 4);
    device("kernel-log", S_IFCHR, 1, 11);
    device("fuse", S_IFCHR, 10, 229);
    device("loop-control", S_IFCHR, 10, 237);
    device("tunnel", S_IFCHR, 10, 200);
    device("loop", S_IFBLK, 7, 0);
    errno = 0; tell("keyring", syscall(SYS_keyctl, 0, -4, 0, 0, 0) < 0);
    errno = 0; tell("user-namespace", unshare(CLONE_NEWUSER));
    leave();
    return 0;
}
