/* A wall clock that is off by the seconds in the file $CLOCK_OFFSET; monotonic clocks stay true. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t clock, struct timespec *now) {
  char text[32] = {0};
  int result = syscall(SYS_clock_gettime, clock, now), file;
  if (clock == CLOCK_REALTIME && (file = open(getenv("CLOCK_OFFSET"), O_RDONLY)) >= 0) {
    if (read(file, text, sizeof text - 1) > 0) now->tv_sec += atol(text);
    close(file);
  }
  return result;
}
