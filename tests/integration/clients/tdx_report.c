/* A client of /dev/tdx_guest by the kernel's own description (Documentation/virt/coco/tdx-guest.rst and
 * linux/tdx-guest.h), without anything of tdxstack. It asks for a TDREPORT and checks what it gets.
 *
 * usage: tdx_report OUTPUT
 * exit status: 0 all as described; 2 usage; 3 no device; 4 the ioctl failed; 5 the report is not over our REPORTDATA;
 *              6 an unknown ioctl did not fail with ENOTTY; 7 read or write did not fail with EINVAL; 8 cannot write
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#define REPORTDATA_LEN 64
#define REPORT_LEN 1024

struct report_request {
	uint8_t reportdata[REPORTDATA_LEN];
	uint8_t tdreport[REPORT_LEN];
};

#define GET_REPORT0 _IOWR('T', 1, struct report_request)

static int fail(int status, const char *what)
{
	fprintf(stderr, "tdx_report: %s: %s\n", what, strerror(errno));
	return status;
}

int main(int argc, char **argv)
{
	struct report_request request;
	uint8_t small[8];
	FILE *out;
	int fd, i;

	if (argc != 2) {
		fprintf(stderr, "usage: tdx_report OUTPUT\n");
		return 2;
	}
	fd = open("/dev/tdx_guest", O_RDWR);
	if (fd < 0)
		return fail(3, "/dev/tdx_guest");
	memset(&request, 0, sizeof(request));
	for (i = 0; i < REPORTDATA_LEN; i++)
		request.reportdata[i] = (uint8_t)(0xa0 + i);
	if (ioctl(fd, GET_REPORT0, &request))
		return fail(4, "GET_REPORT0");
	if (memcmp(request.tdreport + 128, request.reportdata, REPORTDATA_LEN) || request.tdreport[0] != 0x81) {
		errno = 0;
		return fail(5, "TDREPORT");
	}
	errno = 0;
	if (ioctl(fd, _IO('T', 99)) != -1 || errno != ENOTTY)
		return fail(6, "unknown ioctl");
	errno = 0;
	if (ioctl(fd, _IOWR('T', 1, uint64_t), small) != -1 || errno != ENOTTY)
		return fail(6, "ioctl of another size");
	errno = 0;
	if (read(fd, small, sizeof(small)) != -1 || errno != EINVAL)
		return fail(7, "read");
	errno = 0;
	if (write(fd, small, sizeof(small)) != -1 || errno != EINVAL)
		return fail(7, "write");
	errno = 0;
	if (ioctl(fd, GET_REPORT0, NULL) != -1 || errno != EFAULT)
		return fail(4, "GET_REPORT0 without a buffer");
	out = fopen(argv[1], "wb");
	if (!out || fwrite(request.tdreport, REPORT_LEN, 1, out) != 1 || fclose(out))
		return fail(8, argv[1]);
	close(fd);
	return 0;
}
