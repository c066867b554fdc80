/* Lets Debian's user-mode Linux 6.1 run on a processor with AMX; loaded with LD_PRELOAD.
 *
 * That kernel sets the vector registers of its processes from a buffer of a fixed size. A host whose processor has
 * AMX refuses a buffer that is shorter than all registers, and the kernel panics at the first process. Here such a
 * buffer is put over what the host has for the process, and the whole is set. No process there uses AMX.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static long set_vector_registers(pid_t pid, void *kind, const struct iovec *given) {
    static __thread char all[1 << 15];
    struct iovec whole = {all, sizeof all};
    if (syscall(SYS_ptrace, PTRACE_GETREGSET, pid, kind, &whole) < 0)
        return -1;
    memcpy(all, given->iov_base, given->iov_len < whole.iov_len ? given->iov_len : whole.iov_len);
    return syscall(SYS_ptrace, PTRACE_SETREGSET, pid, kind, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list arguments;
    va_start(arguments, request);
    pid_t pid = va_arg(arguments, pid_t);
    void *address = va_arg(arguments, void *);
    void *data = va_arg(arguments, void *);
    va_end(arguments);
    if (request == PTRACE_SETREGSET && (long)address == NT_X86_XSTATE)
        return set_vector_registers(pid, address, data);
    if (request != PTRACE_PEEKTEXT && request != PTRACE_PEEKDATA && request != PTRACE_PEEKUSER)
        return syscall(SYS_ptrace, request, pid, address, data);
    /* the system call stores what it has read; the function of the C library returns it */
    long read;
    if (syscall(SYS_ptrace, request, pid, address, &read) < 0)
        return -1;
    errno = 0;
    return read;
}
