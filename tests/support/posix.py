"""What Windows has not."""

from __future__ import annotations

MODULES = {"fcntl", "resource", "pwd", "grp", "termios", "pty", "tty", "syslog", "posix"}
_NAMES = {
    "os": (
        "fork forkpty openpty getuid geteuid getgid getegid getgroups setuid setgid setsid getsid "
        "getpgid setpgid getpgrp killpg mkfifo mknod statvfs fstatvfs sysconf confstr pathconf "
        "fchmod fchown chown lchown chroot nice getloadavg uname pread pwrite preadv pwritev "
        "posix_fallocate posix_fadvise posix_spawn sendfile copy_file_range wait waitid wait4 "
        "WNOHANG WIFSIGNALED O_DIRECTORY O_NOFOLLOW O_NONBLOCK O_CLOEXEC O_SYNC O_DSYNC O_TMPFILE "
        "sched_getaffinity sched_setaffinity register_at_fork ttyname memfd_create pidfd_open "
        "getxattr setxattr listxattr major minor sync fdatasync lockf"
    ),
    "signal": (
        "SIGHUP SIGKILL SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGCHLD SIGPIPE SIGTSTP SIGSTOP SIGCONT "
        "SIGWINCH SIG_BLOCK SIG_UNBLOCK SIG_SETMASK alarm setitimer pause pthread_kill "
        "pthread_sigmask sigwait sigwaitinfo sigtimedwait siginterrupt sigpending"
    ),
    "time": "tzset clock_gettime clock_gettime_ns",
    "select": "poll epoll kqueue",
    "socket": "AF_UNIX socketpair",
    "multiprocessing": "get_context set_start_method",
}
ATTRIBUTES = {module: set(names.split()) for module, names in _NAMES.items()}
"""What of these modules Windows has not, or, of multiprocessing, has one way of alone."""
