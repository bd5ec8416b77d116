// Sleeps for ever, 5 ms at a time, at the end of a known chain of calls or on a futex word. KIND says which.
#define _GNU_SOURCE
#include <linux/futex.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
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

KEEP int from_jit(void) { return a(1) + 1; }

// A function made at run time, with a frame pointer, and its name where run-time compilers write names.
typedef int function(int (*)(void));
static function *make(void) {
    // push rbp; mov rbp,rsp; call rdi; pop rbp; ret
    static const unsigned char code[] = { 0x55, 0x48, 0x89, 0xe5, 0xff, 0xd7, 0x5d, 0xc3 };
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    char name[64];
    memcpy(page, code, sizeof code);
    snprintf(name, sizeof name, "/tmp/perf-%d.map", (int)getpid());
    FILE *map = fopen(name, "w");
    fprintf(map, "%lx %lx made at run time\n", (unsigned long)page, (unsigned long)sizeof code);
    fclose(map);
    return (function *)page;
}

// Nobody wakes it.
static int zeroed_words[4];
static void wait_for_word(void) {
    syscall(SYS_futex, &zeroed_words[2], FUTEX_WAIT | FUTEX_PRIVATE_FLAG, 0, &nap, 0, 0);
}

int main(void) {
    const char *kind = KIND;
    pthread_t thread;
    if (strcmp(kind, "thread") == 0) {
        signal(SIGUSR1, on_signal);
        pthread_create(&thread, 0, in_thread, 0);
        for (;;) interrupted();
    }
    if (strcmp(kind, "jit") == 0) {
        function *made = make();
        for (;;) made(from_jit);
    }
    if (strcmp(kind, "word") == 0) for (;;) wait_for_word();
    if (strcmp(kind, "large") == 0) for (;;) { left(1); right(1); }
    if (strcmp(kind, "deep") == 0) for (;;) deep(60);
    for (;;) a(1);
}
