/* A program whose windows are known: `the_window` does one thing, again and again. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int request[2], answer[2];
static volatile int held;

static void sleep_ms(long ms)
{
	struct timespec length = { ms / 1000, ms % 1000 * 1000000 };
	nanosleep(&length, 0);
}

/* Of CPU time, so that a busy machine makes it longer and not shorter. */
__attribute__((noinline)) void spin_ms(long ms)
{
	struct timespec now;
	long long begun, passed;
	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
	begun = now.tv_sec * 1000000000LL + now.tv_nsec;
	do {
		for (volatile int i = 0; i < 20000; i++)
			;
		clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
		passed = now.tv_sec * 1000000000LL + now.tv_nsec - begun;
	} while (passed < ms * 1000000LL);
}

static void *holder(void *unused)
{
	(void)unused;
	pthread_setname_np(pthread_self(), "holder");
	for (;;) {
		pthread_mutex_lock(&lock);
		held = 1;
		sleep_ms(150);
		held = 0;
		pthread_mutex_unlock(&lock);
		sleep_ms(30);
	}
	return 0;
}

static void *peer(void *unused)
{
	char byte;
	(void)unused;
	pthread_setname_np(pthread_self(), "peer");
	while (read(request[0], &byte, 1) == 1) {
		sleep_ms(40);
		if (write(answer[1], &byte, 1) != 1)
			break;
	}
	return 0;
}

static void write_and_sync(const char *path)
{
	char *bytes = calloc(1, 4 << 20);
	int file = open(path, O_CREAT | O_WRONLY, 0600);
	if (write(file, bytes, 4 << 20) > 0)
		fsync(file);
	close(file);
	free(bytes);
	unlink(path);
}

__attribute__((noinline)) void the_window(const char *what, const char *path)
{
	char byte = 1;
	if (!strcmp(what, "sleep"))
		sleep_ms(40);
	else if (!strcmp(what, "nest")) {
		sleep_ms(20);
		the_window("inside", path);
		sleep_ms(40);
	} else if (!strcmp(what, "exit"))
		syscall(SYS_exit, 0);
	else if (!strcmp(what, "spin"))
		spin_ms(40);
	else if (!strcmp(what, "lock")) {
		pthread_mutex_lock(&lock);
		pthread_mutex_unlock(&lock);
	} else if (!strcmp(what, "pipe")) {
		if (write(request[1], &byte, 1) != 1 || read(answer[0], &byte, 1) != 1)
			abort();
	} else if (!strcmp(what, "fsync"))
		write_and_sync(path);
	__asm__ volatile("" ::: "memory");
}

static void *leaver(void *path)
{
	pthread_setname_np(pthread_self(), "leaver");
	the_window("exit", path);
	return 0;
}

static void *rare(void *path)
{
	pthread_setname_np(pthread_self(), "rare");
	for (;;) {
		sleep_ms(1500);
		the_window("sleep", path);
	}
	return 0;
}

int main(int count, char **words)
{
	pthread_t thread;
	if (count < 3 || pipe(request) || pipe(answer))
		return 2;
	if (!strcmp(words[1], "lock"))
		pthread_create(&thread, 0, holder, 0);
	if (!strcmp(words[1], "crowd"))
		pthread_create(&thread, 0, rare, words[2]);
	pthread_create(&thread, 0, peer, 0);
	for (;;) {
		if (strcmp(words[1], "hot") && strcmp(words[1], "crowd"))
			sleep_ms(150);
		while (!strcmp(words[1], "lock") && !held)
			sleep_ms(1);
		if (!strcmp(words[1], "exit"))
			pthread_create(&thread, 0, leaver, words[2]);
		else if (strcmp(words[1], "never"))
			the_window(words[1], words[2]);
	}
}
