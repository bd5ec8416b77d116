// Sleeps for ever, 5 ms at a time, at the end of a known chain of calls. KIND says which.
#define _GNU_SOURCE
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define KEEP __attribute__((noinline, noclone))

static const struct timespec nap = { 0, 5000000 };

// nanosleep(2) as a C library writes it by hand: saved registers, a frame of its own, two ways out, and no
// call frame information.
long wait_stub(const struct timespec *time);
__asm__(
    ".text\n.globl wait_stub\n.type wait_stub, @function\nwait_stub:\n"
    "  push %rbx\n  push %rbp\n  push %r12\n  sub $0x28, %rsp\n"
    "  mov $0x1234, %ebp\n  mov %rsp, %rbx\n  xor %esi, %esi\n  mov $35, %eax\n  syscall\n"
    "  test %rax, %rax\n  js 1f\n  add $0x28, %rsp\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n"
    "1: mov $-1, %rax\n  lea 0x28(%rsp), %rsp\n  pop %r12\n  pop %rbp\n  pop %rbx\n  ret\n"
    ".size wait_stub, . - wait_stub\n");

KEEP int c(int n) { return (int)wait_stub(&nap) + n; }
KEEP int b(int n) { return c(n + 1) + 1; }
KEEP int a(int n) { return b(n + 1) + 1; }

// Two callers of one function whose frame hides the return address beyond the first page.
KEEP int large(int n) {
    volatile char room[9000];
    room[n] = (char)n;
    return (int)wait_stub(&nap) + room[n];
}
KEEP int left(int n) { return large(n + 1) + 1; }
KEEP int right(int n) { return large(n + 1) + 1; }

KEEP int deep(int n) {
    volatile char room[1000];
    room[n % 1000] = (char)n;
    return n == 0 ? (int)wait_stub(&nap) : deep(n - 1) + room[n % 1000];
}

KEEP void on_signal(int signal) { a(signal); }
KEEP void interrupted(void) { raise(SIGUSR1); }
static void *in_thread(void *nothing) { for (;;) a(1); return nothing; }

int main(void) {
    const char *kind = KIND;
    pthread_t thread;
    if (strcmp(kind, "thread") == 0) {
        signal(SIGUSR1, on_signal);
        pthread_create(&thread, 0, in_thread, 0);
        for (;;) interrupted();
    }
    if (strcmp(kind, "large") == 0) for (;;) { left(1); right(1); }
    if (strcmp(kind, "deep") == 0) for (;;) deep(60);
    for (;;) a(1);
}
