/* libpcap's own loop over a capture file: pcap_loop FILE TIMES prints the packets and the seconds. */
#include <pcap/pcap.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static void count(u_char *packets, const struct pcap_pkthdr *header, const u_char *data)
{
    (void)header;
    (void)data;
    ++*(unsigned long *)packets;
}

static double now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

static void loop(const char *file, unsigned long *packets)
{
    char errbuf[PCAP_ERRBUF_SIZE];
    pcap_t *pcap = pcap_open_offline(file, errbuf);
    if (pcap == NULL || pcap_loop(pcap, -1, count, (u_char *)packets) < 0) {
        fprintf(stderr, "%s\n", pcap ? pcap_geterr(pcap) : errbuf);
        exit(1);
    }
    pcap_close(pcap);
}

int main(int argc, char **argv)
{
    long times = argc == 3 ? atol(argv[2]) : 0;
    unsigned long packets = 0;
    double began = now();
    while (times-- > 0)
        loop(argv[1], &packets);
    printf("%lu %.9f\n", packets, now() - began);
    return 0;
}
