"""The numbers of system calls on both machine types, for escape attempts. Sources: the kernel's unistd.h."""

from __future__ import annotations

import platform

from sandbox.engines.quickjs.host.filter import Machine

NUMBERS: dict[Machine, dict[str, int]] = {
    "x86_64": {
        "accept": 43, "add_key": 248, "bind": 49, "bpf": 321, "capset": 126, "chdir": 80, "chroot": 161,
        "clock_gettime": 228, "clone": 56, "clone3": 435, "connect": 42, "creat": 85, "dup2": 33, "dup3": 292,
        "execve": 59, "execveat": 322, "fcntl": 72, "fork": 57, "fsopen": 430, "futex": 202, "getpid": 39,
        "gettimeofday": 96, "init_module": 175, "inotify_init": 253, "inotify_init1": 294, "io_uring_enter": 426,
        "io_uring_setup": 425, "ioctl": 16, "ioperm": 173, "kexec_load": 246, "keyctl": 250, "kill": 62,
        "memfd_create": 319, "mmap": 9, "modify_ldt": 154, "mount": 165, "mprotect": 10, "mq_open": 240, "msgget": 68,
        "name_to_handle_at": 303, "open": 2, "open_tree": 428, "openat": 257, "openat2": 437, "perf_event_open": 298,
        "personality": 135, "pidfd_getfd": 438, "pidfd_open": 434, "pidfd_send_signal": 424, "pivot_root": 155,
        "pkey_alloc": 330, "pkey_mprotect": 329, "prctl": 157, "prlimit64": 302, "process_vm_readv": 310,
        "process_vm_writev": 311, "ptrace": 101, "quotactl": 179, "read": 0, "reboot": 169, "recvmsg": 47,
        "rt_sigqueueinfo": 129, "sched_setaffinity": 203, "sched_setscheduler": 144, "seccomp": 317, "semget": 64,
        "sendmsg": 46, "sendto": 44, "setitimer": 38, "setns": 308, "setpriority": 141, "setrlimit": 160,
        "settimeofday": 164, "setuid": 105, "shmget": 29, "shutdown": 48, "socket": 41, "socketpair": 53,
        "swapon": 167, "syslog": 103, "tgkill": 234, "timer_delete": 226, "timer_settime": 223, "tkill": 200,
        "umount2": 166, "unshare": 272, "userfaultfd": 323, "vfork": 58, "wait4": 61, "write": 1,
    },
    "aarch64": {
        "accept": 202, "add_key": 217, "bind": 200, "bpf": 280, "capset": 91, "chdir": 49, "chroot": 51,
        "clock_gettime": 113, "clone": 220, "clone3": 435, "connect": 203, "dup3": 24, "execve": 221, "execveat": 281,
        "fcntl": 25, "fsopen": 430, "futex": 98, "getpid": 172, "gettimeofday": 169, "init_module": 105,
        "inotify_init1": 26, "io_uring_enter": 426, "io_uring_setup": 425, "ioctl": 29, "kexec_load": 104,
        "keyctl": 219, "kill": 129, "memfd_create": 279, "mmap": 222, "mount": 40, "mprotect": 226, "mq_open": 180,
        "msgget": 186, "name_to_handle_at": 264, "open_tree": 428, "openat": 56, "openat2": 437,
        "perf_event_open": 241, "personality": 92, "pidfd_getfd": 438, "pidfd_open": 434, "pidfd_send_signal": 424,
        "pivot_root": 41, "pkey_alloc": 289, "pkey_mprotect": 288, "prctl": 167, "prlimit64": 261,
        "process_vm_readv": 270, "process_vm_writev": 271, "ptrace": 117, "quotactl": 60, "read": 63, "reboot": 142,
        "recvmsg": 212, "rt_sigqueueinfo": 138, "sched_setaffinity": 122, "sched_setscheduler": 119, "seccomp": 277,
        "semget": 190, "sendmsg": 211, "sendto": 206, "setitimer": 103, "setns": 268, "setpriority": 140,
        "setrlimit": 164, "settimeofday": 170, "setuid": 146, "shmget": 194, "shutdown": 210, "socket": 198,
        "socketpair": 199, "swapon": 224, "syslog": 116, "tgkill": 131, "timer_delete": 111, "timer_settime": 110,
        "tkill": 130, "umount2": 39, "unshare": 97, "userfaultfd": 282, "wait4": 260, "write": 64,
    },
}  # fmt: skip
"""arm64 does not have all of the calls: it has only the successors of the oldest ones."""

OURS = NUMBERS["x86_64" if platform.machine() == "x86_64" else "aarch64"]


def exists(words: str) -> bool:
    """Return whether this machine has the system call that the words name."""
    name = words.split()[0]
    return name in OURS or name not in NUMBERS["x86_64"]


def numbered(words: str) -> str:
    """Replace the name of a system call, the first of the words, by its number. A number stays."""
    name, *arguments = words.split()
    return " ".join([str(OURS.get(name, name)), *arguments])
