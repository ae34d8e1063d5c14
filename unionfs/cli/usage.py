"""What ``unionmount --help`` shows. docs/unionmount.md says more of each option; a test compares the two."""

from __future__ import annotations

UNIONMOUNT = """\
usage: unionmount dirs=BRANCH[=rw|ro|nfsro][:BRANCH…] MOUNTPOINT
       unionmount -o OPTION[,OPTION…] MOUNTPOINT
       unionmount SOURCE MOUNTPOINT -o OPTION[,OPTION…]

  -o OPTIONS     options, as below; may be there several times
  -f             stay in the foreground
  -d             stay in the foreground and log every request
  -h, --help     show this
  -V, --version  show the version

options; \\: \\, \\= and \\\\ stand for the second character:

  dirs=BRANCH[=rw|ro|nfsro][:BRANCH…]       the branches, top first; rw without a mode
  lowerdir=DIRECTORY[:DIRECTORY…]           read-only branches, top first, in overlay's words
  upperdir=DIRECTORY                        the writable branch above them
  workdir=DIRECTORY                         accepted and not used
  delete=whiteout|all|first                 what becomes of the instances of a removed name
  create=parent|top|mfs|rr                  which branch gets a new entry
  copyup=preserve|currentuser|mounter       owner and mode of a file that is copied up
  copyupuid=UID                             with copyup=mounter: its owner,
  copyupgid=GID                             its group,
  copyupmode=OCTAL                          and its mode
  whiteouts=aufs|overlay                    the form of whiteout that is written
  redirect=on|off                           off: renaming a directory on a lower branch fails with EXDEV
  ro                                        nothing can be changed
  rw                                        the opposite (default)
  volatile                                  fsync is answered without work
  timeout=SECONDS                           others change the branches too: names are trusted that long
  inodes=fast|stable                        stable: the same inode numbers in the next mount
  uidmapping=STORED:SHOWN:LENGTH[:…]        user ids of the branches and what is shown for them
  gidmapping=STORED:SHOWN:LENGTH[:…]        the same of groups
  squash_to_uid=UID                         everything is shown as owned by this user
  squash_to_gid=GID                         everything is shown as owned by this group
  squash_to_root                            everything is shown as owned by root
  xattr_permissions=0|1|2                   where owner and mode are kept: inode, security.*, user.*
  snapdir=DIRECTORY                         where snapshots lie; beside the top branch without
  at=SNAPSHOT                               the union as it was then, read-only
  transport=auto|direct|pyfuse3             how requests travel
  passthrough=auto|fast|off                 whether the kernel reads and writes files by itself
  allow_other                               other users may look into it (default for root)
  nodev, dev                                devices are none, or are
  nosuid, suid                              setuid means nothing, or does
  noexec, exec                              nothing can be run, or can
  noatime, atime                            reading does not change access times, or does
  fsname=TEXT                               the source that the list of mounts shows
  subtype=TEXT                              the type that it shows, after fuse.
  context="LABEL"                           the SELinux label of everything
  cow, default_permissions, nonempty        accepted: they are so anyway

docs/unionmount.md and unionmount(8) say more.
"""
