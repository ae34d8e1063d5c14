/* What a shell cannot ask of a file system: one subcommand a system call. Static, so that it runs on any base. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/xattr.h>
#include <unistd.h>

static void must(int ok, const char *what)
{
    if (!ok) {
        fprintf(stderr, "%s: %s\n", what, strerror(errno));
        exit(1);
    }
}

static void setcap(const char *path)
{
    /* version 2, effective; permitted: CAP_NET_RAW */
    static const unsigned char value[20] = {1, 0, 0, 2, 0, 0x20};
    must(setxattr(path, "security.capability", value, sizeof value, 0) == 0, path);
}

static void sparse(const char *path, const char *size)
{
    int fd = open(path, O_RDWR | O_CREAT, 0644);
    must(fd >= 0, path);
    must(ftruncate(fd, atol(size)) == 0, path);
    must(pwrite(fd, "middle", 6, atol(size) / 2) == 6, path);
    close(fd);
}

static void rename_with(const char *from, const char *to, const char *flag)
{
    unsigned flags = strcmp(flag, "exchange") == 0 ? 2 : 1;
    must(syscall(SYS_renameat2, AT_FDCWD, from, AT_FDCWD, to, flags) == 0, to);
}

static void link_unnamed(const char *directory, const char *path)
{
    char name[64];
    int fd = open(directory, O_TMPFILE | O_RDWR, 0640);
    if (fd < 0 && errno == EOPNOTSUPP) { /* programs fall back to a name, so does this one */
        fd = open(path, O_CREAT | O_EXCL | O_RDWR, 0640);
        must(fd >= 0 && write(fd, "unnamed\n", 8) == 8, path);
        return;
    }
    must(fd >= 0 && write(fd, "unnamed\n", 8) == 8, directory);
    snprintf(name, sizeof name, "/proc/self/fd/%d", fd);
    must(linkat(AT_FDCWD, name, AT_FDCWD, path, AT_SYMLINK_FOLLOW) == 0, path);
}

static void write_mapped(const char *path)
{
    int fd = open(path, O_RDWR);
    must(fd >= 0, path);
    char *map = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    must(map != MAP_FAILED, path);
    close(fd);
    memcpy(map, "MAPPED", 6);
    /* no msync, no munmap: it must be there all the same */
}

static void write_unlinked(const char *path)
{
    int fd = open(path, O_RDWR | O_CREAT, 0600);
    must(fd >= 0 && unlink(path) == 0, path);
    must(write(fd, "gone", 4) == 4, path);
}

static void change_open(const char *path, const char *out)
{
    /* a descriptor from before the first write is of the same file afterwards */
    char text[64] = "";
    struct stat before, after;
    int reader = open(path, O_RDONLY);
    int writer = open(path, O_WRONLY | O_APPEND);
    must(reader >= 0 && writer >= 0 && fstat(reader, &before) == 0, path);
    must(write(writer, "more\n", 5) == 5, path);
    must(stat(path, &after) == 0, path);
    FILE *file = fopen(out, "w");
    must(file != NULL, out);
    fprintf(file, "%s\n", before.st_ino == after.st_ino ? "same" : "another");
    while (read(reader, text, sizeof text - 1) > 0) {}
    fclose(file);
}

static void bind_socket(const char *path)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    must(fd >= 0 && bind(fd, (struct sockaddr *)&address, sizeof address) == 0, path);
}

static void punch(const char *path, const char *offset, const char *size)
{
    int fd = open(path, O_RDWR);
    must(fd >= 0, path);
    must(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, atol(offset), atol(size)) == 0, path);
}

static void set_times(const char *path, const char *seconds)
{
    struct timespec times[2] = {{.tv_sec = atol(seconds)}, {.tv_sec = atol(seconds)}};
    must(utimensat(AT_FDCWD, path, times, AT_SYMLINK_NOFOLLOW) == 0, path);
}

int main(int count, char **word)
{
    const char *what = count > 1 ? word[1] : "";
    if (count == 3 && !strcmp(what, "setcap")) setcap(word[2]);
    else if (count == 5 && !strcmp(what, "setxattr"))
        must(lsetxattr(word[2], word[3], word[4], strlen(word[4]), 0) == 0, word[2]);
    else if (count == 4 && !strcmp(what, "removexattr")) must(lremovexattr(word[2], word[3]) == 0, word[2]);
    else if (count == 4 && !strcmp(what, "sparse")) sparse(word[2], word[3]);
    else if (count == 5 && !strcmp(what, "rename")) rename_with(word[2], word[3], word[4]);
    else if (count == 4 && !strcmp(what, "plain-rename")) must(rename(word[2], word[3]) == 0, word[3]);
    else if (count == 4 && !strcmp(what, "unnamed")) link_unnamed(word[2], word[3]);
    else if (count == 3 && !strcmp(what, "map")) write_mapped(word[2]);
    else if (count == 3 && !strcmp(what, "unlinked")) write_unlinked(word[2]);
    else if (count == 4 && !strcmp(what, "change-open")) change_open(word[2], word[3]);
    else if (count == 3 && !strcmp(what, "socket")) bind_socket(word[2]);
    else if (count == 5 && !strcmp(what, "punch")) punch(word[2], word[3], word[4]);
    else if (count == 4 && !strcmp(what, "times")) set_times(word[2], word[3]);
    else {
        fprintf(stderr, "unknown: %s\n", what);
        return 2;
    }
    return 0;
}
