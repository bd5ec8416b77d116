/*
 * The built-in guest: dirties its memory on command, so that a test can say what a snapshot must hold.
 *
 * It is C because it must be free of SSE (a KVM that emulates guests has none) and a stable Rust
 * toolchain has no `core` compiled without it; -mgeneral-regs-only makes the compiler keep to that.
 *
 * Commands are lines on the first serial port; numbers are decimal, a page is 4096 bytes, and page N is
 * the N-th page of guest memory as it lies in a memory file (the hole below 4 GiB is not counted):
 *
 *   pages                      ok pages FIRST END            the pages that commands may touch, END excluded
 *   dirty FIRST COUNT SEED     ok dirty FIRST COUNT SEED     writes words keyed by SEED and page to each page
 *   zero FIRST COUNT           ok zero FIRST COUNT           fills each page with zeros
 *   sum FIRST COUNT            ok sum FIRST COUNT HEX        64-bit checksum of the pages, in order
 *   beat                       ok beat TICKS                 a counter that advances 50 times a second
 *
 * Anything else is answered with `err ` and a reason. `ready` is printed once, after boot.
 * guest/src/model.rs computes the same page contents and checksums; the two must agree.
 */

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long u64;

#define PAGE_BYTES 4096ul
#define WORDS_PER_PAGE (PAGE_BYTES / 8)
#define WORDS_PER_SECTOR 64ul
#define FIRST_PAGE 1024ul /* 4 MiB: above the image and its page tables */
#define FOUR_GIB (1ul << 32)
#define MAX_GIB 68ul /* 64 GiB of memory and the hole below 4 GiB */
#define TICKS_PER_SECOND 50u

/* ---- the processor ---- */

static inline void out8(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static inline u8 in8(u16 port)
{
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline void mmio_write(u64 address, u32 value)
{
    __asm__ volatile("movl %0, (%1)" ::"r"(value), "r"(address) : "memory");
}

__asm__(".section .text.start, \"ax\"\n"
        ".global _start\n"
        "_start:\n"
        "  cli\n"
        "  movabs $boot_stack_top, %rsp\n"
        "  movq %rsi, %rdi\n" /* the boot protocol's zero page */
        "  call run\n"
        "1: hlt\n"
        "  jmp 1b\n"
        ".section .bss\n"
        ".balign 16\n"
        "  .skip 8192\n"
        "boot_stack_top:\n"
        ".text\n");

/* ---- memory: everything identity-mapped with 2 MiB pages ---- */

static u64 pml4[512] __attribute__((aligned(4096)));
static u64 pdpt[512] __attribute__((aligned(4096)));
static u64 directories[MAX_GIB][512] __attribute__((aligned(4096)));

static u64 low_end;  /* end of memory below the hole */
static u64 high_end; /* end of memory above 4 GiB, or 0 */
static u64 end_page;

/* e820 entries in the zero page: count at 0x1e8, 20-byte entries from 0x2d0 (Linux Documentation/arch/x86/zero-page.rst). */
static void read_memory_map(const u8 *zero_page)
{
    u8 entries = zero_page[0x1e8];
    for (u8 i = 0; i < entries; i++) {
        const u8 *entry = zero_page + 0x2d0 + 20ul * i;
        u64 start = *(const u64 *)entry, bytes = *(const u64 *)(entry + 8);
        u32 kind = *(const u32 *)(entry + 16);
        if (kind != 1)
            continue;
        u64 end = start + bytes;
        if (start >= FOUR_GIB)
            high_end = end > high_end ? end : high_end;
        else
            low_end = end > low_end ? end : low_end;
    }
    u64 bytes = low_end + (high_end ? high_end - FOUR_GIB : 0);
    end_page = bytes / PAGE_BYTES;
}

static void map_memory(void)
{
    u64 gib = high_end ? (high_end + (1ul << 30) - 1) >> 30 : 4; /* 4: the interrupt controllers lie below 4 GiB */
    if (gib > MAX_GIB)
        gib = MAX_GIB;
    for (u64 g = 0; g < gib; g++) {
        for (u64 i = 0; i < 512; i++)
            directories[g][i] = (g << 30 | i << 21) | 0x83; /* present, writable, 2 MiB */
        pdpt[g] = (u64)directories[g] | 3;
    }
    pml4[0] = (u64)pdpt | 3;
    __asm__ volatile("movq %0, %%cr3" ::"r"((u64)pml4) : "memory");
}

static u64 *page_address(u64 page)
{
    u64 offset = page * PAGE_BYTES;
    return (u64 *)(offset < low_end ? offset : FOUR_GIB + (offset - low_end));
}

/* ---- interrupts: one timer, one serial port; idle is `hlt`, so a waiting guest costs no CPU ---- */

#define LAPIC 0xfee00000ul
#define IOAPIC 0xfec00000ul
#define TIMER_VECTOR 0x20
#define SERIAL_VECTOR 0x24
#define SERIAL_IRQ 4

struct interrupt_frame;
struct gate {
    u16 offset_low, selector;
    u8 stack, flags;
    u16 offset_middle;
    u32 offset_high, reserved;
} __attribute__((packed));

static struct gate gates[256];
static volatile u64 ticks;

static void end_of_interrupt(void) { mmio_write(LAPIC + 0xb0, 0); }

__attribute__((interrupt)) static void on_timer(struct interrupt_frame *frame)
{
    (void)frame;
    ticks++;
    end_of_interrupt();
}

__attribute__((interrupt)) static void on_serial(struct interrupt_frame *frame)
{
    (void)frame; /* it only ends the `hlt`: the main loop reads the port */
    end_of_interrupt();
}

__attribute__((interrupt)) static void on_spurious(struct interrupt_frame *frame) { (void)frame; }

static void set_gate(u32 vector, void (*handler)(struct interrupt_frame *))
{
    u64 address = (u64)handler;
    u16 code_segment;
    __asm__("movw %%cs, %0" : "=r"(code_segment));
    gates[vector] = (struct gate){ address, code_segment, 0, 0x8e, address >> 16, address >> 32, 0 };
}

static void start_interrupts(void)
{
    set_gate(TIMER_VECTOR, on_timer);
    set_gate(SERIAL_VECTOR, on_serial);
    set_gate(0xff, on_spurious);
    struct { u16 limit; u64 base; } __attribute__((packed)) descriptor = { sizeof gates - 1, (u64)gates };
    __asm__ volatile("lidt %0" ::"m"(descriptor));

    out8(0x21, 0xff); /* mask both legacy interrupt controllers */
    out8(0xa1, 0xff);
    mmio_write(LAPIC + 0xf0, 0x1ff);                              /* software enable, spurious vector 0xff */
    mmio_write(LAPIC + 0x3e0, 0xb);                               /* divide by 1 */
    mmio_write(LAPIC + 0x320, 1u << 17 | TIMER_VECTOR);           /* periodic */
    mmio_write(LAPIC + 0x380, 1000000000u / TICKS_PER_SECOND);    /* KVM's APIC bus runs at 1 GHz */
    mmio_write(IOAPIC, 0x10 + 2 * SERIAL_IRQ + 1);
    mmio_write(IOAPIC + 0x10, 0);                                 /* to processor 0 */
    mmio_write(IOAPIC, 0x10 + 2 * SERIAL_IRQ);
    mmio_write(IOAPIC + 0x10, SERIAL_VECTOR);                     /* edge-triggered, not masked */
}

/* ---- the serial port ---- */

#define PORT 0x3f8
#define LINE_STATUS (PORT + 5)

static void start_serial(void)
{
    out8(PORT + 1, 1); /* interrupt when a byte has come */
    out8(PORT + 4, 0x0b);
}

static void put(char c)
{
    while (!(in8(LINE_STATUS) & 0x20))
        ;
    out8(PORT, (u8)c);
}

static void say(const char *text)
{
    while (*text)
        put(*text++);
}

static void say_decimal(u64 value)
{
    char digits[20];
    u32 n = 0;
    do
        digits[n++] = (char)('0' + value % 10);
    while (value /= 10);
    while (n)
        put(digits[--n]);
}

static void say_hex(u64 value)
{
    for (int shift = 60; shift >= 0; shift -= 4)
        put("0123456789abcdef"[value >> shift & 15]);
}

static char get(void)
{
    for (;;) {
        __asm__ volatile("cli");
        if (in8(LINE_STATUS) & 1) {
            __asm__ volatile("sti");
            return (char)in8(PORT);
        }
        /* `sti` takes effect after the next instruction: a byte that comes in between still ends the hlt. */
        __asm__ volatile("sti; hlt");
    }
}

/* ---- page contents and checksums: the same as in guest/src/model.rs ---- */

static u64 scramble(u64 x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ul;
    x = (x ^ x >> 27) * 0x94d049bb133111ebul;
    return x ^ x >> 31;
}

/*
 * One keyed word in each 512-byte sector, and never anything else: a lost or torn write shows in every
 * sector, and a KVM that emulates every instruction still dirties tens of thousands of pages a second.
 */
static void fill_page(u64 page, u64 seed)
{
    u64 *words = page_address(page);
    u64 key = scramble(seed) ^ scramble(~page);
    for (u64 i = 0; i < WORDS_PER_PAGE; i += WORDS_PER_SECTOR)
        words[i] = key += 0x9e3779b97f4a7c15ul;
}

static void zero_page(u64 page)
{
    volatile u64 *words = page_address(page);
    for (u64 i = 0; i < WORDS_PER_PAGE; i += WORDS_PER_SECTOR)
        words[i] = 0;
}

static u64 add_page(u64 sum, u64 page)
{
    const u64 *words = page_address(page);
#pragma GCC unroll 16
    for (u64 i = 0; i < WORDS_PER_PAGE; i++) {
        sum ^= words[i];
        sum = (sum << 29 | sum >> 35) * 0x9e3779b97f4a7c15ul;
    }
    return sum;
}

/* ---- commands ---- */

static const char *take_word(const char *line, const char *word)
{
    while (*word)
        if (*line++ != *word++)
            return 0;
    return *line == ' ' || *line == 0 ? line : 0;
}

/* Reads one number after a space; 0 where there is none or it does not fit. */
static const char *take_number(const char *line, u64 *value)
{
    if (!line || *line++ != ' ' || *line < '0' || *line > '9')
        return 0;
    for (*value = 0; *line >= '0' && *line <= '9'; line++)
        if (__builtin_mul_overflow(*value, 10ul, value) || __builtin_add_overflow(*value, (u64)(*line - '0'), value))
            return 0;
    return line;
}

static u64 first, count, seed;

/* Reads FIRST COUNT, and SEED where asked for; says what is wrong with them. */
static int take_pages(const char *rest, int with_seed)
{
    rest = take_number(take_number(rest, &first), &count);
    if (with_seed)
        rest = take_number(rest, &seed);
    if (!rest || *rest) {
        say("err expected FIRST COUNT");
        say(with_seed ? " SEED\n" : "\n");
        return 0;
    }
    if (first < FIRST_PAGE || first >= end_page || count > end_page - first) {
        say("err pages outside of ");
        say_decimal(FIRST_PAGE);
        say(" to ");
        say_decimal(end_page);
        put('\n');
        return 0;
    }
    return 1;
}

static void say_pages(const char *what)
{
    say(what);
    say_decimal(first);
    put(' ');
    say_decimal(count);
}

static void obey(const char *line)
{
    const char *rest;
    if ((rest = take_word(line, "dirty"))) {
        if (!take_pages(rest, 1))
            return;
        for (u64 i = 0; i < count; i++)
            fill_page(first + i, seed);
        say_pages("ok dirty ");
        put(' ');
        say_decimal(seed);
    } else if ((rest = take_word(line, "zero"))) {
        if (!take_pages(rest, 0))
            return;
        for (u64 i = 0; i < count; i++)
            zero_page(first + i);
        say_pages("ok zero ");
    } else if ((rest = take_word(line, "sum"))) {
        if (!take_pages(rest, 0))
            return;
        u64 sum = 0xcbf29ce484222325ul;
        for (u64 i = 0; i < count; i++)
            sum = add_page(sum, first + i);
        say_pages("ok sum ");
        put(' ');
        say_hex(sum);
    } else if ((rest = take_word(line, "beat")) && !*rest) {
        say("ok beat ");
        say_decimal(ticks);
    } else if ((rest = take_word(line, "pages")) && !*rest) {
        first = FIRST_PAGE;
        count = end_page;
        say_pages("ok pages ");
    } else {
        say("err no such command: use pages, dirty, zero, sum or beat");
    }
    put('\n');
}

static char line[256];

/* Reads a line without its end; a line that does not fit is read to its end and answered with `err`. */
static void read_line(void)
{
    for (;;) {
        u64 length = 0;
        int fits = 1;
        for (char c = get(); c != '\n'; c = get()) {
            if (c == '\r')
                continue;
            if (length < sizeof line - 1)
                line[length++] = c;
            else
                fits = 0;
        }
        line[length] = 0;
        if (fits)
            return;
        say("err line longer than 255 bytes\n");
    }
}

__attribute__((used)) void run(const u8 *boot_zero_page)
{
    read_memory_map(boot_zero_page);
    map_memory();
    start_interrupts();
    start_serial();
    __asm__ volatile("sti");
    say("ready\n");
    for (;;) {
        read_line();
        obey(line);
    }
}
