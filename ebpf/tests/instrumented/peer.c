// SPDX-License-Identifier: (GPL-2.0-only OR BSD-2-Clause)
/*
 * A process that does what it is told, one line of its standard input at a time, and answers each line with a
 * number: what it says of its threads, and how, is for the tests of the source `thread`, which compile it in
 * several forms. BARE: without the variable; LIBRARY: the variable alone.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define LENGTH	8192
#define PAYLOAD 4096

/* OpenTelemetry's OTEP 4947. */
struct record {
	uint8_t ids[24];
	uint8_t valid, flags;
	uint16_t attributes;
};

#ifndef BARE
__thread struct record *otel_thread_ctx_v1;
#endif

#ifdef LIBRARY

/* With enough of it the dynamic linker finds no room in the block that each thread has from its start. */
__thread char much[LIBRARY];

void set_context(struct record *record)
{
	much[0]++;
	otel_thread_ctx_v1 = record;
}

#else

/* OTEP 4719. */
struct header {
	char signature[8];
	uint32_t version, size;
	uint64_t published, payload;
};

#ifdef BARE
static void (*set_context)(struct record *);
#else
static void set_context(struct record *record)
{
	otel_thread_ctx_v1 = record;
}
#endif

static struct header *published;
static int memory, connection = -1;

/* What protobuf makes of a resource without attributes, and of the schema of thread contexts. */
static const char message[] =
	"\x0a\x02\x10\x00\x12\x2e\x0a\x1athreadlocal.schema_version\x12\x10\x0a\x0etlsdesc_v1_dev";

/* `VERSION SIZE PAYLOAD`; 0: as it ought to be. */
static long publish(const char *rest)
{
	unsigned long version = 0, size = 0, payload = 0;

	sscanf(rest, "%lu %lu %lx", &version, &size, &payload);
	memory = memfd_create("OTEL_CTX", MFD_CLOEXEC);
	if (memory < 0 || ftruncate(memory, LENGTH))
		return -errno;
	published = mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	if (published == MAP_FAILED || madvise(published, LENGTH, MADV_DONTFORK))
		return -errno;
	memcpy((char *)published + PAYLOAD, message, sizeof(message));
	memcpy(published->signature, "OTEL_CTX", 8);
	published->version = version ?: 2;
	published->size = size ?: sizeof(message) - 1;
	published->payload = payload ?: (uintptr_t)published + PAYLOAD;
	__atomic_store_n(&published->published, 1, __ATOMIC_RELEASE);
	return 0;
}

/* Says something else all the time, and at times nothing. */
static int flickers;

static void *flicker(void *unused)
{
	for (uint64_t i = 2;; i++) {
		__atomic_store_n(&published->published, 0, __ATOMIC_RELEASE);
		memset((char *)published + PAYLOAD, (int)i, sizeof(message));
		published->size = i % LENGTH;
		__atomic_store_n(&published->published, i, __ATOMIC_RELEASE);
		__atomic_store_n(&flickers, 1, __ATOMIC_RELEASE);
	}
	return unused;
}

static void *serve(void *unused);

/* Somebody else goes on with what is told, until the `end`. */
static long start(void *(*as)(void *), int wait)
{
	pthread_t thread;
	int error = pthread_create(&thread, NULL, as, NULL);

	if (error)
		return -error;
	return wait ? pthread_join(thread, NULL) : 0;
}

/* What was published before is right: it has to be gone. */
static long start_flickering(void)
{
	long error = start(flicker, 0);

	while (!error && !__atomic_load_n(&flickers, __ATOMIC_ACQUIRE))
		sched_yield();
	return error;
}

/* The child goes on with what is told. */
static long split(void)
{
	pid_t child = fork();
	int status;

	if (child <= 0)
		return child ? -errno : getpid();
	waitpid(child, &status, 0);
	_exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}

static long load(const char *library)
{
#ifdef BARE
	void *handle = dlopen(library, RTLD_NOW);

	*(void **)&set_context = handle ? dlsym(handle, "set_context") : NULL;
	return set_context ? 0 : -1;
#else
	return library ? -1 : 0;
#endif
}

/* Something that only looks like a library. */
static long map(const char *file)
{
	int fd = open(file, O_RDONLY | O_CLOEXEC);

	return fd < 0 || mmap(NULL, 1 << 20, PROT_READ, MAP_PRIVATE, fd, 0) == MAP_FAILED ? -errno : 0;
}

/* To a port of the loopback interface; the descriptor, or the error. */
static long join(const char *port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};

	to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	close(connection);
	connection = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	return connect(connection, (void *)&to, sizeof(to)) ? -errno : connection;
}

static long enter(const char *ids)
{
	struct record *record = calloc(1, sizeof(*record));
	unsigned int byte;

	for (int i = 0; i < 24 && sscanf(ids + 2 * i, "%2x", &byte) == 1; i++)
		record->ids[i] = byte;
	record->valid = record->flags = 1;
	set_context(record);
	return 0;
}

static long leave(void)
{
	set_context(NULL);
	return 0;
}

static long obey(const char *word, const char *rest)
{
	if (!strcmp(word, "publish"))
		return publish(rest);
	if (!strcmp(word, "flicker"))
		return start_flickering();
	if (!strcmp(word, "shrink"))
		return ftruncate(memory, 0);
	if (!strcmp(word, "hide"))
		return mprotect(published, LENGTH, PROT_NONE);
	if (!strcmp(word, "load"))
		return load(rest);
	if (!strcmp(word, "map"))
		return map(rest);
	if (!strcmp(word, "connect"))
		return join(rest);
	if (!strcmp(word, "send"))
		return send(connection, "x", 1, 0);
	if (!strcmp(word, "enter"))
		return enter(rest);
	if (!strcmp(word, "leave"))
		return leave();
	if (!strcmp(word, "thread"))
		return start(serve, 1);
	if (!strcmp(word, "fork"))
		return split();
	if (!strcmp(word, "exec"))
		return execl("/proc/self/exe", "peer", NULL);
	return -ENOSYS;
}

static void answer(long number)
{
	printf("%ld\n", number);
	fflush(stdout);
}

/* It begins with an answer, to whoever started it. */
static void *serve(void *unused)
{
	char line[512], word[16], rest[480];

	answer(getpid());
	while (fgets(line, sizeof(line), stdin)) {
		*rest = 0;
		if (sscanf(line, "%15s %479[^\n]", word, rest) < 1)
			continue;
		if (!strcmp(word, "end"))
			break;
		answer(obey(word, rest));
	}
	return unused;
}

int main(void)
{
	serve(NULL);
	return 0;
}

#endif
